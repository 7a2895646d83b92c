"""A compressed file stands in the place of the original: names, types, layout, operator set, metadata."""

import copy
import pickle
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from compressor.bench import open_session
from compressor.dependency.inputs import Inputs
from compressor.errors import ModelError
from compressor.exporters import SCHEMES, OnnxNetwork, export_onnx, to_int8
from compressor.models.from_onnx.interface import interface_of
from compressor.models.from_onnx.network import network_of

GRAPHS = runpy.run_path(str(Path(__file__).parents[3] / "experiments" / "onnx_graphs.py"))


def ports(path):
    proto = onnx.load(path)
    return [[port(one) for one in side] for side in (proto.graph.input, proto.graph.output)]


def port(value):
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]


def opset(path):
    return onnx.load(path).opset_import[0].version


@pytest.fixture
def keras(tmp_path):
    """Images (N, H, W, C), with an entry of its own in the metadata."""
    proto = GRAPHS["keras_style"](13)
    helper.set_model_props(proto, {"author": "somebody"})
    proto.doc_string, proto.model_version, proto.domain = "finds birds", 7, "org.example"
    onnx.save(proto, tmp_path / "keras.onnx")
    return tmp_path / "keras.onnx"


def test_images_with_channels_last(keras, tmp_path):
    network = network_of(keras, {})
    assert interface_of(network).channels_last
    images = torch.randn(5, 3, 32, 32)
    exported = export_onnx(network, tmp_path / "again.onnx", [images[:1], images])
    assert ports(tmp_path / "again.onnx") == ports(keras)
    assert opset(tmp_path / "again.onnx") == exported.opset == 13
    assert {"author": "somebody"}.items() <= {p.key: p.value for p in onnx.load(exported.path).metadata_props}.items()
    session, _ = open_session(keras, provider="cpu", threads=1)
    again, _ = open_session(exported.path, provider="cpu", threads=1)
    for name in ("description", "version", "domain", "graph_name"):
        assert getattr(again.get_modelmeta(), name) == getattr(session.get_modelmeta(), name)
    expected = session.run(None, {"images": images.permute(0, 2, 3, 1).numpy()})[0]
    assert np.allclose(OnnxNetwork(exported.path).logits(images), expected, atol=1e-4)
    assert np.allclose(again.run(None, {"images": images.permute(0, 2, 3, 1).numpy()})[0], expected, atol=1e-4)


def test_int8_is_calibrated_on_images_as_the_file_takes_them(keras, tmp_path):
    images = torch.randn(8, 3, 32, 32)
    network = network_of(keras, {})
    exported = export_onnx(network, tmp_path / "plain.onnx", [images])
    to_int8(exported.path, tmp_path / "int8.onnx", SCHEMES["u8s8 per-channel"], [images.numpy()])
    assert ports(tmp_path / "int8.onnx") == ports(keras)
    assert onnx.load(tmp_path / "int8.onnx").doc_string == "finds birds"
    expected = network(images).detach().numpy()
    assert np.abs(OnnxNetwork(tmp_path / "int8.onnx").logits(images) - expected).max() <= 0.1 * np.abs(expected).max()


def test_an_operator_set_that_is_asked_for(keras, tmp_path):
    network = network_of(keras, {})
    assert export_onnx(network, tmp_path / "a.onnx", [torch.randn(2, 3, 32, 32)], opset=18).opset == 18


def half_precision(tmp_path):
    """Two inputs, one of them integers, and two outputs, in float16, for a batch of 2."""
    draw = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(draw.normal(0, 0.3, shape).astype(np.float16), name)
        for name, shape in (("table", (6, 8)), ("w1", (4, 8)), ("w2", (8, 3)), ("b2", (3,)), ("w3", (8, 2)))
    ]
    nodes = [
        helper.make_node("Gather", ["table", "kind"], ["looked_up"], "look"),
        helper.make_node("MatMul", ["x:0", "w1"], ["hidden"], "first"),
        helper.make_node("Add", ["hidden", "looked_up"], ["sum"], "sum"),
        helper.make_node("Relu", ["sum"], ["logits"], "relu"),  # has the name of what our exporter calls its output
        helper.make_node("Gemm", ["logits", "w2", "b2"], ["scores"], "scores"),
        helper.make_node("MatMul", ["logits", "w3"], ["boxes.0"], "boxes"),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [
            helper.make_tensor_value_info("x:0", TensorProto.FLOAT16, [2, 4]),
            helper.make_tensor_value_info("kind", TensorProto.INT32, [2]),
        ],
        [
            helper.make_tensor_value_info("boxes.0", TensorProto.FLOAT16, [2, 2]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT16, [2, 3]),
        ],
        weights,
    )
    path = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_several_inputs_and_outputs_in_half_precision(tmp_path):
    path = half_precision(tmp_path)
    network = network_of(path, {})
    x, kind = torch.randn(3, 4), torch.tensor([0, 5, 1], dtype=torch.int32)
    inputs = Inputs((x, kind))
    exported = export_onnx(network, tmp_path / "again.onnx", [inputs.of_batch(1), inputs], tolerance=1e-2)
    own, made = ports(path), ports(exported.path)
    for mine, theirs in zip(made[0] + made[1], own[0] + own[1], strict=True):
        assert mine[:2] == theirs[:2]
        assert mine[2][1:] == theirs[2][1:]
        assert mine[2][0] == "batch"  # it was 2 alone
    session, _ = open_session(path, provider="cpu", threads=1)
    again, _ = open_session(exported.path, provider="cpu", threads=1)
    fed = {"x:0": x[:2].numpy().astype(np.float16), "kind": kind[:2].numpy()}
    for one, other in zip(again.run(None, fed), session.run(None, fed), strict=True):
        assert one.dtype == np.float16
        assert np.allclose(one, other, atol=2e-2)


def test_other_networks_have_no_interface():
    assert interface_of(torch.nn.Linear(2, 2)) is None


def test_a_softmax_at_the_end_is_taken_off_for_training_and_put_back(tmp_path):
    graph = GRAPHS["Graph"](13)
    y = graph.add("Relu", graph.add("Conv", "x", graph.weight(6, 3, 3, 3), graph.weight(6)))
    y = graph.add("Flatten", graph.add("GlobalAveragePool", y))
    y = graph.add("Softmax", graph.add("Gemm", y, graph.weight(6, 4), transB=0), axis=1)
    onnx.save(graph.model({"x": ("N", 3, 8, 8)}, {y: ("N", 4)}), tmp_path / "probabilities.onnx")
    network, images = network_of(tmp_path / "probabilities.onnx", {}), torch.randn(5, 3, 8, 8)
    session, _ = open_session(tmp_path / "probabilities.onnx", provider="cpu", threads=1)
    expected = session.run(None, {"x": images.numpy()})[0]
    with torch.no_grad():
        logits = network(images)
    assert not torch.allclose(logits.sum(1), torch.ones(5))
    assert np.allclose(logits.softmax(1), expected, atol=1e-5)
    exported = export_onnx(network, tmp_path / "again.onnx", [images[:1], images])
    assert ports(exported.path) == ports(tmp_path / "probabilities.onnx")
    again, _ = open_session(exported.path, provider="cpu", threads=1)
    assert np.allclose(again.run(None, {"x": images.numpy()})[0], expected, atol=1e-5)
    assert np.allclose(np.exp(OnnxNetwork(exported.path).logits(images)), expected, atol=1e-5)


@pytest.mark.parametrize("outputs", [1, 2])
def test_images_with_channels_last_and_outputs_of_its_own(outputs, tmp_path):
    graph = GRAPHS["Graph"](17)
    y = graph.add("Conv", graph.add("Transpose", "x", perm=[0, 3, 1, 2]), graph.weight(6, 3, 3, 3), pads=[1] * 4)
    y = graph.add("Relu", y)
    maps = [graph.add("Conv", y, graph.weight(2, 6, 1, 1)) for _ in range(outputs)]
    path = tmp_path / "maps.onnx"
    onnx.save(graph.model({"x": ("N", 8, 8, 3)}, dict.fromkeys(maps, ("N", 2, 8, 8))), path)
    network, images = network_of(path, {}), torch.randn(3, 3, 8, 8)
    session, _ = open_session(path, provider="cpu", threads=1)
    expected = session.run(None, {"x": images.permute(0, 2, 3, 1).numpy()})
    exported = export_onnx(network, tmp_path / "again.onnx", [Inputs((images[:1],)), Inputs((images,))])
    assert ports(exported.path) == ports(path)
    for one, other in zip(OnnxNetwork(exported.path).all_outputs(Inputs((images,))), expected, strict=True):
        assert np.allclose(one, other, atol=1e-5)


def test_copies_and_pickled_networks_keep_it(keras):
    network = network_of(keras, {})
    again = pickle.loads(pickle.dumps(network))
    assert interface_of(copy.deepcopy(network)) == interface_of(again) == interface_of(network)


def test_images_of_a_size_that_the_file_has_not_are_refused(keras):
    with pytest.raises(ModelError, match=r"\(N, 32, 32, 3\); the data's images are \(40, 40, 3\)"):
        network_of(keras, {}, (3, 40, 40))
