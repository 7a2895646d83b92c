"""Which precision ships: the one asked for, the next, or in spite of what it costs that one, as the budget allows."""

import json
from dataclasses import replace
from types import SimpleNamespace

import onnx
import pytest
import torch
from safetensors.torch import load_file
from small import refusal, small_recipe

from compressor.errors import ExportError
from compressor.pipeline import file_maker, precision_gate, python_call, quantization_aware
from compressor.pipeline.precision_gate import Weighed
from compressor.pipeline.runner import Stopped, run
from compressor.recipe import parse_recipe
from compressor.recipe.precision import precisions
from compressor.report.precision import precision_line

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")  # which have tests of their own

GOOD, LOSES, SLOW = Weighed(0.1, (0.5, 0.48, 0.52)), Weighed(3.0, (0.5, 0.48, 0.52)), Weighed(0.1, (1.2, 1.1, 1.3))
UNSURE, NO_NUMBER = Weighed(0.1, (0.99, 0.97, 1.01)), Weighed(float("nan"), (0.5, 0.4, 0.6))


def recipe(**sections):
    asked = {"export": {"precision": "int8", "tolerance_points": 0.5}}
    return parse_recipe(small_recipe(**asked | sections))


LIMITED = {"model": {"name": "mlp", "width": 0.5}, "budget": {"onnx_bytes": "0.5x"}}


@pytest.fixture
def weighed(monkeypatch):
    """Say what files are found to be beside the float32 one, by the name of their precision."""

    def setting(**found):
        monkeypatch.setattr(precision_gate, "weigh", lambda plain, path, recipe, data, before: found[path.stem])

    return setting


@pytest.mark.parametrize(("int8", "fp16", "shipped"), [
    (GOOD, GOOD, "int8"),
    (LOSES, GOOD, "fp16"),
    (SLOW, GOOD, "fp16"),
    (UNSURE, GOOD, "fp16"),
    (NO_NUMBER, GOOD, "fp16"),
    (LOSES, SLOW, "fp32"),
])  # fmt: skip
def test_the_first_that_is_worth_it_ships(tmp_path, weighed, int8, fp16, shipped):
    weighed(int8=int8, fp16=fp16)
    report = run(recipe(baselines=["reference"]), tmp_path / "run")
    told = report["precision"]
    assert told["name"] == shipped
    tried = {one["name"]: one["rejected"] for one in told["gate"]["tried"]}
    assert list(tried) == ["int8", "fp16", "fp32"][: len(tried)]
    assert [name for name, why in tried.items() if why is None] == [shipped]
    for path in (tmp_path / "run" / "model.onnx", tmp_path / "run" / "baselines" / "reference" / "model.onnx"):
        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert metadata["compressor.precision"] == shipped  # the one beside it, too
    if shipped != "int8":
        assert f"{shipped} ships: int8 {tried['int8']}" in precision_line(report)
        assert tried["int8"] in (tmp_path / "run" / "report.html").read_text()


def test_files_are_weighed_by_the_tasks_metric_whatever_judges_networks(tmp_path, monkeypatch):
    (tmp_path / "errors_of_mine.py").write_text("def rate(model, data, device):\n    return 0.25\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    scores = {"fp32": 0.9, "int8": 0.6, "fp16": 0.9}
    monkeypatch.setattr(precision_gate, "_score", lambda path, recipe, data: scores[path.stem])
    monkeypatch.setattr(precision_gate, "compared", lambda *given: SimpleNamespace(median=0.5, low=0.48, high=0.52))
    judge = {"function": "errors_of_mine:rate", "name": "error rate", "better": "lower"}
    report = run(recipe(evaluate=judge), tmp_path / "run")
    gate = report["precision"]["gate"]
    assert report["precision"]["name"] == "fp16"
    assert gate["metric"] == "accuracy"
    assert [round(one["points"], 6) for one in gate["tried"]] == [30, 0]


def test_a_limit_of_the_file_comes_first(tmp_path, weighed):
    weighed(int8=LOSES, fp16=GOOD)
    report = run(recipe(**LIMITED), tmp_path / "run")
    assert report["precision"]["name"] == "int8"
    assert report["budget"]["met"]
    assert set(report["precision"]["gate"]["unmet"]) == {"fp16", "fp32"}
    assert "fp32 would not meet the budget (ONNX file, bytes)" in report["precision"]["note"]


def test_a_small_file_need_not_be_faster_where_its_size_is_limited(tmp_path, weighed):
    weighed(int8=SLOW)
    report = run(recipe(**LIMITED), tmp_path / "run")
    assert report["precision"]["name"] == "int8"
    assert report["precision"]["gate"]["tried"][0]["rejected"] is None


def test_files_are_compared_as_they_ship(tmp_path):
    export = {"precision": "int8", "tolerance_points": 100, "preprocess": "uint8", "softmax": True}
    run(recipe(export=export), tmp_path / "run", until="export")
    told = json.loads((tmp_path / "run" / "export.json").read_text())["precision"]
    first = told["gate"]["tried"][0]
    low, high = first["ratio"][1:]
    assert 0 < low <= first["ratio"][0] <= high
    assert abs(first["points"]) <= 100
    assert (first["rejected"] is None) == (high < 1)
    assert told["name"] == next(one["name"] for one in told["gate"]["tried"] if one["rejected"] is None)


@pytest.mark.parametrize(("before", "after", "better", "points"), [
    (0.9, 0.88, "higher", 2.0), (0.9, 0.91, "higher", -1.0), (50.0, 51.0, "lower", 2.0)
])  # fmt: skip
def test_points(before, after, better, points):
    assert precision_gate.points_lost(before, after, better) == pytest.approx(points)


TRAINED = {"export": {"precision": "int8", "tolerance_points": 0.5, "qat_epochs": 1}}
LONGER = {"export": TRAINED["export"] | {"qat_epochs": 3}}


@pytest.fixture
def in_turn(monkeypatch):
    """Say what int8 files are found to be, one after another."""

    def setting(*found):
        left = list(found)
        monkeypatch.setattr(
            precision_gate,
            "weigh",
            lambda plain, path, recipe, data, before: left.pop(0) if path.stem == "int8" else GOOD,
        )
        return left

    return setting


def test_what_loses_too_much_is_trained_on_with_its_rounding(tmp_path, in_turn):
    left = in_turn(LOSES, GOOD)
    report = run(recipe(**TRAINED, baselines=["reference"]), tmp_path / "run")
    assert not left
    told = report["precision"]
    assert told["name"] == "int8"
    assert told["gate"]["qat"] == {"epochs": 1, "points_before": 3.0, "points": 0.1, "taken": True}
    for folder in (tmp_path / "run", tmp_path / "run" / "baselines" / "reference"):
        before, after = (load_file(folder / name) for name in ("weights.safetensors", "weights-qat.safetensors"))
        assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert report["accuracy"]["onnx"] == pytest.approx(report["accuracy"]["torch"], abs=0.1)
    assert "quantisation-aware" in precision_line(report)
    assert "Quantisation-aware" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(("first", "second"), [(LOSES, LOSES), (SLOW, GOOD), (GOOD, GOOD)])
def test_what_is_no_better_for_it_or_needs_none_ships_as_it_was(tmp_path, in_turn, first, second):
    left = in_turn(first, second)
    report = run(recipe(**TRAINED), tmp_path / "run")
    assert len(left) == (0 if first is LOSES else 1)  # a slow file is not made faster by training
    assert report["precision"]["name"] == ("int8" if first is GOOD else "fp16")
    assert ("training for 1 epochs was not enough: int8 still lost 3.00" in precision_line(report)) == (first is LOSES)
    assert not (tmp_path / "run" / "weights-qat.safetensors").exists()


def test_where_it_has_to_ship_what_loses_less_is_taken(tmp_path, in_turn):
    in_turn(LOSES, Weighed(1.0, (0.5, 0.48, 0.52)))
    report = run(recipe(**TRAINED | LIMITED), tmp_path / "run")
    assert report["precision"]["name"] == "int8"
    assert report["precision"]["gate"]["qat"]["taken"]
    assert "would not meet the budget" in report["precision"]["note"]
    assert report["budget"]["met"]


def pausing(folder, steps):
    """Pause after so many steps of quantisation-aware training."""
    seen = []

    def pause():
        seen.append(any((folder / "checkpoints").glob("qat-result-*")))
        return sum(seen) == steps

    return pause


def test_training_on_goes_on_where_it_was_interrupted(tmp_path, in_turn):
    asked = recipe(**LONGER, checkpoint_seconds=0)
    in_turn(LOSES, GOOD)
    run(asked, tmp_path / "whole", until="export")
    in_turn(LOSES, LOSES, GOOD)
    with pytest.raises(Stopped):
        run(asked, tmp_path / "run", until="export", pause=pausing(tmp_path / "run", 2))
    assert not (tmp_path / "run" / "model.onnx").exists()  # nothing half-made
    run(asked, tmp_path / "run", until="export", resume=True)
    whole, other = (load_file(tmp_path / name / "weights-qat.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(value, other[name]) for name, value in whole.items())


def test_while_it_trains_on_the_recipe_may_think_otherwise(tmp_path, in_turn):
    in_turn(LOSES, LOSES)
    with pytest.raises(Stopped):
        run(recipe(**LONGER, checkpoint_seconds=0), tmp_path / "run", pause=pausing(tmp_path / "run", 1))
    report = run(recipe(export={"precision": "int8"}, checkpoint_seconds=0), tmp_path / "run", resume=True)
    assert report["precision"]["name"] == "int8"
    assert not (tmp_path / "run" / "weights-qat.safetensors").exists()


@pytest.mark.parametrize("name", ["reference", "result", "mend-1"])
def test_networks_are_told_apart_whatever_the_folder_is_called(tmp_path, in_turn, name):
    in_turn(LOSES, GOOD)
    asked = recipe(**TRAINED, baselines=["reference", "uniform"], search={"method": "random"})
    run(asked, tmp_path / name, until="export")
    for folder in (tmp_path / name, *(tmp_path / name / "baselines").iterdir()):
        before, after = (load_file(folder / one) for one in ("weights.safetensors", "weights-qat.safetensors"))
        assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}
        kernels = [key for key, value in before.items() if value.dim() > 1]
        assert all(torch.allclose(before[key], after[key], atol=1) for key in kernels)


def test_a_slow_scheme_that_lost_least_says_nothing_of_the_fast_ones(tmp_path, in_turn, monkeypatch):
    """None of the schemes is within the tolerance, so the one that loses least is weighed, which may be slow."""
    worst = Weighed(30.0, (1.2, 1.1, 1.3))
    for fast, left_over in ((True, 0), (False, 1)):
        left = in_turn(worst, GOOD)
        monkeypatch.setattr(precision_gate, "_has_fast", lambda tried, fast=fast: fast)
        report = run(recipe(**TRAINED), tmp_path / str(fast))
        assert len(left) == left_over
        assert report["precision"]["name"] == ("int8" if fast else "fp16")


def test_training_on_that_diverges_leaves_what_was_there(tmp_path, in_turn, monkeypatch):
    in_turn(LOSES)
    usual = quantization_aware.settings_of
    monkeypatch.setattr(
        quantization_aware, "settings_of", lambda recipe: replace(usual(recipe), lr_at=lambda step, per_epoch: 1e30)
    )
    report = run(recipe(**LONGER), tmp_path / "run")
    told = report["precision"]
    assert told["name"] == "fp16"
    assert not told["gate"]["qat"]["taken"]
    assert "the loss is" in told["gate"]["qat"]["failed"]
    assert "failed, and the weights from before ship" in (tmp_path / "run" / "report.html").read_text()


def test_a_network_beside_it_ships_as_it_was_if_its_training_on_diverges(tmp_path, in_turn, monkeypatch):
    in_turn(LOSES, GOOD)
    usual = quantization_aware.settings_of
    rates = iter([1e-3])  # then it diverges

    def settings(recipe):
        rate = next(rates, 1e30)
        return replace(usual(recipe), lr_at=lambda step, per_epoch: rate)

    monkeypatch.setattr(quantization_aware, "settings_of", settings)
    report = run(recipe(**LONGER, baselines=["reference"]), tmp_path / "run")
    assert report["precision"]["gate"]["qat"]["taken"]
    assert "failed, and the weights from before ship" in report["baseline"]["reference"]["precision"]["note"]
    assert not (tmp_path / "run" / "baselines" / "reference" / "weights-qat.safetensors").exists()


def test_the_file_says_what_it_takes_whatever_was_asked_for(tmp_path, weighed):
    weighed(fp16=SLOW)
    export = {"precision": "fp16", "half_io": True, "tolerance_points": 0.5}
    for name, asked, kind in (("back", export, "float32"), ("half", {"precision": "fp16", "half_io": True}, "float16")):
        run(recipe(export=asked), tmp_path / name, until="export")
        proto = onnx.load(tmp_path / name / "model.onnx")
        told = json.loads({one.key: one.value for one in proto.metadata_props}["compressor.input"])
        assert told["dtype"] == kind
        taken = proto.graph.input[0].type.tensor_type.elem_type
        assert taken == (onnx.TensorProto.FLOAT16 if kind == "float16" else onnx.TensorProto.FLOAT)


@pytest.mark.parametrize("moment", ["convert", "compare"])
def test_a_precision_that_cannot_be_made_gives_way_too(tmp_path, weighed, monkeypatch, moment):
    def refuse(*given, **named):
        if moment == "convert" or given[2].precision == "fp16":
            raise ExportError("export.precision: fp16: not of this network")
        return parity(*given, **named)

    parity = file_maker.shipped_parity
    weighed(int8=LOSES, fp16=GOOD)
    if moment == "convert":
        monkeypatch.setitem(precisions(), "fp16", replace(precisions()["fp16"], convert=refuse))
    else:
        monkeypatch.setattr(file_maker, "shipped_parity", refuse)
    report = run(recipe(), tmp_path / "run")
    assert report["precision"]["name"] == "fp32"
    assert "cannot be made: export.precision: fp16: not of this network" in report["precision"]["note"]


def test_what_python_gets_is_what_the_file_has(tmp_path, in_turn):
    in_turn(LOSES, GOOD)
    run(recipe(**TRAINED), tmp_path / "run")
    loaded = python_call._network(tmp_path / "run").state_dict()
    kept = load_file(tmp_path / "run" / "weights-qat.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in loaded.items())


@pytest.mark.parametrize(("export", "said"), [
    ({"precision": "fp32", "tolerance_points": 0.5}, "which loses nothing; valid: null, or precision: fp16, int8"),
    ({"precision": "fp16", "tolerance_points": 1, "qat_epochs": 2}, "but precision is fp16; valid: 0, or int8"),
    ({"precision": "int8", "qat_epochs": 2}, "tolerance_points, beyond which it trains, is null"),
    ({"precision": "int8", "tolerance_points": -1}, "tolerance_points"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(export, said):
    assert said in refusal(small_recipe(export=export))
