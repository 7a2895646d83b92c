import html
import json
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from small import small_recipe

from compressor import recipes
from compressor.bench import open_session
from compressor.costs import params_macs
from compressor.errors import (
    BudgetError,
    CompressorError,
    DataError,
    RecipeError,
    RunError,
    TrainingError,
    UnavailableError,
)
from compressor.models import build, reference_architecture
from compressor.models.architecture import Architecture
from compressor.pipeline import doctor, run_folder
from compressor.pipeline.runner import continue_run, run
from compressor.pipeline.shipping import load_weights
from compressor.recipe import load_recipe, parse_recipe

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")  # which have tests of their own

RAW = small_recipe(
    model={"name": "preact_resnet18", "width": 0.125},
    data={"name": "digits", "image_size": 8, "limit": 320, "augment": ["crop"]},
    budget={"params": "40k"},
    search={
        "method": "neuralscale",
        "iterations": 2,
        "pretrain_epochs": 1,
        "batch_size": 32,
        "prune_every": 1,
        "prune_channels": 20,
    },
    train={"epochs": 3, "batch_size": 32},
    baselines=["uniform"],
    bench={"provider": "cpu", "batch": 4, "warmup": 2, "runs": 5, "threads": 1},
    device=None,
    checkpoint_seconds=0,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole run: its folder and its report."""
    out = tmp_path_factory.mktemp("pipeline") / "run"
    return out, run(parse_recipe(RAW), out)


def test_training_tells_how_much_of_all_of_it_is_done(finished, tmp_path):
    out, _ = finished
    told = []
    shutil.copytree(out, tmp_path / "again")
    for name in ("weights.safetensors", "training.json"):
        (tmp_path / "again" / name).unlink()
        (tmp_path / "again" / "baselines" / "uniform" / name).unlink()
    continue_run(tmp_path / "again", "train", lambda stage, text, share: told.append((stage, share)))
    shares = [share for stage, share in told if stage == "train" and share is not None]
    assert shares == sorted(shares)
    assert len(set(shares)) >= 6  # epochs of two networks
    assert shares[-1] == pytest.approx(1.0)


def test_a_run_leaves_these_files_and_no_others(finished):
    out, _ = finished
    assert {path.name for path in out.iterdir()} == {
        "recipe.yaml",
        "stages.json",
        "search.json",
        "architecture.json",
        "weights.safetensors",
        "training.json",
        "model.onnx",
        "export.json",
        "latency.json",
        "report.json",
        "report.html",
        "log.jsonl",
        "baselines",
    }


def test_the_report_says_what_the_files_say(finished):
    out, report = finished
    assert report == json.loads((out / "report.json").read_text())
    architecture = Architecture.from_json((out / "architecture.json").read_text())
    model = load_weights(architecture, out / "weights.safetensors", seed=0)
    assert report["params"] == params_macs.count_params(model) <= 40_000
    assert report["macs"] == params_macs.macs(architecture)
    assert report["onnx_bytes"] == (out / "model.onnx").stat().st_size
    assert report["budget"]["met"] is True
    assert report["budget"]["slack"] == {"params": 40_000 - report["params"]}
    assert report["budget"]["slack"]["params"] < report["budget"]["one_channel"]["params"]
    assert report["accuracy"]["samples"] == report["dataset"]["test"] == 359
    assert report["accuracy"]["onnx"] == pytest.approx(report["accuracy"]["torch"], abs=1 / 359)
    assert report["parity"]["max_rel_error"] <= 1e-4
    assert report["parity"]["batches"] == [1, 100]
    assert len(report["latency_ms"]["samples"]) == 5
    assert {"mean", "median", "p90", "p99", "batch", "provider"} <= set(report["latency_ms"])
    assert set(report["seconds"]) == {"search", "train", "export", "bench", "report"}
    assert report["opset"] == onnx.load(out / "model.onnx").opset_import[0].version
    assert report["fallback"] is None
    for entry in report["trace"]["iterations"]:
        assert entry["fallback"] is None
        removal = entry["removal"]
        assert (len(removal["torch_pruning"]), removal["groups"], removal["tracer"]) == (12, 12, {})
        assert removal["events"] == {"torch_pruning": entry["events"], "tracer": 0}
    uniform = report["baseline"]["uniform"]
    assert uniform["params"] <= 40_000
    assert {"params", "macs", "onnx_bytes", "budget", "accuracy", "latency_ms", "parity"} <= set(uniform)


def test_the_onnx_file_holds_the_result_and_its_story(finished):
    out, report = finished
    proto = onnx.load(out / "model.onnx")
    notes = {entry.key: entry.value for entry in proto.metadata_props}
    architecture = Architecture.from_json(notes["compressor.architecture"])
    assert architecture == Architecture.from_json((out / "architecture.json").read_text())
    assert json.loads(notes["compressor.accuracy"]) == report["accuracy"]
    assert notes["compressor.recipe"] == (out / "recipe.yaml").read_text()
    session, _ = open_session(out / "model.onnx", provider="cpu", threads=1)
    x = np.random.default_rng(0).normal(size=(7, 1, 8, 8)).astype(np.float32)
    with torch.inference_mode():
        expected = load_weights(architecture, out / "weights.safetensors", seed=0)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session.run(None, {"images": x})[0], expected, atol=1e-5)


def test_the_snippet_in_the_report_runs_in_the_run_folder(finished, monkeypatch, capsys):
    out, _ = finished
    page = (out / "report.html").read_text(encoding="utf-8")
    code = html.unescape(page.split("<pre><code>")[1].split("</code>")[0])
    monkeypatch.chdir(out)
    exec(compile(code, "snippet", "exec"), {})
    assert eval(capsys.readouterr().out)[0] in {str(digit) for digit in range(10)}


def test_the_result_really_has_the_searched_widths(finished):
    out, report = finished
    architecture = Architecture.from_json((out / "architecture.json").read_text())
    assert report["widths"] == dict(architecture.widths)
    convs = {name: m for name, m in build(architecture).named_modules() if name in architecture.widths}
    assert {name: conv.out_channels for name, conv in convs.items()} == report["widths"]


def killed_when(process, condition):
    """SIGKILL a process as soon as something is there; False if it ended before."""
    while process.poll() is None:
        if condition():
            process.kill()
            return True
        time.sleep(0.005)
    return False


def begun(out, stage):
    log = out / "log.jsonl"
    return log.exists() and f'"begin", "stage": "{stage}"' in log.read_text()


@pytest.fixture
def kill_and_finish(start_command):
    def work(recipe_file, out, moments):
        """Kill a run at each of these moments, resume it every time, and let it end."""
        log = out.with_suffix(".log")

        def launch():
            resume = ["--resume"] if out.exists() else []
            return start_command(["run", recipe_file, "-o", out, *resume], log)

        killed = [name for name, moment in moments.items() if killed_when(launch(), moment)]
        assert killed == list(moments), log.read_text()
        assert launch().wait() == 0, log.read_text()

    return work


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_with_the_same_network(finished, kill_and_finish, tmp_path):
    whole, _ = finished
    out, recipe_file = tmp_path / "killed", tmp_path / "recipe.yaml"
    recipe_file.write_text(parse_recipe(RAW).to_yaml())
    work = out / "checkpoints"
    moments = {
        "pre-training": lambda: any((work / "search").glob("neuralscale-*-0-pretrain.safetensors")),
        "pruning": lambda: any((work / "search").glob("neuralscale-*-0-prune.safetensors")),
        "second iteration": lambda: any((work / "search").glob("neuralscale-*-1-prune.safetensors")),
        "training": lambda: (work / "train-result.safetensors").exists(),
        "export": lambda: begun(out, "export"),
        "bench": lambda: begun(out, "bench"),
        "report": lambda: begun(out, "report"),
    }
    kill_and_finish(recipe_file, out, moments)
    assert (out / "architecture.json").read_bytes() == (whole / "architecture.json").read_bytes()
    for folder in (".", "baselines/uniform"):
        expected = load_file(whole / folder / "weights.safetensors")
        found = load_file(out / folder / "weights.safetensors")
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    protos = [onnx.load(folder / "model.onnx").graph.SerializeToString() for folder in (whole, out)]
    assert protos[0] == protos[1]


L1 = ["search={method: l1, finetune_epochs: 2}", "train.epochs=2"]


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """A run whose search hands over trained weights: its folder and its report."""
    out = tmp_path_factory.mktemp("finetuned") / "run"
    return out, run(parse_recipe(RAW, L1), out)


def test_weights_that_a_search_hands_over_are_fine_tuned(finetuned):
    out, report = finetuned
    assert report["finetuning"] == {"epochs": 2, "lr": 0.001}
    assert [epoch["lr"] for epoch in report["training"]] == [0.001, 0.001]
    assert report["budget"]["met"] is True
    assert [epoch["epoch"] for epoch in report["trace"]["trained"]] == [1, 2]
    start, end = (load_file(out / name) for name in ("start.safetensors", "weights.safetensors"))
    for name, tensor in start.items():
        if name.endswith("conv1.weight"):
            assert 0 < float((end[name] - tensor).norm() / tensor.norm()) < 0.2
    uniform = report["baseline"]["uniform"]  # of the same widths, or nearly, but trained from scratch
    assert [epoch["lr"] for epoch in uniform["training"]] != [0.001, 0.001]
    assert report["params"] == pytest.approx(uniform["params"], rel=0.01)
    assert not (out / "baselines" / "uniform" / "start.safetensors").exists()


def test_the_training_that_a_search_used_may_not_change(finetuned):
    out, _ = finetuned
    with pytest.raises(RunError, match=r"train\.lr differs from what the search stage"):
        run(parse_recipe(RAW, [*L1, "train.lr=0.2"]), out, resume=True)


def test_a_key_that_an_earlier_version_did_not_know_had_its_default(finetuned, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finetuned[0], out)
    stages = json.loads((out / "stages.json").read_text())
    del stages["search"]["data"]["labels"]
    (out / "stages.json").write_text(json.dumps(stages))
    run_folder.check(out, parse_recipe(RAW, L1))
    with pytest.raises(RunError, match=r"data\.labels"):
        run_folder.check(out, parse_recipe(RAW, [*L1, "data.labels=false"]))


def test_weights_handed_over_that_are_gone_are_found_again(finetuned, tmp_path):
    whole, _ = finetuned
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in ("start.safetensors", "weights.safetensors"):
        (out / name).unlink()
    continue_run(out, "train")
    expected, found = (load_file(folder / "weights.safetensors") for folder in (whole, out))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_fine_tuned_run_killed_in_search_and_training_ends_the_same(finetuned, kill_and_finish, tmp_path):
    whole, _ = finetuned
    out, recipe_file = tmp_path / "killed", tmp_path / "recipe.yaml"
    recipe_file.write_text(parse_recipe(RAW, L1).to_yaml())
    work = out / "checkpoints"
    moments = {
        "training the reference": lambda: (work / "search" / "l1-training.safetensors").exists(),
        "reference trained": lambda: (work / "search" / "l1-reference.safetensors").exists(),
        "weights handed over": lambda: (out / "start.safetensors").exists(),
        "fine-tuning": lambda: (work / "train-result.safetensors").exists(),
    }
    kill_and_finish(recipe_file, out, moments)
    for name in ("start.safetensors", "weights.safetensors"):
        expected, found = (load_file(folder / name) for folder in (whole, out))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("method", ["morphnet", "random"])
def test_the_other_baselines_run_from_recipe_to_report(tmp_path, method):
    changes = [*UNIFORM, f"search.method={method}"]
    if method == "morphnet":
        changes += ["search.pretrain_epochs=1", "search.batch_size=32", "search.prune_every=1"]
    report = run(parse_recipe(RAW, changes), tmp_path / "run")
    assert report["method"] == method
    assert report["budget"]["met"] is True
    assert report["finetuning"] is None
    assert not (tmp_path / "run" / "start.safetensors").exists()


def test_a_folder_is_never_overwritten(finished, tmp_path):
    out, _ = finished
    with pytest.raises(RunError, match="already holds a run; add --resume"):
        run(parse_recipe(RAW), out)
    other = parse_recipe(RAW, ["search.iterations=3", "seed=7"])
    told = r"search\.iterations, seed differs from what the search stage of this run used"
    with pytest.raises(RunError, match=told):
        run(other, out, resume=True)
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and holds no run"):
        run(parse_recipe(RAW), tmp_path)
    with pytest.raises(RunError, match="is a file"):
        run(parse_recipe(RAW), tmp_path / "file.txt")


def test_resuming_a_finished_run_changes_nothing(finished):
    out, report = finished
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".onnx", ".safetensors")}
    again = run(parse_recipe(RAW), out, resume=True)
    assert {name: (out / name).read_bytes() for name in before} == before
    assert again["accuracy"] == report["accuracy"]
    assert again["latency_ms"] == report["latency_ms"]


def test_stages_can_be_taken_one_by_one(tmp_path):
    recipe = parse_recipe(RAW, ["search={method: uniform}", "baselines=[]", "train.epochs=1"])
    assert run(recipe, tmp_path / "run", until="search") == {}
    assert (tmp_path / "run" / "architecture.json").exists()
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    continue_run(tmp_path / "run", "train")
    assert not (tmp_path / "run" / "model.onnx").exists()
    report = continue_run(tmp_path / "run", "report")
    assert report["method"] == "uniform"
    assert report["baseline"] == {}


def test_a_damaged_checkpoint_is_told_and_not_trusted(tmp_path):
    recipe = parse_recipe(RAW, ["search={method: uniform}", "baselines=[]", "train.epochs=1"])
    run(recipe, tmp_path / "run", until="search")
    run_folder.record(tmp_path / "run", "train", recipe)
    broken = tmp_path / "run" / "checkpoints" / "train-result.safetensors"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(RunError, match=r"train-result\.safetensors: damaged checkpoint"):
        continue_run(tmp_path / "run", "train")


def test_divergence_ends_the_run_and_is_logged(tmp_path):
    recipe = parse_recipe(RAW, ["search={method: uniform}", "baselines=[]", "train.lr=1e12", "train.epochs=20"])
    with pytest.raises(TrainingError, match=r"training result: the loss is nan at step"):
        run(recipe, tmp_path / "run")
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "failed"
    assert "TrainingError" in last["error"]


def test_a_folder_with_a_recipe_of_its_own_is_left_alone(tmp_path):
    mine = tmp_path / "recipe.yaml"
    mine.write_text("# my notes\nmodel: mlp\n")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        run(parse_recipe(RAW), tmp_path)
    assert mine.read_text().startswith("# my notes")


def test_a_stage_is_bound_by_what_later_stages_were_made_from(tmp_path):
    out = tmp_path / "run"
    run(parse_recipe(RAW, UNIFORM), out, until="export")
    for name in ("search.json", "architecture.json"):
        (out / name).unlink()
    with pytest.raises(RunError, match=r"budget\.params differs from what the search stage"):
        run(parse_recipe(RAW, [*UNIFORM, "budget.params=30k"]), out, resume=True)


UNIFORM = ["search={method: uniform}", "baselines=[]", "train.epochs=1", "data.limit=64"]


def test_what_no_stage_has_used_may_change_and_the_rest_may_not(tmp_path):
    out = tmp_path / "run"
    run(parse_recipe(RAW, UNIFORM), out, until="train")
    with pytest.raises(RunError, match=r"train\.epochs differs from what the train stage"):
        run(parse_recipe(RAW, [*UNIFORM, "train.epochs=2"]), out, resume=True)
    kept = out / "recipe.yaml"
    kept.write_text(kept.read_text().replace("params: 40000", "params: 50000"))
    with pytest.raises(RunError, match=r"budget\.params differs from what the search stage"):
        continue_run(out, "report")
    report = run(parse_recipe(RAW, [*UNIFORM, "bench.batch=3", "threads=null"]), out, resume=True)
    assert report["latency_ms"]["batch"] == 3
    assert "batch: 3" in kept.read_text()


@pytest.mark.parametrize("lost", ["model.onnx", "weights.safetensors", "search.json", "architecture.json"])
def test_a_file_that_is_gone_is_made_again(tmp_path, lost):
    recipe = parse_recipe(RAW, UNIFORM)
    run(recipe, tmp_path / "run", until="export")
    before = load_file(tmp_path / "run" / "weights.safetensors")
    (tmp_path / "run" / lost).unlink()
    run(recipe, tmp_path / "run", until="export", resume=True)
    assert (tmp_path / "run" / lost).exists()
    again = load_file(tmp_path / "run" / "weights.safetensors")
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_a_run_that_failed_before_it_left_anything_may_be_begun_anew(tmp_path):
    with pytest.raises(BudgetError, match=r"budget\.params: 10 cannot be met"):
        run(parse_recipe(RAW, [*UNIFORM, "budget.params=10"]), tmp_path / "run", until="search")
    assert run(parse_recipe(RAW, UNIFORM), tmp_path / "run", until="search") == {}
    with pytest.raises(RunError, match="already holds a run"):
        run(parse_recipe(RAW, UNIFORM), tmp_path / "run", until="search")


def test_the_remains_of_a_killed_write_do_not_claim_a_folder(tmp_path):
    (tmp_path / ".recipe.yaml.123.tmp").write_text("half")
    assert run(parse_recipe(RAW, UNIFORM), tmp_path, until="search") == {}


def test_a_provider_that_is_not_here_is_told_before_any_work(tmp_path):
    recipe = parse_recipe(RAW, [*UNIFORM, "bench.provider=tensorrt"])
    if doctor.providers()["tensorrt"] == "works":
        pytest.skip("TensorRT works here")
    with pytest.raises(UnavailableError, match="tensorrt"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "architecture.json").exists()
    report = run(parse_recipe(RAW, UNIFORM), tmp_path / "run", resume=True)
    assert report["latency_ms"]["provider"] == "cpu"


def test_too_few_images_to_train_on_are_told(tmp_path):
    with pytest.raises(DataError, match="one training image"):
        run(parse_recipe(RAW, [*UNIFORM, "data.limit=2", "data.validation=0.5"]), tmp_path / "run")


SHIPPED = sorted(path.stem for path in Path(recipes.__path__[0]).glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_run_when_shrunk(name, tmp_path, real_export):
    path = Path(recipes.__path__[0]) / f"{name}.yaml"
    recipe = load_recipe(path)
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text("the cat saw a dog and the dog saw the cat\n" * 60, encoding="utf-8")
    smaller = {
        "ptb": [f"data={{name: ptb, path: {tmp_path}, window: 5}}", "model.options={embedding: 17, hidden: 23}"],
        "shapes": ["data.limit=48", "model.width=0.5"],
    }
    images = ["data={name: digits, channels: 3, limit: 96, validation: 0.25}", "model.width=0.1"]
    shrunk = [*smaller.get(recipe.data.name, images), "train.epochs=1", "baselines=[]", "budget={params: 0.5x}"]
    shrunk += ["bench.batch=4", "bench.warmup=0", "bench.runs=2"]
    if recipe.search.method == "neuralscale":
        shrunk += ["search.iterations=1", "search.pretrain_epochs=1", "search.batch_size=32", "search.prune_every=1"]
    if recipe.search.method == "tissuenet":
        shrunk += ["search.trials=2", "search.trial_epochs=1"]
    with real_export() if name == "quickstart" else nullcontext():  # which tracing cannot export
        report = run(load_recipe(path, shrunk), tmp_path / "run")
    assert report["budget"]["met"]
    assert report["params"] <= report["budget"]["limits"]["params"]


def test_a_network_that_views_its_maps_as_they_lie_in_memory_trains(tmp_path, monkeypatch):
    (tmp_path / "my_lenet_of_a_test.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "class LeNet(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6 * 36, num_classes)\n\n"
        "    def forward(self, x):\n"
        "        return self.fc(torch.relu(self.conv(x)).view(x.size(0), -1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    changed = {"model": "my_lenet_of_a_test:LeNet", "budget": {"params": "0.6x"}, "search": {"method": "uniform"}}
    report = run(
        parse_recipe(RAW | changed | {"train": {"epochs": 1, "batch_size": 32}, "baselines": []}), tmp_path / "run"
    )
    assert report["budget"]["met"]


def test_freezing_every_group_is_refused_at_once(tmp_path):
    names = ["conv1", "conv2"]
    recipe = parse_recipe(RAW | {"model": {"name": "mlp", "width": 0.05}, "widths": {"frozen": names}})
    with pytest.raises(RecipeError, match=r"widths.frozen: 'conv1' is not one of "):
        run(recipe, tmp_path / "unknown")
    found = reference_architecture("mlp", {}, 10, (1, 8, 8), 0.05)
    recipe = parse_recipe(RAW | {"model": {"name": "mlp", "width": 0.05}, "widths": {"frozen": list(found.widths)}})
    with pytest.raises(RecipeError, match=r"widths.frozen: every width group"):
        run(recipe, tmp_path / "all")


@pytest.mark.parametrize(
    "name", ["architecture.json", "weights.safetensors", "search.json", "stages.json", "recipe.yaml"]
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"{", b"\x80\x04\x95"])
def test_a_damaged_file_of_a_run_is_named_in_one_sentence(finished, tmp_path, name, content):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    for made in ("export.json", "report.json", "latency.json"):
        (out / made).unlink()
    (out / name).write_bytes(content)
    with pytest.raises(CompressorError, match=name.replace(".", r"\.")):
        continue_run(out, "export")
