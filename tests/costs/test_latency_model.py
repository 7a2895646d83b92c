"""A latency model fitted to measurements, on machines whose time follows from layers."""

import random

import numpy as np
import pytest

from compressor.costs.latency_model import _features, fit_model
from compressor.costs.latency_probes import draw
from compressor.costs.params_macs import Load, loads, macs
from compressor.models import build_meta, reference_architecture

VGG = reference_architecture("vgg11_bn", {}, 10, (3, 32, 32), 0.25)
MOBILE = reference_architecture("torchvision:mobilenet_v2", {}, 10, (3, 32, 32))


def machine(reference, block, noise=0.0, seed=0):
    """Time of an architecture: layers of a kind are alike but for a factor, and widths are padded to blocks."""
    rng = random.Random(seed)
    factor = {load.name: rng.uniform(0.7, 1.4) for load in loads(reference)}
    of_kind = {"convolution": (1.0, 5.0), "pointwise": (1.5, 8.0), "depthwise": (4.0, 10.0), "linear": (3.0, 0.0)}

    def time(architecture):
        total = 0.05 * macs(reference)
        for load in loads(architecture, block):
            per_mac, per_value = of_kind[load.kind]
            total += factor[load.name] * (per_mac * load.macs + per_value * load.values)
        return total * (1 + noise * rng.gauss(0, 1))

    return lambda architecture: time(architecture) / time(reference)


@pytest.mark.parametrize("reference", [VGG, MOBILE], ids=["vgg11", "mobilenet_v2"])
@pytest.mark.parametrize("block", [1, 8, 16])
def test_networks_that_were_not_measured_are_predicted(reference, block):
    measure = machine(reference, block, noise=0.005)
    networks = draw(reference, 0.25, 60)
    model = fit_model([(network, measure(network)) for network in networks[:40]], block)
    errors = [abs(model(network) / measure(network) - 1) for network in networks[40:]]
    assert np.median(errors) < 0.05
    assert max(errors) < 0.15
    assert model.median_error < 0.05
    assert len(model.errors) == 40


def test_no_wider_network_is_predicted_to_be_faster():
    measure = machine(VGG, 8, noise=0.05)
    model = fit_model([(network, measure(network)) for network in draw(VGG, 0.25, 28)], 8)
    assert (model.coefficients >= 0).all()
    before = model(VGG)
    for name, width in VGG.widths.items():
        assert model(VGG.with_widths(VGG.widths | {name: width + 8})) >= before


@pytest.mark.parametrize("block", [1, 8])
def test_widths_count_as_whole_blocks_where_the_machine_has_any(block):
    measure = machine(VGG, block)
    model = fit_model([(network, measure(network)) for network in draw(VGG, 0.25, 40, 8)], 8)
    odd = VGG.with_widths({name: width - 7 for name, width in VGG.widths.items()})
    assert measure(odd) == pytest.approx(1.0) if block == 8 else measure(odd) < 0.9
    assert model(odd) == pytest.approx(measure(odd), rel=0.03)


def test_padding_may_take_time_of_its_own():
    def measure(network):
        pairs = list(zip(loads(network, 8), loads(network), strict=True))
        return sum(one.macs + 80 * one.values * (1 + (one.values != plain.values)) for one, plain in pairs) / 2e7

    model = fit_model([(network, measure(network)) for network in draw(VGG, 0.25, 40, 8)], 8)
    odd = VGG.with_widths({name: width - 4 for name, width in VGG.widths.items()})
    assert measure(odd) > 1.2 * measure(VGG)
    assert model(odd) == pytest.approx(measure(odd), rel=0.05)
    assert model(VGG) == pytest.approx(measure(VGG), rel=0.05)


def test_layers_that_are_not_known_one_by_one_give_no_model():
    measured = [(network, 1.0) for network in draw(VGG, 0.25, 28)]
    assert fit_model(measured, 8, lambda architecture, block: None) is None
    assert fit_model(measured[:7], 8) is None


def test_a_layer_that_only_some_networks_have_is_fitted():
    networks = draw(VGG, 0.25, 28)

    def layers(architecture, block):
        width = architecture.widths["conv1"]
        extra = [Load("extra", "pointwise", 2.0 * width, 1.0)] if width % 8 else []
        return [Load("always", "convolution", width, 1.0), *extra]

    measured = [(network, sum(load.macs for load in layers(network, 1)) / 100) for network in networks]
    model = fit_model(measured, 1, layers)
    assert model.largest_error < 0.1


@pytest.mark.parametrize("reference", [VGG, MOBILE], ids=["vgg11", "mobilenet_v2"])
def test_the_loads_of_layers_are_the_multiply_adds(reference):
    assert sum(load.macs for load in loads(reference)) == macs(reference)
    narrow = reference.with_widths({name: max(1, width - 3) for name, width in reference.widths.items()})
    padded = reference.with_widths({name: -(-width // 8) * 8 for name, width in narrow.widths.items()})
    assert sum(load.macs for load in loads(narrow, 8)) == macs(padded)


def test_a_convolution_on_one_channel_is_not_depthwise():
    lenet = reference_architecture("lenet5", {}, 10, (1, 28, 28))
    assert "depthwise" not in {load.kind for load in loads(lenet)}


def test_kinds_of_layers():
    kinds = {load.name: load.kind for load in loads(MOBILE)}
    assert kinds["features.0.0.weight"] == "convolution"
    assert kinds["features.1.conv.0.0.weight"] == "depthwise"
    assert kinds["features.1.conv.1.weight"] == "pointwise"
    assert kinds["classifier.1.weight"] == "linear"


def test_weights_that_exceed_a_cache_are_dear():
    """As on a machine with a cache of a MiB, and batches that read a layer's weights once an image."""
    big = reference_architecture("vgg11_bn", {}, 10, (3, 32, 32))

    def measure(network):
        return sum(one.macs + 40 * max(0.0, one.weights - 2**18) for one in loads(network, 8)) / 2e8

    networks = draw(big, 0.25, 60, 8)
    model = fit_model([(network, measure(network)) for network in networks[:30]], 8)
    errors = [abs(model(network) / measure(network) - 1) for network in networks[30:]]
    assert np.median(errors) < 0.05
    assert max(errors) < 0.15


def test_loads_tell_weights():
    weights = {load.name: load.weights for load in loads(VGG)}
    model = dict(build_meta(VGG).named_parameters())
    assert all(weights[name] == model[name].numel() for name in weights)


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet18", "mobilenetv2"])
@pytest.mark.parametrize("block", [8, 16])
def test_layers_that_come_and_go_with_the_widths_are_fitted(name, block):
    """A 1x1 convolution in a shortcut is there where the widths differ, which they may not do in blocks."""
    reference = reference_architecture(name, {"shortcut": "conv"}, 10, (3, 32, 32), 0.25)
    networks = draw(reference, 0.25, 20, block)
    model = fit_model([(network, macs(network) / macs(reference)) for network in networks], block)
    assert model.median_error < 0.1
    for network in networks:
        features = _features(model.loads(network))
        known = dict(zip(model.names, model.coefficients.tolist(), strict=True))
        assert model(network) == pytest.approx(sum(known.get(name, 0) * value for name, value in features.items()))


def test_groups_that_follow_others_are_padded_each():
    """An expansion has a multiple of the channels that it is made from: its own blocks count, not theirs."""
    reference = reference_architecture("mobilenetv2", {}, 10, (3, 32, 32), 0.25)
    narrow = reference.with_widths({name: max(1, round(0.6 * width)) for name, width in reference.widths.items()})
    plain, padded = ({load.name: load for load in loads(narrow, block)} for block in (1, 16))
    depthwise = [name for name, load in plain.items() if load.kind == "depthwise"]
    assert len(depthwise) > 10
    for name in depthwise:
        channels, whole = plain[name].weights / 9, padded[name].weights / 9
        assert whole == -(-channels // 16) * 16, name
