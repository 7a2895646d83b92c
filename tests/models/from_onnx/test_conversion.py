"""Forms of files that are easily taken wrongly: each computes what ONNX Runtime computes, and is exported again."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compressor.bench import open_session
from compressor.dependency.inputs import Inputs
from compressor.errors import ModelError
from compressor.exporters import export_onnx
from compressor.models.from_onnx.file import read_file
from compressor.models.from_onnx.network import network_of


def trace(model, inputs, path, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), inputs, str(path), dynamo=False, opset_version=17, **more)


def made(path, nodes, inputs, outputs, weights, opset=17):
    """A file of single nodes; inputs and outputs are {name: (type, sizes)}."""
    ports = [[helper.make_tensor_value_info(name, *one) for name, one in side.items()] for side in (inputs, outputs)]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "made", *ports, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)


def runs(path, *arrays):
    session, _ = open_session(path, provider="cpu", threads=1)
    return session.run(None, {one.name: array for one, array in zip(session.get_inputs(), arrays, strict=True)})


class Attention(nn.Module):
    """Attention, whose sequences are the first axis inside."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)).mean(1))


class Tokens(nn.Module):
    """A class token before the patches, and positions."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 17, 8))

    def forward(self, x):
        patches = self.embed(x).flatten(2).transpose(1, 2)
        return self.head((torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.places)[:, 0])


class Twice(nn.Module):
    """One convolution that is called three times."""

    def __init__(self):
        super().__init__()
        self.first, self.same, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        for _ in range(3):
            x = torch.relu(self.same(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("network", "shape"), [(Attention, (5, 6)), (Tokens, (3, 16, 16)), (Twice, (3, 8, 8))])
def test_files_of_a_fixed_batch(network, shape, batch, tmp_path):
    torch.manual_seed(0)
    model, path = network(), tmp_path / "fixed.onnx"
    trace(model, (torch.randn(batch, *shape),), path)
    found, inputs = network_of(path, {}), torch.randn(3, *shape)
    with torch.no_grad():
        assert torch.allclose(found(inputs), model(inputs), atol=1e-5)
    own = inputs if len(shape) == 3 else Inputs((inputs,))
    assert export_onnx(found, tmp_path / "again.onnx", [own]).parity.max_rel_error < 1e-4


def test_a_layer_that_is_called_several_times_is_one(tmp_path):
    model, path = Twice(), tmp_path / "tied.onnx"
    trace(model, (torch.randn(2, 3, 8, 8),), path)
    found = network_of(path, {"batch_norm": "as_is"})
    assert sum(p.numel() for p in found.parameters()) == sum(p.numel() for p in model.parameters())


def test_open_sizes_are_those_that_the_network_is_used_on(tmp_path):
    path, draw = tmp_path / "open.onnx", np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", auto_pad="SAME_UPPER", strides=[2, 2], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"], "pool"),
    ]
    weights = {"w": draw.normal(size=(4, 3, 3, 3)).astype(np.float32)}
    sizes = ["N", 3, "H", "W"]
    made(path, nodes, {"x": (TensorProto.FLOAT, sizes)}, {"y": (TensorProto.FLOAT, ["N", 4, 1, 1])}, weights)
    for side in (32, 33):
        images = draw.normal(size=(2, 3, side, side)).astype(np.float32)
        with torch.no_grad():
            found = network_of(path, {}, (3, side, side))(torch.from_numpy(images)).numpy()
        assert np.allclose(found, runs(path, images)[0], atol=1e-5)


def test_unread_inputs_and_constant_outputs_stay(tmp_path):
    path = tmp_path / "odd.onnx"
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
        helper.make_node("Identity", ["anchors"], ["boxes"], "pass"),
        helper.make_node("Constant", [], ["nobody"], "text", value_string="nothing"),
    ]
    draw = np.random.default_rng(0)
    weights = {name: draw.normal(size=size).astype(np.float32) for name, size in (("w", (4, 6)), ("v", (6, 2)))}
    weights["anchors"] = np.arange(6, dtype=np.float32).reshape(3, 2)
    inputs = {"x": (TensorProto.FLOAT, ["N", 4]), "z": (TensorProto.FLOAT, ["N", 7])}
    outputs = {"y": (TensorProto.FLOAT, ["N", 2]), "boxes": (TensorProto.FLOAT, [3, 2])}
    made(path, nodes, inputs, outputs, weights)
    network = network_of(path, {})
    given = Inputs((torch.randn(3, 4), torch.randn(3, 7)))
    again = export_onnx(network, tmp_path / "again.onnx", [given.of_batch(1), given]).path
    assert [one.name for one in onnx.load(again).graph.input] == ["x", "z"]
    arrays = [one.numpy() for one in given.args]
    for one, other in zip(runs(again, *arrays), runs(path, *arrays), strict=True):
        assert np.allclose(one, other, atol=1e-5)


def test_bytes_are_no_tokens(tmp_path):
    path = tmp_path / "bytes.onnx"
    nodes = [
        helper.make_node("Cast", ["photo"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["t"], "turn", perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["t", "most"], ["d"], "scale"),
        helper.make_node("Conv", ["d", "w"], ["c"], "conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r"], ["y"], "mean", axes=[2, 3], keepdims=0),
    ]
    draw = np.random.default_rng(0)
    weights = {"w": draw.normal(size=(4, 3, 3, 3)).astype(np.float32), "most": np.float32(255).reshape(1)}
    taken = {"photo": (TensorProto.UINT8, ["N", 8, 8, 3])}
    made(path, nodes, taken, {"y": (TensorProto.FLOAT, ["N", 4])}, weights)
    photos = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    again = export_onnx(network_of(path, {}), tmp_path / "again.onnx", [photos[:1], photos]).path
    assert onnx.load(again).graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert np.allclose(runs(again, photos.numpy())[0], runs(path, photos.numpy())[0], atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("QuantizeLinear", {}, "node it (QuantizeLinear): the file is quantised"),
        ("NonZero", {}, "node it (NonZero): how much it gives depends on the values"),
        ("RandomNormalLike", {}, "node it (RandomNormalLike): what it gives is drawn at random"),
        ("Det", {}, "node it (Det): this operator is not known"),
        ("FusedConv", {"domain": "com.microsoft"}, "node it (FusedConv): is of the domain com.microsoft"),
    ],
)
def test_what_torch_cannot_be_given_is_refused_by_its_node(kind, more, said, tmp_path):
    path = tmp_path / "refused.onnx"
    inputs = ["x", "s"] if kind in ("QuantizeLinear", "FusedConv") else ["x"]
    node = helper.make_node(kind, inputs, ["y"], "it", **more)
    graph = helper.make_graph(
        [node],
        "refused",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 4])],
        [
            helper.make_tensor_value_info(
                "y", TensorProto.UINT8 if kind == "QuantizeLinear" else TensorProto.FLOAT, ["N", "a", "b"]
            )
        ],
        [numpy_helper.from_array(np.float32(1).reshape(()), "s")] if len(inputs) > 1 else [],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    with pytest.raises(ModelError) as refused:
        network_of(path, {})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_inputs_without_a_common_batch_are_refused(tmp_path):
    path = tmp_path / "scalar.onnx"
    node = helper.make_node("Mul", ["x", "k"], ["y"], "it")
    inputs = {"x": (TensorProto.FLOAT, ["N", 4]), "k": (TensorProto.FLOAT, [])}
    made(path, [node], inputs, {"y": (TensorProto.FLOAT, ["N", 4])}, {})
    with pytest.raises(ModelError, match=r"input k has the axes \(\); axis 0 of every input must be the same batch"):
        read_file(path)
