"""Whole runs of the growing method: stopped, interrupted, resumed, and what they leave."""

import json
import os
import shutil
import signal
import time

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from run_pairs import after, same
from safetensors.torch import load_file
from small import small_recipe

from compressor.errors import RecipeError
from compressor.pipeline import run_folder
from compressor.pipeline.runner import Stopped, run
from compressor.recipe import parse_recipe

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")  # which have tests of their own


def recipe(**search):
    raw = small_recipe(
        model={"name": "resnet20", "width": 0.5},
        data={"name": "digits", "image_size": 8, "limit": 200},
        budget={"params": "0.3x"},
        search={"method": "growing", "steps_per_round": 2, "redraw": 0.3, "settle": 0.3, **search},
        train={"epochs": 4, "batch_size": 32},
        bench={"provider": "cpu", "batch": 2, "runs": 5, "warmup": 1, "threads": 1},
    )
    return parse_recipe(raw, (), "test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted, up to its weights."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(recipe(), out, until="train")
    return out


@pytest.mark.parametrize("moments", [(5,), (1, 2, 10), (18,)], ids=str)
def test_paused_anywhere_and_resumed_it_grows_to_the_same_weights(whole, tmp_path, moments):
    out = tmp_path / "run"
    for moment in moments:
        with pytest.raises(Stopped):
            run(recipe(), out, resume=out.exists(), until="train", pause=after(moment))
    run(recipe(), out, resume=True, until="train")
    assert same(out, whole)
    assert not (out / "now").exists()


def test_stopped_at_an_epoch_there_is_a_valid_network_that_onnx_runtime_runs(whole, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Stopped) as caught:
        run(recipe(), out, until="train", stop_at=2)
    current = caught.value.current
    onnx.checker.check_model(onnx.load(out / "now" / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(out / "now" / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"images": np.zeros((3, 1, 8, 8), np.float32)})[0].shape == (3, 10)
    assert current["parity"]["max_rel_error"] < 1e-4
    assert current["params"] == sum(
        value.numel()
        for name, value in load_file(out / "now" / "weights.safetensors").items()
        if "running" not in name and "num_batches" not in name
    )
    assert not (out / "architecture.json").exists()
    run(recipe(), out, resume=True, until="train")
    assert same(out, whole)


def test_a_whole_run_reports_its_growth_and_ships_the_grown_weights(tmp_path):
    report = run(recipe(), tmp_path / "run")
    assert report["budget"]["met"]
    growth = report["trace"]["growth"]
    assert len(growth["epochs"]) == len(report["training"]) == 4
    assert growth["epochs"][-1]["params"] == report["params"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "training" in page


def test_direct_design_and_fine_tuning_train_on_from_the_grown_architecture(whole, tmp_path):
    run(recipe(weights="fresh"), tmp_path / "fresh", until="train")
    assert not same(tmp_path / "fresh", whole)
    run(recipe(finetune_epochs=1, finetune_lr=0.001), tmp_path / "tuned", until="train")
    assert not same(tmp_path / "tuned", whole)
    assert len(json.loads((tmp_path / "tuned" / "training.json").read_text())) == 1


def test_only_a_search_with_a_network_at_any_time_can_be_stopped_at_an_epoch(tmp_path):
    uniform = parse_recipe(recipe().model_dump(mode="json") | {"search": {"method": "uniform"}}, (), "test")
    with pytest.raises(RecipeError, match=r"stop-at.*uniform.*growing"):
        run(uniform, tmp_path / "run", stop_at=2)
    assert not (tmp_path / "run").exists()


def test_what_a_stopped_run_shipped_does_not_count_as_a_stage(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        run(recipe(), out, stop_at=1)
    run_folder.check(out, recipe())
    changed = parse_recipe(recipe().model_dump(mode="json") | {"export": {"opset": 19}}, (), "test")
    run_folder.check(out, changed)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.keep=best"], "train.keep: best is not for search.method: growing"),
        (["search.weights=fresh", "search.finetune_epochs=2"], "finetune_epochs is for weights: grown"),
        (["search.settle=1"], "search.settle"),
        (["search.sampling=even"], "learned"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides, told):
    with pytest.raises(RecipeError, match=told):
        parse_recipe(recipe().model_dump(mode="json"), overrides, "test")


@pytest.mark.parametrize("epochs", [float("nan"), 0.0, -1.0])
def test_a_moment_to_stop_at_must_be_a_number_above_0(epochs, tmp_path):
    with pytest.raises(RecipeError, match="--stop-at"):
        run(recipe(), tmp_path / "run", stop_at=epochs)


def test_flops_are_those_of_the_samples_that_there_are(tmp_path):
    large = parse_recipe(recipe().model_dump(mode="json"), ["train.batch_size=4096"], "test")
    run(large, tmp_path / "run", until="search")
    record = json.loads((tmp_path / "run" / "search.json").read_text())
    reference = record["trace"]["growth"]["reference"]
    assert reference["flops_per_epoch"] == 6 * reference["macs"] * record["dataset"]["train"]


def test_asked_to_stop_outside_training_a_run_ends_before_its_next_stage(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    with pytest.raises(Stopped, match="stopped"):
        run(recipe(), out, resume=True, pause=lambda: True)
    assert not (out / "model.onnx").exists()


def test_training_may_be_paused_in_any_method(tmp_path):
    uniform = parse_recipe(recipe().model_dump(mode="json") | {"search": {"method": "uniform"}}, (), "test")
    run(uniform, tmp_path / "whole", until="train")
    with pytest.raises(Stopped) as caught:
        run(uniform, tmp_path / "run", until="train", pause=after(9))
    assert caught.value.current is None
    run(uniform, tmp_path / "run", resume=True, until="train")
    assert same(tmp_path / "run", tmp_path / "whole")


def test_ctrl_c_on_the_command_line_leaves_a_network_and_the_way_on(tmp_path, start_command):
    path, log = tmp_path / "recipe.yaml", tmp_path / "log"
    path.write_text(recipe().to_yaml().replace("epochs: 4", "epochs: 400"), encoding="utf-8")
    it = start_command(["search", path, "-o", tmp_path / "run"], log)
    while "growing: epoch" not in (log.read_text() if log.exists() else ""):
        assert it.poll() is None, log.read_text()
        time.sleep(0.05)
    os.kill(it.pid, signal.SIGINT)
    assert it.wait() == 130
    told = log.read_text()
    assert "--resume" in told
    assert "Traceback" not in told
    assert "now/model.onnx" in told
    assert (tmp_path / "run" / "now" / "model.onnx").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_stops_and_resumes_too(tmp_path):
    raw = recipe().model_dump(mode="json") | {"device": "cuda"}
    with pytest.raises(Stopped):
        run(parse_recipe(raw, (), "test"), tmp_path / "run", stop_at=2)
    report = run(parse_recipe(raw, (), "test"), tmp_path / "run", resume=True)
    assert report["budget"]["met"]
    assert len(report["trace"]["growth"]["epochs"]) == 4
