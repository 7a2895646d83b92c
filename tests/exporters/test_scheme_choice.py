"""The choice of integers, and runs whose files are of fewer bits: budgets count what is shipped."""

import json

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from small import small_recipe

from compressor.bench import pairs, runs_in_float32
from compressor.costs import latency_measurement
from compressor.costs.latency_measurement import Runtime
from compressor.data import normalised, ordered
from compressor.errors import RecipeError, RunError
from compressor.exporters import Form
from compressor.exporters.scheme_choice import _best, calibration, form_of, judged
from compressor.models import reference_architecture
from compressor.pipeline.runner import run
from compressor.pipeline.shipping import without_paths
from compressor.recipe import parse_recipe

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")  # which have tests of their own

RAW = small_recipe(model={"name": "vgg11_bn", "width": 0.125}, data={"name": "digits", "image_size": 32, "limit": 320})


def recipe(**sections):
    return parse_recipe(RAW | sections)


def test_calibration_takes_training_images_only(digits):
    data = digits(200)
    raw = np.concatenate(calibration(data, 0, 256))
    training = np.concatenate([images.numpy() for images, _ in ordered(data.train, data, 500)])
    known = {image.tobytes() for image in training}
    assert len(raw) == len(training) <= 256
    assert all(image.tobytes() in known for image in raw)
    assert len(judged(data, 0)) == len(data.validation)


def schemes(**values):
    return {name: {"median_ms": ms, "onnx_bytes": 1, "score": score} for name, (ms, score) in values.items()}


def test_the_fastest_that_loses_little_is_taken():
    assert _best(schemes(a=(1.0, 0.80), b=(2.0, 0.902), c=(3.0, 0.903)), "higher", False) == "b"
    assert _best(schemes(a=(1.0, 0.80), b=(2.0, 0.902), c=(3.0, 0.903)), "higher", True) == "a"
    assert _best(schemes(a=(1.0, 50.0), b=(1.5, 40.1), c=(9.0, 40.0)), "lower", False) == "b"
    assert _best(schemes(a=(1.0, 0.9), b=(1.01, 0.901)), "higher", False) == "b"  # as fast, and better
    assert _best(schemes(a=(2.0, None), b=(1.0, None)), "higher", False) == "b"
    assert _best(schemes(a=(1.0, float("nan")), b=(5.0, 0.1)), "higher", False) == "b"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("limit", ["0.31x", "0.55x"])
def test_a_file_size_is_that_of_the_shipped_file(tmp_path, precision, limit):
    export = {"precision": precision, "preprocess": "uint8", "softmax": True}
    report = run(recipe(budget={"onnx_bytes": limit}, export=export), tmp_path / "run")
    size = (tmp_path / "run" / "model.onnx").stat().st_size
    limit_bytes = report["budget"]["limits"]["onnx_bytes"]
    assert report["budget"]["met"]
    assert size == report["onnx_bytes"] <= limit_bytes
    assert size > 0.85 * limit_bytes
    weights = onnx.load(tmp_path / "run" / "model.onnx").graph.initializer
    kinds = {weight.data_type for weight in weights if len(weight.dims) > 1}
    eight_bits = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}  # which are faster is measured
    assert {"fp16": {onnx.TensorProto.FLOAT16}, "int8": eight_bits}[precision] & kinds


def test_int8_keeps_the_accuracy_and_says_what_was_tried(tmp_path):
    report = run(recipe(train={"epochs": 4, "batch_size": 32}, export={"precision": "int8"}), tmp_path / "run")
    told = report["precision"]
    assert told["scheme"]["chosen"] in told["scheme"]["schemes"]
    assert len(told["scheme"]["schemes"]) == 8
    assert told["judged"] == 32  # the validation images
    assert told["parity_of_fp32"]["max_rel_error"] <= 1e-4
    assert abs(report["accuracy"]["onnx"] - report["accuracy"]["torch"]) < 0.05
    page = (tmp_path / "run" / "report.html").read_text()
    assert "8-bit integers" in page
    assert told["scheme"]["chosen"] in page


def test_fp16_has_parity_and_a_warning_where_it_runs_as_fp32(tmp_path):
    report = run(recipe(export={"precision": "fp16"}), tmp_path / "run")
    assert report["parity"]["max_rel_error"] <= report["parity"]["tolerance"] == 1e-2
    assert runs_in_float32(tmp_path / "run" / "model.onnx", "cpu")
    assert "runs them as fp32" in report["precision"]["note"]
    assert report["accuracy"]["onnx"] == pytest.approx(report["accuracy"]["torch"], abs=0.01)


def test_fp16_beyond_its_tolerance_is_refused(tmp_path):
    from compressor.errors import ExportError

    with pytest.raises(ExportError, match=r"more than export\.tolerance = 1e-09"):
        run(recipe(export={"precision": "fp16", "tolerance": 1e-9}), tmp_path / "run")


@pytest.mark.slow
def test_a_latency_budget_is_of_the_quantised_file(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "_BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(latency_measurement, "LOOKS", (2, 8))
    export = {"precision": "int8", "preprocess": "resize"}
    out = tmp_path / "run"
    report = run(recipe(budget={"latency": "0.8x", "batch": 2}, export=export), out)
    verified = report["verification"]
    assert verified["verdict"] in ("met", "missed", "inconclusive")
    assert report["budget"]["met"] == (verified["verdict"] == "met")
    session_input = onnx.load(out / "model.onnx").graph.input[0].type.tensor_type
    assert session_input.elem_type == onnx.TensorProto.UINT8


def test_the_unscaled_network_is_measured_in_the_same_form(tmp_path):
    from compressor.bench import Conditions

    mlp = reference_architecture("mlp", {}, 10, (1, 8, 8), 0.1)
    form = Form("int8", "uint8", (0.5,), (0.5,), 1)
    runtime = Runtime(mlp, Conditions("cpu", 2, 1), opset=20, folder=tmp_path, form=form)
    graph = onnx.load(runtime._file_of_reference()).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    kinds = {node.op_type for node in graph.node}
    assert kinds & {"QuantizeLinear", "DynamicQuantizeLinear"}  # which is fast is measured
    assert "Softmax" in kinds
    plain = Runtime(mlp, Conditions("cpu", 2, 1), opset=20, folder=tmp_path)
    assert plain._anchor != runtime._anchor


def test_precision_is_part_of_what_a_search_used(tmp_path):
    budget = {"onnx_bytes": "0.5x"}
    run(recipe(budget=budget), tmp_path / "run", until="search")
    with pytest.raises(RunError, match=r"export\.precision differs"):
        run(recipe(budget=budget, export={"precision": "int8"}), tmp_path / "run", resume=True)
    run(recipe(), tmp_path / "other", until="search")
    run(recipe(export={"precision": "fp16"}), tmp_path / "other", resume=True, until="export")


def test_a_file_names_no_place_on_this_machine(tmp_path, digits):
    secret = tmp_path / "home_of_jane_doe" / "digits"
    out = tmp_path / "home_of_jane_doe" / "run"
    run(recipe(data=RAW["data"] | {"path": str(secret)}), out, until="export")
    content = (out / "model.onnx").read_bytes()
    assert b"jane_doe" not in content
    assert str(tmp_path).encode() not in content
    story = {entry.key: entry.value for entry in onnx.load(out / "model.onnx").metadata_props}
    assert parse_recipe(__import__("yaml").safe_load(story["compressor.recipe"])).data.path is None


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("/home/me/net.onnx", "net.onnx"),
        ("onnx:/home/me/net.onnx", "onnx:net.onnx"),
        ("onnx:../nets/net.onnx", "onnx:net.onnx"),
        (r"C:\Users\me\data", "data"),
        (["a/b", {"c": "d/e/"}], ["b", {"c": "e"}]),
        ("vgg11_bn", "vgg11_bn"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        (3.5, 3.5),
    ],
)
def test_paths_lose_their_folders(value, kept):
    assert without_paths(value) == kept


def test_forms_of_recipes(digits):
    data = digits(64)
    assert form_of(recipe(), data).plain
    assert not form_of(recipe(export={"softmax": True}), data).plain
    assert form_of(recipe(export={"batch": 8}), data).batch == 8
    other = normalised(data, (0.1,), (0.2,))
    assert form_of(recipe(export={"preprocess": "uint8"}), other).mean == (0.1,)


def test_a_fixed_batch_is_what_is_measured(tmp_path):
    report = run(recipe(export={"batch": 3}), tmp_path / "run")
    assert report["latency_ms"]["batch"] == 3
    assert report["accuracy"]["onnx"] == pytest.approx(report["accuracy"]["torch"], abs=1e-6)
    assert load_file(tmp_path / "run" / "weights.safetensors")
    with pytest.raises(RecipeError, match=r"budget\.batch: 4, but export\.batch fixes the file's batch; valid: 3"):
        recipe(budget={"latency": "0.5x", "batch": 4}, export={"batch": 3})


def test_text_is_not_preprocessed():
    with pytest.raises(RecipeError, match=r"export\.preprocess: uint8 is for images"):
        recipe(data={"name": "ptb", "path": "x"}, export={"preprocess": "uint8"})


def test_an_export_resumed_is_the_same_file(tmp_path):
    wanted = recipe(export={"precision": "fp16", "preprocess": "uint8"})
    run(wanted, tmp_path / "run", until="export")
    before = json.loads((tmp_path / "run" / "export.json").read_text())
    (tmp_path / "run" / "export.json").unlink()
    run(wanted, tmp_path / "run", resume=True, until="export")
    after = json.loads((tmp_path / "run" / "export.json").read_text())
    assert before["accuracy"] == after["accuracy"]
    assert torch.__version__
