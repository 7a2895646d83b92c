"""MobileNetV1 held to its published size and multiply-adds, its groups to what the family says."""

from itertools import pairwise

import pytest
import torch

from compressor.costs import params_macs
from compressor.dependency import remove_channels_
from compressor.models import build, build_meta, graph_of, reference_architecture

PRIMES = [n for n in range(5, 400) if all(n % d for d in range(2, n))]


def of_primes(side=16):
    reference = reference_architecture("mobilenetv1", {}, 11, (3, side, side))
    return reference.with_widths(dict(zip(reference.widths, PRIMES, strict=False)))


def mobilenetv1(widths, classes):
    """The stem, then pairs of 3×3 depth-wise and 1×1 convolutions, each with a batch-norm and without bias."""
    pairs = sum(9 * a + 2 * a + a * b + 2 * b for a, b in pairwise(widths))
    return 27 * widths[0] + 2 * widths[0] + pairs + widths[-1] * classes + classes


def test_it_has_the_papers_size_and_multiply_adds():
    architecture = reference_architecture("mobilenetv1", {}, 1000, (3, 224, 224))
    widths = list(architecture.widths.values())
    assert widths == [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    assert params_macs.params(architecture) == mobilenetv1(widths, 1000) == 4_231_976
    assert f"{params_macs.params(architecture) / 1e6:.2f}" == "4.23"
    assert f"{params_macs.macs(architecture) / 1e6:.0f}" == "569"


@pytest.mark.parametrize(("multiplier", "params", "macs"), [(0.75, "2.6", 325), (0.5, "1.3", 149), (0.25, "0.5", 41)])
def test_the_papers_thinner_networks(multiplier, params, macs):
    """Howard et al. 2017, Table 6."""
    architecture = reference_architecture("mobilenetv1", {}, 1000, (3, 224, 224), multiplier)
    assert f"{params_macs.params(architecture) / 1e6:.1f}" == params
    assert params_macs.macs(architecture) / 1e6 == pytest.approx(macs, rel=0.02)


@pytest.mark.parametrize(("side", "stride"), [(32, 1), (63, 1), (64, 2)])
def test_small_images_are_not_halved_at_once(side, stride):
    model = build_meta(of_primes(side))
    assert model.conv1.stride == (stride, stride)
    assert model(torch.zeros(2, 3, side, side, device="meta")).shape == (2, 11)


def test_depth_wise_channels_go_with_the_convolution_before():
    architecture = of_primes()
    model, graph = build(architecture).eval(), graph_of(architecture)
    assert graph.widths == dict(architecture.widths)
    assert len(graph.channelwise) == 13
    remove_channels_(model, graph, {"conv1": [0, 2], "blocks.3.pointwise": [1]})
    assert model.blocks[0].depthwise.groups == model.blocks[0].depthwise.out_channels == 5 - 2
    assert model.blocks[4].depthwise.groups == model.blocks[4].pointwise.in_channels == 17 - 1
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 11)


def test_widths_of_one_channel_are_found_again():
    reference = of_primes()
    narrow = reference.with_widths(dict.fromkeys(reference.widths, 1))
    assert graph_of(narrow).widths == dict(narrow.widths)


def test_gradients_reach_every_parameter():
    model = build(of_primes()).train()
    model(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
