"""Real runs of `olive run` with our pass; the environment variable OLIVE_PYTHON names a Python that has olive."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import onnxruntime
import pytest
import torch

from compressor.models import offer
from compressor.models.architecture import Architecture
from compressor.pipeline.shipping import load_weights
from compressor.recipe import load_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "OLIVE_PYTHON" not in os.environ and importlib.util.find_spec("olive") is None,
        reason="olive is not installed: pip install 'onnx-compressor[olive]', or set OLIVE_PYTHON to a Python with it",
    ),
]
PYTHON = os.environ.get("OLIVE_PYTHON", sys.executable)
ROOT = Path(__file__).parents[3]
NET = """
import torch
from torch import nn
def load(path=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 13, 3, 2), nn.BatchNorm2d(13), nn.ReLU(), nn.Conv2d(13, 23, 3, 2),
        nn.BatchNorm2d(23), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(23, 10))
"""
MISSING = """
from compressor.integrations.olive import compress_to_budget
compressed = compress_to_budget.run
def missed(*given, **named):
    report = compressed(*given, **named)
    limits = {name: 1 for name in report["budget"]["limits"]}
    return report | {"budget": report["budget"] | {"limits": limits, "met": False}}
compress_to_budget.run = missed
"""
BENCH = {"bench": {"provider": "cpu", "runs": 3, "warmup": 1, "batch": 4}}
GIVEN = {"budget": {"params": "0.5x"}, "method": "uniform", "data": "digits", "epochs": 1, "recipe": BENCH}


def call(*words, cwd):
    env = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([PYTHON, "-m", *words], cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    ended = call("compressor", "olive-config", str(ROOT / "recipes" / "neuralscale-digits.yaml"), "-o", ".", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return folder


def olive(folder, package, script=NET, **changed):
    engine, given = changed.pop("engine", {}), changed.pop("model", None)
    (folder / "net.py").write_text(script, encoding="utf-8")
    io = {"input_names": ["input"], "input_shapes": [[1, 1, 32, 32]], "output_names": ["output"]}
    model = {"model_loader": "load", "model_script": "net.py", "io_config": io}
    run = {
        "input_model": given or {"type": "PyTorchModel", "config": model},
        "passes": {"compress": {"type": "CompressToBudget", "config": GIVEN | changed}},
        "output_dir": "out",
        "cache_dir": "cache",
    }
    (folder / "run.json").write_text(json.dumps(run | engine), encoding="utf-8")
    words = ("olive", "run", "--config", "run.json", "--package-config", str(package / "olive_config.json"))
    return call(*words, cwd=folder)


def test_the_package_config_keeps_every_pass_of_olive(package):
    place = "import importlib.util as u; print(next(iter(u.find_spec('olive').submodule_search_locations)))"
    found = subprocess.run([PYTHON, "-c", place], capture_output=True, text=True, check=True).stdout.strip()
    default = json.loads((Path(found) / "olive_config.json").read_text(encoding="utf-8"))
    merged = json.loads((package / "olive_config.json").read_text(encoding="utf-8"))
    assert len(default["passes"]) > 40
    assert {name: merged["passes"].get(name) for name in default["passes"]} == default["passes"]
    assert merged["passes"].keys() - default["passes"].keys() == {"CompressToBudget"}
    assert merged["extra_dependencies"].items() >= default["extra_dependencies"].items()


def test_a_run_gives_a_model_within_budget_that_computes_what_pytorch_does(package, tmp_path):
    ended = olive(tmp_path, package)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    space = {}
    exec(NET, space)
    whole = sum(parameter.numel() for parameter in space["load"]().parameters())
    assert 0 < report["params"] <= whole / 2
    run = next(tmp_path.glob("cache/**/run-*/weights.safetensors")).parent
    offer(load_recipe(run / "recipe.yaml").model.name.removeprefix("given:"), space["load"]())
    architecture = Architecture.from_json((run / "architecture.json").read_text(encoding="utf-8"), "architecture")
    network = load_weights(architecture, run / "weights.safetensors", seed=0).eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == report["params"]
    images = numpy.random.default_rng(0).standard_normal((2, 1, 32, 32)).astype(numpy.float32)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    with torch.no_grad():
        assert numpy.allclose(network(torch.from_numpy(images)).numpy(), logits, atol=1e-4)


def test_an_onnx_file_is_an_input_model_too(package, tmp_path):
    space = {}
    exec(NET, space)
    network = space["load"]().eval()
    torch.onnx.export(network, (torch.zeros(1, 1, 32, 32),), tmp_path / "given.onnx", dynamo=True)
    given = {"type": "ONNXModel", "config": {"model_path": "given.onnx"}}
    ended = olive(tmp_path, package, model=given, recipe=BENCH | {"finetune": {"epochs": 1}})
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert 0 < report["params"] <= sum(parameter.numel() for parameter in network.parameters()) / 2
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [1, 32, 32]


def test_a_changed_recipe_file_is_no_hit_of_the_cache(package, tmp_path):
    results = []
    for epochs in (1, 1, 2):
        recipe = {"model": "lenet5", "data": "digits", "budget": {"params": "0.5x"}, "search": {"method": "uniform"}}
        (tmp_path / "some.yaml").write_text(json.dumps(recipe | BENCH | {"train": {"epochs": epochs}}))
        ended = olive(tmp_path, package, recipe="some.yaml", epochs=None, weights="fresh")
        assert ended.returncode == 0, ended.stderr
        results.append(sorted(tmp_path.glob("cache/**/run-*/recipe.yaml")))
    assert [len(runs) for runs in results] == [1, 1, 2]
    assert {load_recipe(path).train.epochs for path in results[-1]} == {1, 2}


@pytest.mark.parametrize(
    ("script", "changed", "code", "told"),
    [
        (NET + MISSING, {}, 1, "error: CompressToBudget: the budget is missed: params "),
        (NET, {"budget": {"params": 3}}, 2, "error: budget.params: 3 cannot be met"),
        (NET, {"budgt": 3}, 2, "error: CompressToBudget: unknown parameter: 'budgt'"),
    ],
    ids=["missed", "cannot be met", "bad parameter"],
)
def test_what_fails_ends_olive_with_our_exit_code(package, tmp_path, script, changed, code, told):
    ended = olive(tmp_path, package, script, **changed)
    assert ended.returncode == code
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_budget_and_method_are_searched(package, tmp_path):
    metric = {"name": "latency", "type": "latency", "sub_types": [{"name": "avg", "priority": 1}]}
    engine = {
        "evaluators": {"clock": {"type": "OnnxEvaluator", "metrics": [metric]}},  # Olive 0.13 fails without a type
        "evaluator": "clock",
        "evaluate_input_model": False,
        "search_strategy": {"execution_order": "joint", "sampler": "sequential"},
    }
    ended = olive(tmp_path, package, engine=engine, budget=["0.25x", "0.5x"], method=["uniform", "random"])
    assert ended.returncode == 0, ended.stderr
    recipes = [load_recipe(path) for path in tmp_path.glob("cache/**/run-*/recipe.yaml")]
    points = {(recipe.budget.params, recipe.search.method) for recipe in recipes}
    assert points == {(budget, method) for budget in ("0.25x", "0.5x") for method in ("uniform", "random")}
