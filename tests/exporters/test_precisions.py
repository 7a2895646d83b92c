"""What every precision of shipped files says of itself; nothing but its file and the recipe's field names it."""

import re
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import compressor
from compressor.cli.inspection import inspect_file
from compressor.errors import ExportError
from compressor.exporters import Form, OnnxNetwork, export_onnx, finish
from compressor.recipe.precision import precisions
from compressor.recipe.sections import ExportConfig

NAMES = list(precisions())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 13, 3), nn.ReLU(), nn.Flatten(), nn.Linear(13 * 36, 7)).eval()
    images = torch.rand(4, 3, 8, 8)
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    export_onnx(network, path, [images])
    return path, images.numpy()


def test_recipes_may_name_all_of_them():
    assert set(get_args(ExportConfig.model_fields["precision"].annotation)) == {*NAMES, "auto"}
    assert [name for name in NAMES if precisions()[name].plain] == NAMES[:1]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_it_is_recognised_and_smaller_by_its_bytes(plain, tmp_path, name):
    source, images = plain
    precision = precisions()[name]
    for scheme in [one for name, one in precision.schemes_for(source).items() if name in precision.largest] or [None]:
        target = tmp_path / "made.onnx"
        finish(source, target, Form(precision=name), scheme, [images])
        assert inspect_file(target)["precision"] == name
        weights = sum(np.prod(w.dims) for w in onnx.load_model(source).graph.initializer)
        saved = source.stat().st_size - target.stat().st_size
        overhead = 4000  # nodes and scales
        assert abs((4 - precision.bytes_of_value) * weights - saved) < overhead


class Pooled(nn.Module):
    """Convolution, batch-norm, mean over positions and a linear layer: no size is fixed."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.linear(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("opset", range(13, 24))
def test_every_precision_is_delivered_in_every_operator_set(tmp_path, opset):
    torch.manual_seed(0)
    source, images, raw = tmp_path / "plain.onnx", torch.rand(4, 3, 8, 8), torch.randint(256, (4, 8, 8, 3))
    export_onnx(Pooled().eval(), source, [images], opset=opset)
    found = {}
    for name, precision in precisions().items():
        scheme = next(iter(precision.schemes_for(source).values()), None)
        for preprocess in ("none", "uint8", "resize") if opset >= 18 else ("none", "uint8"):  # antialiasing is of 18
            target = tmp_path / f"{name}-{preprocess}.onnx"
            form = Form(name, preprocess, mean=(0.0,) * 3, std=(1.0,) * 3, softmax=1)
            finish(source, target, form, scheme, [images.numpy()])
            versions = {entry.domain: entry.version for entry in onnx.load_model(target).opset_import}
            assert versions == {"": opset}, target.name
            given = images.numpy() if preprocess == "none" else raw.byte().numpy()
            session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
            (found[name, preprocess],) = session.run(None, {"images": given})
    for (_, preprocess), made in found.items():
        assert made == pytest.approx(found["fp32", preprocess], abs=0.02)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_file_that_it_cannot_convert_is_refused_in_one_sentence(tmp_path, name):
    source = tmp_path / "broken.onnx"
    source.write_bytes(b"no model")
    precision = precisions()[name]
    scheme = next(iter(precision.schemes.values()), None)
    with pytest.raises(ExportError, match=rf"^export\.precision: {name}: cannot convert broken\.onnx: [^\n]*$"):
        finish(source, tmp_path / "made.onnx", Form(precision=name), scheme, [])
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.parametrize(("name", "given", "plain", "shipped"), [
    ("fp32", None, 1e-4, 1e-4),
    ("fp32", 0.5, 0.5, 0.5),
    ("fp16", None, 1e-4, 1e-2),
    ("fp16", 0.5, 1e-4, 0.5),
    ("int8", None, 1e-4, float("inf")),
    ("int8", 0.5, 1e-4, float("inf")),
])  # fmt: skip
def test_tolerances(name, given, plain, shipped):
    config = ExportConfig(precision=name, tolerance=given)
    assert (config.plain_tolerance, config.tolerance_of(name)) == (plain, shipped)


def test_nothing_else_knows_one_by_its_name():
    root = Path(compressor.__file__).parent
    places = [*root.rglob("*.py"), *(root.parent / "exporters").rglob("*.py")]
    known = re.compile(r"precision\S* (?:[!=]=|in) [^\n]*\"(?:fp16|int8)\"")
    knowing = [path.name for path in places if known.search(path.read_text(encoding="utf-8"))]
    assert not [name for name in knowing if name.removesuffix(".py") not in NAMES]


@pytest.mark.parametrize("preprocess", ["none", "uint8", "resize"])
def test_inputs_and_outputs_may_be_half_too(plain, tmp_path, preprocess):
    source, images = plain
    form = Form("fp16", preprocess, (0.5,) * 3, (0.25,) * 3, softmax=1, half_io=True)
    finish(source, tmp_path / "half.onnx", form, None, [])
    graph = onnx.load_model(tmp_path / "half.onnx").graph
    kinds = [value.type.tensor_type.elem_type for value in (graph.input[0], graph.output[0])]
    taken = onnx.TensorProto.FLOAT16 if preprocess == "none" else onnx.TensorProto.UINT8
    assert kinds == [taken, onnx.TensorProto.FLOAT16]
    raw = torch.from_numpy((images * 255).round() / 255)
    normalised = (raw - 0.5) / 0.25
    found = OnnxNetwork(tmp_path / "half.onnx", 1).outputs(normalised)
    expected = torch.from_numpy(OnnxNetwork(source, 1).outputs(normalised)).softmax(1).numpy()
    assert np.abs(found - expected).max() < 0.01


def test_operators_without_halves_are_refused_in_one_sentence(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return nn.functional.celu(x, 0.7).flatten(1)

    export_onnx(Odd().eval(), tmp_path / "odd.onnx", [torch.rand(2, 3, 8, 8)])
    with pytest.raises(ExportError, match=r"^export\.precision: fp16: cannot convert odd\.onnx: [^\n]*$"):
        finish(tmp_path / "odd.onnx", tmp_path / "made.onnx", Form("fp16"), None, [])
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8", "auto"])
def test_only_what_is_halved_takes_halves(precision):
    with pytest.raises(ValueError, match=r"half_io: true, but precision is .*; valid: false, or precision: fp16"):
        ExportConfig(precision=precision, half_io=True)
