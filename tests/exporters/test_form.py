"""The forms of a shipped file: whatever lies in the graph around the network, it computes what PyTorch computes."""

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from compressor.bench import open_session
from compressor.exporters import SCHEMES, Form, OnnxNetwork, export_onnx, finish, measure_parity, to_int8
from compressor.exporters.form import in_batches

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


@pytest.fixture(scope="module")
def raw():
    """Images as bytes (N, H, W, C), smooth as photographs are."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((24, 20)) for _ in range(7)]
    return np.stack([np.asarray(image) for image in images])


def normalised(raw):
    planes = torch.from_numpy(raw).permute(0, 3, 1, 2).float() / 255
    return (planes - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.fixture(scope="module")
def plain(network, raw, tmp_path_factory):
    path = tmp_path_factory.mktemp("form") / "plain.onnx"
    images = normalised(raw)
    export_onnx(network, path, [images[:1], images])
    return path


def finished(plain, folder, scheme=None, samples=(), **form):
    path = folder / "finished.onnx"
    finish(plain, path, Form(mean=MEAN, std=STD, **form), scheme, samples)
    return path


def run(path, inputs):
    session, _ = open_session(path, provider="cpu", threads=1)
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("preprocess", ["none", "uint8", "resize"])
@pytest.mark.parametrize("softmax", [None, 1])
def test_every_form_computes_what_the_network_computes(network, raw, plain, tmp_path, precision, preprocess, softmax):
    images = normalised(raw)
    scheme = SCHEMES["u8s8 per-channel"] if precision == "int8" else None
    form = {"precision": precision, "preprocess": preprocess, "softmax": softmax}
    path = finished(plain, tmp_path, scheme, [images.numpy()], **form)
    given = images.numpy() if preprocess == "none" else raw
    with torch.no_grad():
        expected = network(images)
        expected = expected.softmax(1) if softmax else expected
    found = run(path, given)
    error = np.abs(found - expected.numpy()).max() / expected.abs().max()
    assert error < {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.1}[precision]
    assert np.allclose(OnnxNetwork(path, 1).outputs(images), found, atol=1e-6)
    if softmax:
        assert np.allclose(found.sum(1), 1, atol=1e-5)
        difference = OnnxNetwork(path, 1).logits(images) - np.log(found)
        assert np.allclose(difference, 0, atol=1e-5)
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_images_of_any_size_are_resized_as_the_data_is(network, raw, plain, tmp_path):
    path = finished(plain, tmp_path, preprocess="resize")
    large = [Image.fromarray(image).resize((67, 45), Image.Resampling.BICUBIC) for image in raw]
    small = np.stack([np.asarray(image.resize((24, 20), Image.Resampling.BILINEAR)) for image in large])
    with torch.no_grad():
        expected = network(normalised(small)).numpy()
    found = run(path, np.stack([np.asarray(image) for image in large]))
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()  # bytes in between are rounded by PIL


def test_a_fixed_batch(network, raw, plain, tmp_path):
    path = finished(plain, tmp_path, batch=4, preprocess="uint8", softmax=1)
    session, _ = open_session(path, provider="cpu", threads=1)
    assert session.get_inputs()[0].shape == [4, 20, 24, 3]
    assert session.get_outputs()[0].shape == [4, 5]
    with torch.no_grad():
        expected = network(normalised(raw)).softmax(1).numpy()
    assert np.allclose(OnnxNetwork(path, 1).outputs(normalised(raw)), expected, atol=1e-5)
    parity = measure_parity(
        nn.Sequential(network, nn.Softmax(1)), OnnxNetwork(path, 1).outputs, [normalised(raw)], 1e-4
    )
    assert parity.batches == (7,)


@pytest.mark.parametrize(("count", "batch"), [(7, 4), (8, 4), (1, 3), (5, None)])
def test_pieces_of_a_fixed_batch_hold_every_sample_once(count, batch):
    inputs = np.arange(count)
    pieces = in_batches(inputs, batch)
    assert np.concatenate([piece[:counts] for piece, counts in pieces]).tolist() == inputs.tolist()
    assert all(len(piece) == batch for piece, _ in pieces) or batch is None


@pytest.mark.parametrize("opset", [11, 12, 13])
def test_a_softmax_over_the_classes_of_pixels_in_every_operator_set(tmp_path, opset):
    network, images = torch.nn.Conv2d(3, 5, 3), torch.randn(2, 3, 8, 8)
    exported = export_onnx(network.eval(), tmp_path / "plain.onnx", [images], opset=opset)
    finish(exported.path, tmp_path / "finished.onnx", Form(softmax=1), None, [])
    expected = network(images).softmax(1).detach().numpy()
    assert np.allclose(OnnxNetwork(tmp_path / "finished.onnx").outputs(images), expected, atol=1e-5)


def test_fp16_halves_the_weights(plain, tmp_path):
    path = finished(plain, tmp_path, precision="fp16")
    kinds = {weight.data_type for weight in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if not scheme.dynamic])
def test_integers_are_of_the_types_that_the_scheme_names(raw, plain, tmp_path, name):
    scheme = SCHEMES[name]
    path = tmp_path / "int8.onnx"
    to_int8(plain, path, scheme, [normalised(raw).numpy()])
    graph = onnx.load(path).graph
    weights = {weight.name: weight for weight in graph.initializer}
    kinds = {"u8": onnx.TensorProto.UINT8, "s8": onnx.TensorProto.INT8}
    zero_points = [weights[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert zero_points
    assert {zero.data_type for zero in zero_points} == {kinds[scheme.activations]}
    if scheme.activations == "s8":
        assert all(not np.frombuffer(zero.raw_data, np.int8).any() for zero in zero_points)
    kernels = [w for w in graph.initializer if len(w.dims) == 4 and w.data_type != onnx.TensorProto.INT64]
    assert {kernel.data_type for kernel in kernels} == {kinds[scheme.weights]}
    scales = [weights[node.input[1]].dims for node in graph.node if node.input[0] in {k.name for k in kernels}]
    assert all((len(dims) == 1) == scheme.per_channel for dims in scales)
    if scheme.reduced:
        values = np.concatenate([np.frombuffer(kernel.raw_data, np.int8) for kernel in kernels])
        assert np.abs(values.astype(int)).max() <= 64


def test_metadata_survives(raw, plain, tmp_path):
    proto = onnx.load(plain)
    onnx.helper.set_model_props(proto, {"note": "kept"})
    onnx.save(proto, tmp_path / "noted.onnx")
    for precision, scheme in (("fp16", None), ("int8", SCHEMES["u8s8"])):
        form = Form(precision, "uint8", MEAN, STD)
        finish(tmp_path / "noted.onnx", tmp_path / "made.onnx", form, scheme, [normalised(raw).numpy()])
        assert {entry.key for entry in onnx.load(tmp_path / "made.onnx").metadata_props} >= {"note", "compressor.input"}
