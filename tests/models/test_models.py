"""The zoo held to counts written out by hand, and every width held to the layer that it names.

Widths in these tests are different primes, so that no mix-up of two layers can cancel.
"""

from itertools import pairwise

import pytest
import torch
from torch import nn

from compressor import models
from compressor.costs import params_macs
from compressor.dependency import dependency_graph
from compressor.errors import ModelError
from compressor.models import (
    build,
    build_meta,
    example_input,
    families,
    follows,
    graph_of,
    reference_architecture,
    supports_channels_last,
    with_options,
)
from compressor.models.architecture import Architecture
from compressor.models.zoo import Family

PRIMES = [n for n in range(5, 400) if all(n % d for d in range(2, n))]
SHORTCUTS = ("identity", "conv", "convcut")
ZOO = [
    *[(name, {}) for name in ("vgg11_bn", "vgg16_bn", "vgg19_bn", "mlp")],
    *[
        (name, {"shortcut": shortcut})
        for name in ("preact_resnet18", "preact_resnet34", "resnet20", "mobilenetv2")
        for shortcut in SHORTCUTS
    ],
]
IDS = [" ".join([name, *options.values()]) for name, options in ZOO]


def of_primes(name, options, classes=11, shape=(3, 32, 32)):
    reference = reference_architecture(name, options, classes, shape)
    return reference.with_widths(dict(zip(reference.widths, PRIMES, strict=False)))


def linear(inputs, outputs):
    return inputs * outputs + outputs


def vgg(widths, classes, channels=3):
    """3×3 convolutions with bias, a batch-norm (scale, shift) each, one linear layer."""
    convs = sum(9 * a * b + b + 2 * b for a, b in pairwise([channels, *widths]))
    return convs + linear(widths[-1], classes)


def preact_resnet18(base, classes, convcut=False):
    """Convolutions without bias; two batch-norms a block; a 1×1 convolution where a stage begins, or everywhere."""
    total, entering = 27 * base, base
    for stage in range(4):
        width = base * 2**stage
        for block in range(2):
            total += 9 * entering * width + 9 * width * width + 2 * entering + 2 * width
            if convcut or (stage > 0 and block == 0):
                total += entering * width
            entering = width
    return total + linear(entering, classes)


def mobilenetv2(multiplier, classes):
    """All convolutions have a bias. Every block has a shortcut: the identity, or a 1×1 convolution and batch-norm."""
    stages = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
    entering = int(32 * multiplier)
    total = 27 * entering + 3 * entering
    for stage, (width, blocks, first_stride) in enumerate(stages):
        width = int(width * multiplier)
        for block in range(blocks):
            hidden = (6 if stage else 1) * entering
            total += entering * hidden + 9 * hidden + hidden * width + 3 * hidden + 3 * hidden + 3 * width
            if (block == 0 and first_stride == 2) or entering != width:
                total += entering * width + width + 2 * width
            entering = width
    head = int(1280 * multiplier)
    return total + entering * head + 3 * head + linear(head, classes)


@pytest.mark.parametrize(("width", "published"), [(0.25, 0.58), (0.75, 5.20), (2.0, 36.89)])
def test_vgg11_has_the_papers_size(width, published):
    architecture = reference_architecture("vgg11_bn", {}, 10, (3, 32, 32), width)
    widths = [int(width * w) for w in (64, 128, 256, 256, 512, 512, 512, 512)]
    assert list(architecture.widths.values()) == widths
    assert params_macs.params(architecture) == vgg(widths, 10)
    assert round(params_macs.params(architecture) / 1e6, 2) == published


@pytest.mark.parametrize(
    ("classes", "width", "shortcut", "published"),
    [
        (100, 0.25, "identity", 0.71),
        (100, 0.75, "identity", 6.32),
        (100, 2.0, "identity", 44.75),
        (200, 0.25, "conv", 0.73),
        (200, 0.75, "conv", 6.36),
        (200, 1.0, "identity", 11.27),
        (200, 0.25, "convcut", 0.75),
        (200, 0.75, "convcut", 6.56),
        (200, 1.0, "convcut", 11.62),
    ],
)
def test_preact_resnet18_has_the_papers_size(classes, width, shortcut, published):
    found = params_macs.params(
        reference_architecture("preact_resnet18", {"shortcut": shortcut}, classes, (3, 64, 64), width)
    )
    assert found == preact_resnet18(int(64 * width), classes, shortcut == "convcut")
    assert round(found / 1e6, 2) == published


@pytest.mark.parametrize(("width", "published"), [(0.25, 0.20), (0.75, 1.42), (2.0, 9.30)])
@pytest.mark.parametrize("shortcut", ["identity", "conv"])
def test_mobilenetv2_has_the_papers_size(width, published, shortcut):
    found = params_macs.params(reference_architecture("mobilenetv2", {"shortcut": shortcut}, 100, (3, 32, 32), width))
    assert found == mobilenetv2(width, 100)
    assert round(found / 1e6, 2) == published


@pytest.mark.parametrize(("name", "convs", "width"), [("vgg16_bn", 13, 512), ("vgg19_bn", 16, 512)])
def test_deeper_vggs(name, convs, width):
    architecture = of_primes(name, {}, classes=7, shape=(1, 32, 32))
    widths = list(architecture.widths.values())
    assert len(widths) == convs
    assert params_macs.params(architecture) == vgg(widths, 7, channels=1)
    assert list(reference_architecture(name, {}, 7, (1, 32, 32)).widths.values())[-1] == width


def test_mlp_and_resnet20():
    images = (1, 28, 28)
    found = params_macs.params(reference_architecture("mlp", {}, 10, images))
    assert found == linear(784, 500) + 1000 + linear(500, 300) + 600 + linear(300, 10)
    # He et al. 2015: stem, then 6 convolutions a stage of 16, 32, 64 channels, a 1×1 one where a stage begins
    convs = [(3, 16), *[(16, 16)] * 6, (16, 32), *[(32, 32)] * 5, (32, 64), *[(64, 64)] * 5]
    expected = sum(9 * a * b + 2 * b for a, b in convs) + sum(a * b + 2 * b for a, b in [(16, 32), (32, 64)])
    assert params_macs.params(reference_architecture("resnet20", {}, 10, (3, 32, 32))) == expected + linear(64, 10)


@pytest.mark.parametrize(("name", "options"), ZOO, ids=IDS)
def test_every_width_is_that_of_the_layer_it_names(name, options):
    architecture = of_primes(name, options)
    model = build(architecture)
    for group, width in architecture.widths.items():
        weight = model.get_submodule(group).weight
        assert weight.shape[0] == width, group
    with torch.no_grad():
        assert model.eval()(example_input(architecture, 3)).shape == (3, 11)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg11_bn", {}),
        ("mlp", {}),
        *[(name, {"shortcut": s}) for name in ("preact_resnet18", "resnet20") for s in SHORTCUTS],
        ("mobilenetv2", {"shortcut": "identity"}),
    ],
)
def test_the_group_graph_of_a_network_is_what_the_family_says(name, options):
    """The trace, which knows nothing of the zoo, must find the same groups."""
    architecture = of_primes(name, options, shape=(3, 32, 32))
    found = dependency_graph(build(architecture), example_input(architecture)).widths
    followers = {g: architecture.widths[source] * factor for g, (source, factor) in follows(architecture).items()}
    assert found == {**architecture.widths, **followers}


@pytest.mark.parametrize(("name", "options"), ZOO, ids=IDS)
def test_gradients_reach_every_parameter(name, options):
    architecture = reference_architecture(name, options, 5, (1, 32, 32), 0.1)
    model = build(architecture).train()
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path


def shortcuts(name, shortcut):
    model = build(of_primes(name, {"shortcut": shortcut}))
    return [m.shortcut for m in model.modules() if hasattr(m, "shortcut")]


@pytest.mark.parametrize(("name", "blocks", "stages"), [("preact_resnet18", 8, 3), ("resnet20", 9, 2)])
def test_shortcuts_of_resnets(name, blocks, stages):
    counts = {s: sum(m is not None for m in shortcuts(name, s)) for s in SHORTCUTS}
    # with different primes every block changes its width, unless the stage shares one
    assert counts == {"identity": stages, "conv": blocks, "convcut": blocks}
    uniform = build(reference_architecture(name, {"shortcut": "conv"}, 10, (3, 32, 32), 0.25))
    assert sum(getattr(m, "shortcut", None) is not None for m in uniform.modules()) == stages


def test_shortcuts_of_mobilenetv2():
    counts = {s: sum(m is not None for m in shortcuts("mobilenetv2", s)) for s in SHORTCUTS}
    assert counts == {"identity": 7, "conv": 17, "convcut": 17}


def test_identity_shares_one_width_a_stage():
    names = set(reference_architecture("preact_resnet18", {}, 10, (3, 32, 32)).widths)
    inner = {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3, 4) for block in (0, 1)}
    assert names == {"conv1", *inner, "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"}


def test_a_block_without_shortcut_passes_its_input_on():
    model = build(reference_architecture("preact_resnet18", {}, 10, (3, 32, 32), 0.1)).eval()
    block = model.layer1[0]
    nn.init.zeros_(block.conv2.weight)
    images = torch.randn(2, 6, 8, 8)
    assert torch.equal(block(images), images)


def test_hidden_widths_of_mobilenetv2_follow_their_input():
    architecture = of_primes("mobilenetv2", {"shortcut": "conv"})
    model = build(architecture)
    for group, (source, factor) in follows(architecture).items():
        assert factor == (1 if source == "conv1" else 6)
        assert model.get_submodule(group).out_channels == factor * architecture.widths[source]
        assert model.get_submodule(group).in_channels == architecture.widths[source]
    assert len(follows(architecture)) == 17
    assert follows(of_primes("vgg11_bn", {})) == {}


@pytest.mark.parametrize("name", sorted(name for name, family in families().items() if family.inputs == "images"))
def test_the_smallest_images_a_family_allows_work_and_smaller_ones_are_refused(name):
    side = families()[name].min_side
    architecture = reference_architecture(name, {}, 4, (2, side, side), 0.01)
    with torch.no_grad():
        assert build(architecture).eval()(example_input(architecture)).shape == (2, 4)
    if side > 1:
        with pytest.raises(ModelError, match=rf"{name} needs images of at least {side}×{side} pixels, these have"):
            reference_architecture(name, {}, 4, (2, side, side - 1))


def test_unknown_names_are_told_the_valid_ones():
    with pytest.raises(ModelError, match=r"model.name: 'vgg11' is not one of .*, mlp, .*did you mean vgg11_bn\?"):
        reference_architecture("vgg11", {}, 10, (3, 32, 32))
    with pytest.raises(ModelError, match=r"model.options of resnet20: 'short' .*did you mean shortcut\?"):
        reference_architecture("resnet20", {"short": "conv"}, 10, (3, 32, 32))
    with pytest.raises(ModelError, match=r"model.options of mlp: 'depth' is not one of \(none\)"):
        reference_architecture("mlp", {"depth": 3}, 10, (3, 32, 32))
    with pytest.raises(ModelError, match=r"model.options.shortcut: 'cnv' is not one of conv, convcut, identity"):
        reference_architecture("resnet20", {"shortcut": "cnv"}, 10, (3, 32, 32))


def test_a_change_of_options_keeps_the_widths_that_stay():
    identity = of_primes("resnet20", {})
    conv = with_options(identity, shortcut="conv")
    default = reference_architecture("resnet20", {"shortcut": "conv"}, 11, (3, 32, 32))
    assert conv.options == {"shortcut": "conv"}
    assert dict(conv.widths) == {group: identity.widths.get(group, width) for group, width in default.widths.items()}
    assert len(conv.widths) > len(identity.widths)
    with pytest.raises(ModelError, match=r"model.options.shortcut: 'none' is not one of"):
        with_options(identity, shortcut="none")


def test_families_say_what_their_options_may_be():
    assert families()["resnet20"].valid("shortcut") == "identity|conv|convcut"
    assert families()["lstm"].valid("dropout") == "a share from 0 to below 1"


@pytest.mark.parametrize("make", [build, build_meta])
def test_width_names_must_match_exactly(make):
    widths = {"fc1": 13, "fc2": 23}
    assert make(Architecture("mlp", 3, (1, 4, 4), widths))
    with pytest.raises(ModelError, match=r"widths of mlp: 'fc3' is not one of fc1, fc2"):
        make(Architecture("mlp", 3, (1, 4, 4), {**widths, "fc3": 3}))
    with pytest.raises(ModelError, match="widths of mlp: fc2 is missing"):
        make(Architecture("mlp", 3, (1, 4, 4), {"fc1": 13}))


def test_a_network_that_is_only_counted_still_computes_with_its_values_in_memory(monkeypatch):
    def network(widths, options, classes, shape):
        layers = int(torch.ones(3, device="cpu").fill_(2).sum())
        return nn.Sequential(*(nn.Linear(widths["inner"], widths["inner"]) for _ in range(layers)))

    monkeypatch.setitem(models.ZOO, "valued", Family(lambda options: {"inner": 5}, network))
    assert len(build_meta(Architecture("valued", 3, (1, 4, 4), {"inner": 5}))) == 6


@pytest.mark.parametrize("width", [1e-9, 0.01])
def test_a_tiny_multiplier_leaves_one_channel(width):
    architecture = reference_architecture("resnet20", {}, 10, (3, 32, 32), width)
    assert set(architecture.widths.values()) == {1}


def test_the_seed_decides_the_weights_and_the_global_state_is_left_alone():
    architecture = of_primes("resnet20", {})
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    first, again, other = (build(architecture, seed) for seed in (3, 3, 4))
    build_meta(architecture)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    for a, b in ((first, again), (first, build(architecture, 3))):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_widths_of_one_channel_are_found_again():
    for name, options in (("vgg11_bn", {}), ("mobilenetv2", {"shortcut": "convcut"}), ("preact_resnet18", {})):
        reference = reference_architecture(name, options, 10, (3, 32, 32))
        narrow = reference.with_widths(dict.fromkeys(reference.widths, 1))
        graph = graph_of(narrow)
        assert set(graph.groups) == set(narrow.widths) | set(follows(narrow))
        assert {group: graph.widths[group] for group in narrow.widths} == narrow.widths


@pytest.mark.parametrize("equal", [3, 8, 13])
def test_equal_widths_of_two_stages_do_not_tie_them_together(equal):
    architecture = reference_architecture("mobilenetv2", {}, 10, (1, 8, 8), 0.1)
    flat = architecture.with_widths(dict.fromkeys(architecture.widths, equal))
    graph = dependency_graph(build(flat), torch.zeros(2, 1, 8, 8))
    assert set(graph.groups) == set(flat.widths) | set(follows(flat))


@pytest.mark.parametrize(
    ("name", "width", "narrower", "supported"),
    [
        ("preact_resnet18", 0.125, False, False),  # its first strided shortcut reads 8 channels
        ("preact_resnet18", 0.25, False, True),
        ("preact_resnet18", 0.25, True, False),
        ("vgg11_bn", 0.125, True, True),
        ("mlp", 1.0, False, False),
    ],
)
def test_channels_last_is_not_taken_on_a_cpu_where_onednn_writes_beyond_its_buffer(name, width, narrower, supported):
    """A strided 1×1 convolution that reads few channels ends the process there, in the gradient of its weights."""
    architecture = reference_architecture(name, {}, 10, (3, 32, 32), width)
    assert supports_channels_last(architecture, on_cpu=True, narrower=narrower) is supported
    assert supports_channels_last(architecture, narrower=narrower) is (name != "mlp")
