"""A compressed file stands in the place of the original: names, types, layout, operator set, metadata."""

import copy
import pickle
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor.bench import open_session
from compressor.costs.untrained import finished
from compressor.dependency.inputs import Inputs
from compressor.errors import ExportError, ModelError
from compressor.exporters import SCHEMES, Form, OnnxModule, OnnxNetwork, export_onnx, finish, to_int8
from compressor.models.from_onnx.interface import interface_of
from compressor.models.from_onnx.network import network_of
from compressor.training.imitation import Originals

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


def classifier(end, opset=17, taken="images", size=("N", 3, 32, 32)):
    """A convolution, pooling and four classes, then `end(graph, logits (N, 4, 1, 1))`."""
    graph = GRAPHS["Graph"](opset)
    y = graph.add("Relu", graph.add("Conv", taken, graph.weight(8, 3, 3, 3), pads=[1] * 4))
    y = graph.add("Conv", graph.add("GlobalAveragePool", y), graph.weight(4, 8, 1, 1))
    model = graph.model({taken: size}, {end(graph, y): ("N", 4)})
    if model.graph.node[-1].op_type == "Cast":
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def flat_then_softmax(graph, y):
    return graph.add("Softmax", graph.add("Flatten", y), axis=1)


ENDS = {
    "last": flat_then_softmax,
    "cast": lambda graph, y: graph.add("Cast", flat_then_softmax(graph, y), to=TensorProto.FLOAT16),
    "flattened": lambda graph, y: graph.add("Flatten", graph.add("Softmax", y, axis=1)),
    "flattened twice": lambda graph, y: graph.add("Flatten", graph.add("Softmax", graph.add("Flatten", y), axis=1)),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_probabilities_are_trained_as_logits_and_stay_probabilities(tmp_path, end):
    onnx.save(classifier(end), tmp_path / "given.onnx")
    network, images = network_of(tmp_path / "given.onnx", {}), torch.randn(5, 3, 32, 32)
    assert interface_of(network).softmax
    expected = OnnxNetwork(tmp_path / "given.onnx").outputs(images)
    close = 1e-2 if interface_of(network).is_half else 1e-5
    assert np.allclose(network(images).softmax(1).detach().numpy(), expected, atol=close)
    for batches in ([images], [Inputs((images,))]):
        exported = export_onnx(network, tmp_path / "again.onnx", batches)
        assert np.allclose(OnnxNetwork(exported.path).outputs(images), expected, atol=close)
    wanted = Form(softmax=1, own_names=True)
    finish(exported.path, tmp_path / "finished.onnx", wanted, None, [])  # which it has already
    assert np.allclose(OnnxNetwork(tmp_path / "finished.onnx").outputs(images), expected, atol=close)
    assert ports(tmp_path / "finished.onnx") == ports(tmp_path / "given.onnx")


def test_confident_probabilities_in_16_bits_are_compared_as_far_as_they_go(tmp_path):
    proto = classifier(ENDS["cast"])
    for weight in proto.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(30 * numpy_helper.to_array(weight), weight.name))
    onnx.save(proto, tmp_path / "given.onnx")
    network, images = network_of(tmp_path / "given.onnx", {}), torch.randn(9, 3, 32, 32)
    assert network(images).softmax(1).min() < 1e-9
    exported = export_onnx(network, tmp_path / "again.onnx", [images])
    module = OnnxModule(exported.path, like=torch.zeros(9, 4), order=["images"])
    originals = Originals(network, None, softmax=True)
    (found,), (wanted,) = originals.outputs(module, images), originals.outputs(network, images)
    assert torch.allclose(found, wanted, atol=0.1)


def test_a_softmax_over_places_stays_in_the_network(tmp_path):
    graph = GRAPHS["Graph"](17)
    y = graph.add("Softmax", graph.add("Conv", "x", graph.weight(4, 3, 3, 3)), axis=1)
    onnx.save(graph.model({"x": ("N", 3, 4, 4)}, {graph.add("Flatten", y): ("N", 16)}), tmp_path / "places.onnx")
    assert not interface_of(network_of(tmp_path / "places.onnx", {})).softmax


@pytest.mark.parametrize("taken", ["normalised", "probabilities", "softmax", "logits"])
def test_names_of_the_file_are_not_those_that_its_form_adds(tmp_path, taken):
    proto = classifier(lambda graph, y: graph.add("Flatten", y), taken=taken)
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = given = "scores" if taken == "logits" else "logits"
    onnx.save(proto, tmp_path / "given.onnx")
    network, images = network_of(tmp_path / "given.onnx", {}), torch.rand(5, 3, 32, 32)
    exported = export_onnx(network, tmp_path / "plain.onnx", [images])
    form = Form(preprocess="uint8", mean=(0.5,) * 3, std=(0.5,) * 3, softmax=1, batch=5, own_names=True)
    finish(exported.path, tmp_path / "finished.onnx", form, None, [])
    session, _ = open_session(tmp_path / "finished.onnx", provider="cpu", threads=1)
    raw = (images * 255).round().to(torch.uint8)
    (found,) = session.run([given], {taken: raw.permute(0, 2, 3, 1).numpy()})
    expected = network((raw / 255 - 0.5) / 0.5).softmax(1).detach().numpy()
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("end", [ENDS["last"], ENDS["cast"]], ids=["float", "half"])
def test_probabilities_of_an_int8_file_are_floats(tmp_path, end):
    onnx.save(classifier(end), tmp_path / "given.onnx")
    network, images = network_of(tmp_path / "given.onnx", {}), torch.randn(64, 3, 32, 32)
    exported = export_onnx(network, tmp_path / "plain.onnx", [images])
    to_int8(exported.path, tmp_path / "int8.onnx", SCHEMES["u8s8"], [images.numpy()])
    found = OnnxNetwork(tmp_path / "int8.onnx").outputs(images)
    assert np.allclose(found.sum(1), 1, atol=2e-3)  # of 8 bits it would be off by up to 8e-3
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert "QuantizeLinear" not in kinds[kinds.index("Softmax") :]
    assert {entry.domain for entry in onnx.load(tmp_path / "int8.onnx").opset_import} == {""}


def test_scales_by_channel_are_refused_where_the_operator_set_lacks_them(tmp_path):
    onnx.save(classifier(flat_then_softmax, opset=11), tmp_path / "given.onnx")
    network, images = network_of(tmp_path / "given.onnx", {}), torch.randn(8, 3, 32, 32)
    exported = export_onnx(network, tmp_path / "plain.onnx", [images])
    with pytest.raises(ExportError, match="int8: operator set 11 has no scales by channel"):
        to_int8(exported.path, tmp_path / "int8.onnx", SCHEMES["u8s8 per-channel"], [images.numpy()])
    shipped = tmp_path / "finished.onnx"
    tried = [scheme.per_channel for scheme in finished(exported.path, shipped, Form(precision="int8"), images)]
    assert tried
    assert not any(tried)
    assert onnx.load(shipped).opset_import[0].version == 11


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
