"""Segmentation and language through the whole pipeline."""

import html
import json
import math
import random
import textwrap

import onnx
import pytest
import torch

from compressor.bench import measure_latency
from compressor.data import load_data, ordered
from compressor.errors import ExportError, ModelError
from compressor.models.architecture import Architecture
from compressor.pipeline import precision_gate
from compressor.pipeline.compare import compare_methods
from compressor.pipeline.precision_gate import Weighed
from compressor.pipeline.runner import run
from compressor.pipeline.scoring import score_file
from compressor.pipeline.shipping import load_weights
from compressor.recipe import parse_recipe
from compressor.training.tasks import TASKS
from compressor.training.trainer import Trainer

SHARED = {
    "search": {"method": "uniform"},
    "bench": {"provider": "cpu", "batch": 4, "warmup": 1, "runs": 3, "threads": 1},
    "threads": 1,
    "checkpoint_seconds": 0,
}


def sentences(count, seed):
    """Sentences of a grammar in which a word tells much about the next."""
    draw = random.Random(seed)
    nouns, verbs = ("dog", "cat", "bird", "fish", "<unk>"), ("sees", "hears", "likes")
    return "".join(
        f" the {draw.choice(('old', 'young'))} {draw.choice(nouns)} {draw.choice(verbs)} a {draw.choice(nouns)} \n"
        for _ in range(count)
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for seed, (name, count) in enumerate({"train": 400, "valid": 40, "test": 60}.items()):
        (folder / f"{name}.txt").write_text(sentences(count, seed), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def recipes(corpus):
    language = {
        "model": {"name": "lstm", "options": {"hidden": 29, "embedding": 13, "dropout": 0.1}},
        "data": {"name": "ptb", "path": str(corpus), "window": 11},
        "budget": {"params": "0.5x"},
        "train": {"epochs": 3, "batch_size": 16, "lr": 1.0, "keep": "best"},
    }
    segmentation = {
        "model": {"name": "compressor.models.deeplab:deeplabv3_small"},
        "data": {"name": "shapes", "image_size": 32, "limit": 120, "augment": ["flip"]},
        "budget": {"params": "0.5x"},
        "train": {"epochs": 2, "batch_size": 16, "keep": "best"},
    }
    return {"language": SHARED | language, "segmentation": SHARED | segmentation}


@pytest.fixture(scope="module", params=["language", "segmentation"])
def finished(request, recipes, tmp_path_factory):
    """A whole run of each task: its name, recipe, folder and report."""
    recipe = parse_recipe(recipes[request.param])
    out = tmp_path_factory.mktemp(request.param) / "run"
    return request.param, recipe, out, run(recipe, out)


def test_the_budget_is_met_with_parity(finished):
    name, _, _, report = finished
    assert report["budget"]["met"] is True
    assert 0 <= report["budget"]["slack"]["params"] < report["budget"]["one_channel"]["params"] + 1
    assert report["params"] < 0.51 * report["baseline"]["reference"]["params"]
    assert report["parity"]["max_rel_error"] <= 1e-4
    many = min(100, report["dataset"]["test"])
    assert report["parity"]["batches"] == ([1, 2, many] if name == "language" else [1, many])


def test_an_lstm_is_quantised_as_it_runs(recipes, tmp_path):
    raw = recipes["language"]
    wide = raw["model"] | {"options": {"hidden": 64, "embedding": 32}}
    quantised = raw | {"model": wide, "export": {"precision": "int8"}, "train": raw["train"] | {"epochs": 1}}
    run(parse_recipe(quantised), tmp_path / "run", until="export")
    told = json.loads((tmp_path / "run" / "export.json").read_text())
    kinds = {node.op_type for node in onnx.load(tmp_path / "run" / "model.onnx").graph.node}
    assert "DynamicQuantizeLSTM" in kinds
    assert "LSTM" not in kinds
    assert told["precision"]["scheme"]["chosen"].startswith("dynamic")
    assert told["onnx_bytes"] < 0.6 * told["precision"]["scheme"]["fp32"]["onnx_bytes"]
    assert told["metric"]["onnx"] == pytest.approx(told["metric"]["torch"], rel=0.03)


@pytest.mark.parametrize(("export", "said"), [
    ({"precision": "fp16"}, "fp16: trial.onnx has LSTM"),  # opening such a file would end the process
    ({"precision": "int8", "tolerance_points": 0}, None),
])  # fmt: skip
def test_an_lstm_does_not_ship_in_half_precision(recipes, tmp_path, monkeypatch, export, said):
    worse = Weighed(5.0, (0.5, 0.4, 0.6))
    monkeypatch.setattr(precision_gate, "weigh", lambda plain, path, recipe, data, before: worse)
    raw = recipes["language"] | {"export": export}
    raw |= {"train": raw["train"] | {"epochs": 1}}
    if said is not None:
        with pytest.raises(ExportError, match=said):
            run(parse_recipe(raw), tmp_path / "run", until="search")
        return
    run(parse_recipe(raw), tmp_path / "run", until="export")
    told = json.loads((tmp_path / "run" / "export.json").read_text())["precision"]
    assert told["name"] == "fp32"
    assert "has LSTM" in told["gate"]["unmet"]["fp16"]


def test_torch_and_onnx_agree_on_the_metric(finished):
    name, recipe, out, report = finished
    task, data = TASKS[name], load_data(recipe.data, seed=recipe.seed)
    found = report["metric"]
    assert (found["name"], found["better"]) == (task.metric, task.better)
    assert found["onnx"] == pytest.approx(found["torch"], rel=1e-4)
    again = score_file(out / "model.onnx", data, data.test)
    assert (again.value, again.accuracy) == (found["onnx"], report["accuracy"]["onnx"])
    assert report["accuracy"]["samples"] == len(data.test)
    architecture = Architecture.from_json((out / "architecture.json").read_text())
    model, tally = load_weights(architecture, out / "weights.safetensors", seed=0), task.tally()
    with torch.inference_mode():
        for x, y in ordered(data.test, data, 7):
            tally.add(model(x), y)
    assert tally.evaluation().value == pytest.approx(found["torch"], rel=1e-5)


def test_training_records_the_metric_and_keeps_its_best(finished):
    name, recipe, out, report = finished
    values = [record["validation_metric"] for record in report["training"]]
    losses = [record["validation_loss"] for record in report["training"]]
    if name == "language":
        assert values == pytest.approx([math.exp(loss) for loss in losses], rel=1e-9)
        assert min(values) < 9  # of 13 words, fewer than half can follow
        assert values[-1] < values[0]
    else:
        assert all(0 < value <= 1 for value in values)
    trainer = Trainer(load_data(recipe.data, seed=recipe.seed), torch.device("cpu"))
    architecture = Architecture.from_json((out / "architecture.json").read_text())
    kept = trainer.evaluate(load_weights(architecture, out / "weights.safetensors", seed=0), trainer.data.validation)
    assert kept.value == pytest.approx(min(values) if name == "language" else max(values), rel=1e-4)


def test_the_file_tells_its_task_and_the_snippet_of_the_report_runs(finished, monkeypatch, capsys):
    name, _, out, report = finished
    notes = {entry.key: entry.value for entry in onnx.load(out / "model.onnx").metadata_props}
    assert notes["compressor.task"] == name
    assert json.loads(notes["compressor.metric"]) == report["metric"]
    page = (out / "report.html").read_text(encoding="utf-8")
    code = html.unescape(page.split("<pre><code>")[1].split("</code>")[0])
    monkeypatch.chdir(out)
    exec(compile(code, "snippet", "exec"), {})
    assert set(eval(capsys.readouterr().out)) <= set(json.loads(notes["compressor.classes"]))


def test_the_page_shows_the_metric_and_how_it_compares(finished):
    name, _, out, report = finished
    page = html.unescape((out / "report.html").read_text(encoding="utf-8"))
    found, reference = report["metric"]["onnx"], report["baseline"]["reference"]["metric"]["onnx"]
    if name == "language":
        shown, difference = f"perplexity {found:.3f}", f"{100 * abs(found / reference - 1):.2f} %"
    else:
        shown, difference = f"{100 * found:.2f} % mIoU", f"{100 * abs(found - reference):.2f} points"
    level = not any(digit in difference for digit in "123456789")
    beside = "as much as" if level else f"{difference} {'more' if found > reference else 'less'} than"
    assert f"the result reaches {shown}: {beside} the unscaled network" in page


def test_the_shipped_file_can_be_measured_by_anyone(finished):
    _, recipe, out, report = finished
    measured = measure_latency(out / "model.onnx", provider="cpu", batch=3, warmup=1, runs=2, threads=1)
    assert measured.inputs[0].shape == (3, *report["dataset"]["input_shape"])
    assert len(report["latency_ms"]["samples"]) == recipe.bench.runs


def test_budgets_of_bytes_and_milliseconds_hold_for_text(recipes, tmp_path):
    budget = {"onnx_bytes": "0.7x", "latency": "0.9x"}
    model = {"name": "lstm", "options": {"hidden": 113, "embedding": 13}}
    raw = recipes["language"] | {"model": model, "budget": budget, "baselines": [], "train": {"epochs": 1}}
    report = run(parse_recipe(raw), tmp_path / "run")
    assert report["onnx_bytes"] == (tmp_path / "run" / "model.onnx").stat().st_size
    assert report["onnx_bytes"] <= report["budget"]["limits"]["onnx_bytes"]
    assert report["verification"]["ratio"]["median"] < 1


def test_the_methods_of_a_language_model_are_compared_by_perplexity(recipes, tmp_path):
    raw = recipes["language"] | {"train": {"epochs": 1, "batch_size": 16, "lr": 1.0}}
    record = compare_methods(parse_recipe(raw), ["uniform"], ["0.3x", "0.7x"], 1, tmp_path / "out")
    assert record["metric"] == {"name": "perplexity", "better": "lower"}
    lines = (tmp_path / "out" / "comparison.csv").read_text().splitlines()
    assert lines[0].split(",")[6:9] == ["accuracy", "metric", "value"]
    assert [float(line.split(",")[8]) for line in lines[1:]] == [row["value"] for row in record["runs"]]
    fronts = {group["budget"]: group["front"]["params"] for group in record["groups"]}
    values = {group["budget"]: group["value"]["mean"] for group in record["groups"]}
    assert fronts["0.3x"]
    assert fronts["0.7x"] == (values["0.7x"] < values["0.3x"])


def test_a_network_of_another_task_is_refused_before_anything_is_trained(recipes, tmp_path, monkeypatch):
    (tmp_path / "own_classifier.py").write_text(
        textwrap.dedent("""
            from torch import nn

            def make(num_classes):
                return nn.Sequential(
                    nn.Conv2d(3, 13, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(13, num_classes)
                )
        """)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    raw = recipes["segmentation"] | {"model": {"name": "own_classifier:make"}}
    with pytest.raises(ModelError, match="the data's task is segmentation, which needs logits of shape"):
        run(parse_recipe(raw), tmp_path / "run")
