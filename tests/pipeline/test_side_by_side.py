"""A comparison whose runs go on side by side: the same weights and numbers as one after the other, killed or not."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file
from small import NEURALSCALE, small_recipe

from compressor.cli import root as cli
from compressor.errors import DataError
from compressor.pipeline.compare import _identity, compare_methods
from compressor.pipeline.executors import LocalPool
from compressor.pipeline.sweep_jobs import Job
from compressor.recipe import parse_recipe

RAW = small_recipe(
    data={"name": "digits", "image_size": 8, "limit": 128},
    search=NEURALSCALE | {"prune_channels": 2},
    train={"epochs": 1, "batch_size": 32},
    bench={"provider": "cpu", "batch": 2, "warmup": 1, "runs": 2, "threads": 1},
    threads=1,
    baselines=None,
    seed=3,
)
WHAT = ["neuralscale", "uniform"], ["0.25x", "params=9"], 1
MEASURED = ("latency_mean_ms", "latency_median_ms", "latency_interval_ms", "onnx_bytes", "activation_bytes")


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory):
    out = tmp_path_factory.mktemp("in-turn") / "out"
    return compare_methods(parse_recipe(RAW), *WHAT, out), out


def outcome(record):
    return [{name: value for name, value in run.items() if name not in MEASURED} for run in record["runs"]]


@pytest.mark.usefixtures("quick_export", "no_figures")
def test_runs_side_by_side_give_what_they_give_in_turn(in_turn, tmp_path):
    record, whole = in_turn
    seen, killed = [], []

    def kill_one(runs):
        """End a worker while it trains, once."""
        seen.append({run.name: run.state for run in runs})
        busy = [run.name for run in runs if run.state == "running" and run.stage]
        if busy and not killed:
            killed.append(busy[0])
            os.kill(pool._workers[0].process.pid, signal.SIGKILL)

    pool = LocalPool(2, 1)
    out = tmp_path / "out"
    found = compare_methods(parse_recipe(RAW), *WHAT, out, executor=lambda folder: pool, watch=kill_one)
    assert outcome(found) == outcome(record)
    for run in record["runs"]:
        if run["error"] is None:
            expected, own = (load_file(base / run["folder"] / "weights.safetensors") for base in (whole, out))
            assert all(torch.equal(own[name], expected[name]) for name in expected)
    assert killed
    assert max(list(states.values()).count("running") for states in seen) == 2
    assert json.loads((out / "failures.json").read_text()) == json.loads((whole / "failures.json").read_text())
    assert not pool._workers


def test_a_taught_network_is_no_twin_of_one_that_is_not(tmp_path):
    (tmp_path / "architecture.json").write_text("{}")
    recipe = parse_recipe(RAW)
    taught = parse_recipe(RAW, ["train.distill.teacher=reference", "baselines=[reference]"])
    plain, again, other = (
        _identity(Job("uniform", "1x", 3, one, folder, ""), tmp_path)
        for one, folder in ((recipe, "a"), (recipe, "b"), (taught, "c"))
    )
    assert plain == again != other


def test_an_error_of_a_run_is_said_once(tmp_path):
    raw = RAW | {"data": {"name": "imagefolder", "path": str(tmp_path / "nowhere")}}
    with pytest.raises(DataError) as caught:
        compare_methods(
            parse_recipe(raw), ["neuralscale"], ["0.25x"], 1, tmp_path / "out", executor=lambda folder: LocalPool(1, 1)
        )
    assert str(caught.value).startswith("unscaled seed 3: ")
    assert str(caught.value).count("seed 3") == 1
    assert str(Path("nowhere")) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "2", "--ray", "auto"], "error: --workers and --ray exclude each other"),
        (["--workers", "0"], "error: Invalid value for '--workers'"),
        (["--slurm", "partition"], "error: --slurm: 'partition' in 'partition' must look like key=value"),
        (["--slurm", "cluster=local,partition=gpu"], "error: --slurm: "),
        (["--slurm", "cluster=nowhere"], "error: --slurm: cluster 'nowhere' does not work here"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, arguments, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RAW))
    if "--slurm" in arguments and "cluster" in arguments[1]:
        pytest.importorskip("submitit", reason="submitit is not installed")
    given = ["sweep", str(recipe), "--methods", "neuralscale", "--budgets", "0.25x", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.main, [*given, *arguments])
    assert result.exit_code in (2, 3)
    assert "Traceback" not in result.output
    assert message.removeprefix("error: ") in result.output
