"""Files that stages hand on: a damaged or foreign one is named when the run goes on, a missing one made again."""

import importlib
import json
import os
import shutil

import onnx
import pytest
from click.testing import CliRunner
from small import small_recipe

from compressor.cli.root import main
from compressor.errors import CompressorError, RunError
from compressor.files import sha256_of
from compressor.pipeline.run_folder import intact
from compressor.pipeline.runner import continue_run, run
from compressor.recipe import parse_recipe

LEFT = ["search.json", "architecture.json", "training.json", "weights.safetensors", "export.json", "model.onnx"]
LEFT += ["latency.json", "baselines/uniform/model.onnx", "baselines/uniform/weights.safetensors"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick_export, no_figures):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(parse_recipe(small_recipe(baselines=["uniform"])), folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_the_sums_of_all_that_stages_left_are_kept(finished):
    sums = json.loads((finished / "stages.json").read_text())["files"]
    assert set(LEFT) <= set(sums)


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("spoil", [lambda raw: b"{}", lambda raw: raw[: len(raw) // 2], lambda raw: raw + b" "])
def test_a_file_that_is_not_what_its_stage_left_is_named(folder, name, spoil):
    file = folder / name
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(CompressorError) as caught:
        continue_run(folder, "report")
    assert str(caught.value).startswith(f"{file}: was damaged or changed: ")


@pytest.mark.parametrize("name", ["model.onnx", "latency.json", "baselines/uniform/model.onnx"])
def test_a_file_that_is_deleted_is_made_again(folder, name, no_figures):
    (folder / name).unlink()
    continue_run(folder, "report")
    assert (folder / name).is_file()
    if name.endswith(".onnx"):
        onnx.checker.check_model(onnx.load(folder / name))
    continue_run(folder, "report")  # its sum is the new one's


def test_a_file_that_is_made_again_may_be_left_half_way(folder, finished, no_figures):
    """A kill between a stage's files and their sums leaves no sum behind that is another file's."""
    (folder / "model.onnx").unlink()
    continue_run(folder, "bench")
    stages = json.loads((folder / "stages.json").read_text())
    before = json.loads((finished / "stages.json").read_text())
    assert stages["files"].keys() == before["files"].keys() - {"report.json"}


def test_a_report_that_was_changed_is_made_again(folder, no_figures):
    before = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text("{}")
    assert not intact(folder, "report.json")
    continue_run(folder, "report")
    assert json.loads((folder / "report.json").read_text())["accuracy"] == before["accuracy"]
    assert intact(folder, "report.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
@pytest.mark.parametrize("name", ["log.jsonl", "recipe.yaml", "weights.safetensors", "baselines/uniform/model.onnx"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_what_is_no_file_of_its_own_is_neither_read_nor_written(folder, tmp_path, name, kind):
    """Who sends a run folder could have files of ours changed by a link, and a pipe would be waited for."""
    (tmp_path / "mine.txt").write_text("mine")
    (folder / name).unlink()
    targets = {"link": tmp_path / "mine.txt", "dangling link": tmp_path / "new.txt", "folder": tmp_path}
    os.mkfifo(folder / name) if kind == "pipe" else (folder / name).symlink_to(targets[kind])
    with pytest.raises(RunError, match=rf"^{folder / name}: is (a link|neither a file nor a folder)"):
        continue_run(folder, "report")
    with pytest.raises(RunError, match=rf"^{folder / name}: is "):
        run(parse_recipe(small_recipe(baselines=["uniform"])), folder, resume=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "new.txt").exists()


def test_a_link_that_is_none_of_ours_is_left_alone(folder, tmp_path, no_figures):
    (folder / "notes").symlink_to(tmp_path)
    (folder / "plot.png").symlink_to(tmp_path / "nowhere")
    continue_run(folder, "report")
    assert (folder / "notes").is_symlink()


def test_a_folder_of_something_else_is_not_searched_for_links(tmp_path):
    (tmp_path / "a.json").symlink_to("/etc/hostname")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        run(parse_recipe(small_recipe()), tmp_path)


def test_files_that_are_checked_are_so_without_a_report(folder):
    (folder / "report.json").unlink()
    continue_run(folder, "train")
    (folder / "latency.json").write_text("{}")
    with pytest.raises(RunError, match=r"latency\.json: was damaged or changed"):
        continue_run(folder, "bench")


def test_the_architecture_of_another_network_is_not_built(folder, tmp_path):
    file = folder / "architecture.json"
    made = json.loads(file.read_text()) | {"model": "os:system", "options": {"command": f"touch {tmp_path}/ran"}}
    file.write_text(json.dumps(made))
    stages = json.loads((folder / "stages.json").read_text())
    del stages["files"]  # as in a folder of an earlier version
    (folder / "stages.json").write_text(json.dumps(stages))
    with pytest.raises(CompressorError, match=r"architecture\.json: .*os:system"):
        continue_run(folder, "report")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """A run folder whose recipe names a function, and the file that this function leaves when it is called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "nets_of_mine.py").write_text(
        "from pathlib import Path\n"
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    Path('called').touch()\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, num_classes))\n"
    )
    run(parse_recipe(small_recipe(model="nets_of_mine:make")), tmp_path / "run", until="search")
    (tmp_path / "called").unlink()
    return tmp_path / "run", tmp_path / "called"


def test_who_began_a_run_goes_on_with_it_and_may_change_what_no_stage_has_used(own_code, quick_export):
    folder, called = own_code
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("label_smoothing: 0.0", "label_smoothing: 0.1"))
    continue_run(folder, "train")
    assert called.exists()


def test_code_that_a_folder_of_someone_else_names_runs_only_if_it_is_trusted(own_code, tmp_path, monkeypatch):
    folder, called = own_code
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "of another user"))
    with pytest.raises(CompressorError, match=r"recipe\.yaml: model\.name: nets_of_mine:make is code .*add --trust"):
        continue_run(folder, "train")
    assert not called.exists()
    result = CliRunner().invoke(main, ["train", str(folder)])
    assert (result.exit_code, called.exists()) == (2, False)
    continue_run(folder, "train", trust=True)
    assert called.exists()


def test_what_a_killed_process_left_is_deleted(folder, finished, no_figures):
    left = [folder / "compressor-a1b2c3d4", folder / "baselines" / "uniform" / "compressor-_x9yz012"]
    for place in left:
        place.mkdir()
        (place / "plain.onnx").write_bytes(b"x")
    left.append(folder / "compressor-es4nen5i")  # of a process that was killed before it wrote anything
    left[-1].mkdir()
    (folder / ".model.onnx.123.tmp").write_bytes(b"x")
    mine = [folder / f"compressor-{name}" for name in ("of-mine", "original", "20261201", "snapshot")]
    for place, name in zip(mine, ("plain.onnx", "notes.txt", "model.onnx", "resnet18.onnx"), strict=True):
        place.mkdir()  # the first has no such name, the others hold what is none of ours
        (place / name).write_bytes(b"x")
    continue_run(folder, "report")
    assert not [place for place in (*left, folder / ".model.onnx.123.tmp") if place.exists()]
    assert [len(list(place.iterdir())) for place in mine] == [1, 1, 1, 1]


def test_what_was_made_again_with_a_deleted_file_is_no_damage(folder, monkeypatch, no_figures):
    """A run that trains a deleted network anew and is killed before the stage ends goes on."""
    (folder / "weights.safetensors").unlink()
    (folder / "baselines" / "uniform" / "weights.safetensors").unlink()

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # the reference is the same network, whose files are copied
        patch.setattr(importlib.import_module("compressor.pipeline.stages.train"), "copy_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            continue_run(folder, "report")
    weights = folder / "weights.safetensors"
    sums = json.loads((folder / "stages.json").read_text())["files"]
    assert sums["weights.safetensors"] == sha256_of(weights)  # at once, not at the end of the stage
    continue_run(folder, "report")
