"""Rounding as in int8 while a network trains: like its int8 file, with gradients, and gone afterwards."""

import copy
import pickle

import pytest
import torch
from torch import nn

from compressor.exporters import Form, OnnxNetwork, export_onnx, finish
from compressor.recipe.precision import precisions
from compressor.training.fake_quantization import fake_quantized, rounded, rounded_weight


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16, 5)).eval()


def images(count=64):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_values_keep_to_256_steps_with_0_among_them():
    x = torch.cat([torch.randn(5000), torch.zeros(1)])
    found = rounded(x)
    assert len(found.unique()) <= 256
    assert found[-1] == 0
    step = (x.max() - x.min()) / 255
    assert (found - x).abs().max() <= 0.51 * step
    assert rounded(torch.full((3,), 2.0)) == pytest.approx(2.0)
    assert (rounded(torch.zeros(4)) == 0).all()


def test_weights_have_a_scale_for_each_channel():
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([1e-3, 1.0, 50.0, 0.0]).reshape(-1, 1, 1, 1)
    found = rounded_weight(weight)
    assert all(len(channel.unique()) <= 255 for channel in found)
    assert ((found - weight).abs().flatten(1).amax(1) <= 0.51 * weight.abs().flatten(1).amax(1) / 127).all()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_gradients_pass_unchanged(kind):
    for rounding in (rounded, rounded_weight):
        x = torch.randn(6, 5).to(kind).requires_grad_()
        weights = torch.randn(6, 5).to(kind)
        made = rounding(x)
        assert made.dtype == kind
        (made * weights).sum().backward()
        assert torch.equal(x.grad, weights)


def test_it_is_gone_afterwards(network):
    before, weights = network(images()), {name: value.clone() for name, value in network.state_dict().items()}
    with fake_quantized(network) as layers:
        assert layers == ["0", "3", "6"]
        assert not torch.equal(network(images()), before)
    assert torch.equal(network(images()), before)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    with pytest.raises(RuntimeError, match="stop"), fake_quantized(network):
        raise RuntimeError("stop")
    assert torch.equal(network(images()), before)


def test_a_copy_computes_with_its_own_weights(network):
    with fake_quantized(network), torch.no_grad():
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            for parameter in other.parameters():
                parameter.zero_()
            assert (other(images()) == 0).all()
        assert (network(images()) != 0).any()


def test_a_layer_with_a_forward_of_its_own_is_left_alone():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(Doubled(4, 4))
    with fake_quantized(model) as layers:
        assert not layers


def test_it_is_nearer_to_the_int8_file_than_the_float32_network(network, tmp_path):
    with torch.no_grad():  # one large weight in each channel, beside which the others are less than a step
        network[6].weight[:, 0] = 20
    export_onnx(network, tmp_path / "plain.onnx", [images()])
    scheme = precisions()["int8"].schemes["u8s8 per-channel"]
    finish(tmp_path / "plain.onnx", tmp_path / "int8.onnx", Form("int8"), scheme, [images().numpy()])
    quantized = torch.from_numpy(OnnxNetwork(tmp_path / "int8.onnx", 1).logits(images()))
    with torch.no_grad():
        plain = network(images())
        with fake_quantized(network):
            simulated = network(images())
    assert (simulated - quantized).abs().mean() < 0.7 * (plain - quantized).abs().mean()


def test_training_with_it_moves_weights_to_where_rounding_costs_less(network):
    """What a linear layer is asked for, its rounded self learns to give."""
    target = network[-1](torch.randn(8 * 16).expand(2, -1)).detach()
    x = torch.randn(2, 8 * 16)
    layer = nn.Sequential(nn.Linear(8 * 16, 5))

    def loss():
        return (layer(x) - target).square().mean()

    with fake_quantized(layer):
        first = loss().item()
        for _ in range(50):
            layer.zero_grad()
            loss().backward()
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter -= 0.01 * parameter.grad
        assert loss().item() < 0.1 * first
