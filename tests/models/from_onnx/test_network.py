"""Networks from ONNX files: the same outputs, batch-norms that training needs, and clear refusals."""

import copy
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torchvision.models import mobilenetv2, resnet

from compressor.bench import open_session
from compressor.errors import CompressorError, ModelError
from compressor.exporters import export_onnx
from compressor.models import build, graph_of, reference_architecture
from compressor.models.from_onnx.batch_norms import settle_
from compressor.models.from_onnx.network import network_of


def trace(model, images, path):
    """torch's older exporter, which most files of today come from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (images,), str(path), dynamo=False, opset_version=17)


class Small(nn.Module):
    """Convolutions with and without batch-norm, a residual sum, a flattening that knows its batch."""

    def __init__(self, classes=10):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.third = nn.Conv2d(8, 12, 3, stride=2)
        self.head = nn.Linear(12, classes)

    def forward(self, images):
        x = self.first(images)
        x = torch.relu(x + self.second(x))
        return self.head(torch.relu(self.third(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def trained_like():
    """A network whose batch-norms have seen something."""
    torch.manual_seed(0)
    model = Small()
    for _ in range(3):
        model(torch.rand(16, 1, 8, 8) * 3)
    return model.eval()


@pytest.fixture(scope="module")
def file(trained_like, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    export_onnx(trained_like, path, [torch.rand(1, 1, 8, 8), torch.rand(5, 1, 8, 8)])
    return path


def runs(path, images):
    session, _ = open_session(path, provider="cpu", threads=1)
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


@pytest.mark.parametrize("options", [{}, {"batch_norm": "as_is"}])
def test_torch_computes_what_the_file_computes(file, options):
    images = torch.rand(7, 1, 8, 8)
    with torch.no_grad():
        assert np.allclose(network_of(file, options).eval()(images), runs(file, images), atol=1e-5)


def test_every_convolution_gets_a_batch_norm_back(file):
    restored = network_of(file, {})
    kinds = [type(module) for module in restored.modules()]
    assert kinds.count(nn.BatchNorm2d) == kinds.count(nn.Conv2d) == 3
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network_of(file, {"batch_norm": "as_is"}).modules())


def test_settled_batch_norms_change_nothing_in_evaluation_or_training(file):
    images = torch.rand(64, 1, 8, 8)
    network = network_of(file, {})
    assert settle_(network, [images]) == 3
    expected = torch.from_numpy(runs(file, images))
    with torch.no_grad():
        assert torch.allclose(network.eval()(images), expected, atol=1e-4)
        in_training = copy.deepcopy(network).train()(images)
    assert torch.allclose(in_training, expected, atol=1e-2)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_file_of_a_fixed_batch_takes_any(trained_like, tmp_path, batch):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 10)

        def forward(self, images):
            return self.head(torch.relu(self.conv(images)).reshape(images.shape[0], -1))

    path = tmp_path / "fixed.onnx"
    trace(Flat(), torch.rand(batch, 1, 8, 8), path)
    images = torch.rand(batch, 1, 8, 8)
    network = network_of(path, {}).eval()
    with torch.no_grad():
        assert np.allclose(network(images), runs(path, images), atol=1e-5)
        assert network(torch.rand(3, 1, 8, 8)).shape == (3, 10)


def test_its_widths_can_be_changed(file):
    own = reference_architecture(f"onnx:{file}", {}, 10, (1, 8, 8))
    assert sorted(own.widths.values()) == [8, 12]  # the residual sum couples the first two layers
    half = own.with_widths({name: width // 2 for name, width in own.widths.items()})
    with torch.no_grad():
        assert build(half).eval()(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert set(graph_of(own).groups) == set(own.widths)


def shallow(name):
    """A network of torchvision with every kind of its blocks, but few of them: exporting takes time by the layer."""
    if name == "resnet":
        return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
    blocks = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 1]]
    return mobilenetv2.MobileNetV2(num_classes=10, inverted_residual_setting=blocks)


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2"])
@pytest.mark.parametrize("dynamo", [False, True])
def test_torchvisions_exports(name, dynamo, tmp_path):
    torch.manual_seed(0)
    model = shallow(name).eval()
    path = tmp_path / f"{name}.onnx"
    images = torch.rand(2, 3, 64, 64)
    if dynamo:
        export_onnx(model, path, [images])
    else:
        trace(model, images, path)
    network = network_of(path, {}).eval()
    with torch.no_grad():
        assert torch.allclose(network(images), model(images), rtol=1e-3, atol=1e-4)
    own = reference_architecture(f"onnx:{path}", {}, 10, (3, 64, 64))
    half = own.with_widths({group: max(1, width // 2) for group, width in own.widths.items()})
    assert build(half).eval()(torch.rand(3, 3, 64, 64)).shape == (3, 10)


def no_file(path, proto):
    pass


def no_onnx(path, proto):
    path.write_bytes(b"hello")


def cut_off(path, proto):
    path.write_bytes(proto.SerializeToString()[:-500])


def two_inputs(path, proto):
    proto.graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))
    onnx.save(proto, path)


def of_integers(path, proto):
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    path.write_bytes(proto.SerializeToString())


def unknown_operator(path, proto):
    proto.graph.node[0].op_type = "Nonsense"
    path.write_bytes(proto.SerializeToString())


def external_data_missing(path, proto):
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (path.parent / "weights.bin").unlink()


@pytest.mark.parametrize(
    "spoil", [no_file, no_onnx, cut_off, two_inputs, of_integers, unknown_operator, external_data_missing]
)
def test_what_is_no_image_classifier_is_refused_in_one_sentence(file, tmp_path, spoil):
    path = tmp_path / "spoiled.onnx"
    spoil(path, onnx.load(file))
    with pytest.raises(ModelError, match=r"model\.onnx: ") as refused:
        network_of(path, {})
    assert "spoiled.onnx" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [{"batchnorm": "restore"}, {"batch_norm": "maybe"}])
def test_unknown_options(file, options):
    with pytest.raises(ModelError, match=r"model\.options.* is not one of "):
        network_of(file, options)


def test_images_of_another_size_or_other_classes_are_refused(file):
    with pytest.raises(CompressorError, match="10"):
        build(reference_architecture(f"onnx:{file}", {}, 7, (1, 8, 8)))
    with pytest.raises(CompressorError):
        reference_architecture(f"onnx:{file}", {}, 10, (3, 8, 8))


def test_filters_before_restored_batch_norms_have_the_norm_of_fresh_ones(file):
    images = torch.rand(7, 1, 8, 8)
    network = network_of(file, {})
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            assert float(module.weight.detach().flatten(1).norm(dim=1).mean()) == pytest.approx(2**0.5)
    with torch.no_grad():
        assert np.allclose(network.eval()(images), runs(file, images), atol=1e-5)
