"""Networks of torchvision and timm: resized ones have their widths, their scheme of weights and their errors."""

import copy
import sys

import pytest
import torch
from torch import nn

from compressor.costs import params_macs
from compressor.errors import ModelError, UnavailableError
from compressor.models import build, build_meta, reference_architecture, steps

PRIMES = [n for n in range(5, 400) if all(n % d for d in range(2, n))]


@pytest.fixture(scope="module")
def resized_resnet18():
    """torchvision's ResNet-18 at odd widths, and its own."""
    own = reference_architecture("torchvision:resnet18", {}, 7, (3, 32, 32))
    odd = own.with_widths(dict(zip(own.widths, PRIMES[12:], strict=False)))
    return build(own, 1), odd, build(odd, 1)


def test_a_resized_torchvision_network_has_its_widths_and_trains(resized_resnet18):
    _, odd, model = copy.deepcopy(resized_resnet18)
    for group, width in odd.widths.items():
        assert model.get_submodule(group).out_channels == width, group
    assert params_macs.params(odd) == params_macs.count_params(model)
    logits = model.train()(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_resized_torchvision_network_keeps_its_scheme_of_weights(resized_resnet18):
    _, _, model = resized_resnet18
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):  # kaiming_normal_, fan_out
            fan_out = module.out_channels * module.weight[0, 0].numel()
            wanted, relative = (2 / fan_out) ** 0.5, 4 / module.weight.numel() ** 0.5
            assert module.weight.std().item() == pytest.approx(wanted, rel=max(relative, 0.03)), path
            assert abs(module.weight.mean().item()) < wanted * relative, path
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all(), path
            assert (module.bias == 0).all(), path
            assert (module.running_mean == 0).all(), path


def test_a_resized_torchvision_network_depends_on_the_seed_alone(resized_resnet18):
    own, odd, model = resized_resnet18
    state = torch.random.get_rng_state()
    again, other = build(odd, 1), build(odd, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(model.layer3[1].conv2.weight, again.layer3[1].conv2.weight)
    assert not torch.equal(model.layer3[1].conv2.weight, other.layer3[1].conv2.weight)
    assert own.conv1.out_channels == 64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", r"torchvision:'resnet19' is not one of .*did you mean resnet18\?"),
        ("", "torchvision:'' is not one of alexnet"),
        ("fasterrcnn_resnet50_fpn", "is not one of"),  # no classifier, and would download its backbone
    ],
)
def test_an_unknown_torchvision_name(name, message):
    with pytest.raises(ModelError, match=message):
        reference_architecture(f"torchvision:{name}", {}, 10, (3, 32, 32))


def test_a_scaled_network_keeps_the_steps_of_its_grouped_convolutions():
    name = "torchvision:resnext50_32x4d"
    whole = reference_architecture(name, {}, 10, (3, 32, 32))
    for width in (0.01, 0.4, 1.7):
        scaled = reference_architecture(name, {}, 10, (3, 32, 32), width)
        assert all(scaled.widths[group] % step == 0 for group, step in steps(scaled).items())
        assert all(
            scaled.widths[group] <= max(step, width * whole.widths[group]) for group, step in steps(whole).items()
        )
    assert set(steps(whole).values()) == {1, 32}
    assert build_meta(scaled).get_submodule("layer1.0.conv2").groups == 32


def test_timm_networks_are_known_by_name():
    pytest.importorskip("timm")
    architecture = reference_architecture("timm:resnet10t", {}, 7, (3, 32, 32), 0.25)
    assert build(architecture)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ModelError, match=r"timm:resnet10x: timm has no such model .*near it are .*resnet10t"):
        reference_architecture("timm:resnet10x", {}, 7, (3, 32, 32))


def test_without_timm_its_names_are_told_to_need_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnavailableError, match=r"needs timm, .*pip install 'onnx-compressor\[timm\]'"):
        reference_architecture("timm:resnet14t", {}, 7, (3, 32, 32))


def test_auxiliary_heads_are_allowed_in_training_alone():
    architecture = reference_architecture("torchvision:googlenet", {"init_weights": False}, 10, (3, 64, 64))
    assert {"inception4a.branch1.conv", "aux1.fc1"} <= set(architecture.widths)


def test_an_option_that_the_torchvision_network_does_not_know():
    with pytest.raises(ModelError, match=r"torchvision:resnet18 cannot be built: TypeError: .*unexpected keyword"):
        reference_architecture("torchvision:resnet18", {"depth": 1}, 10, (3, 32, 32))
