"""Networks that grow in depth: units can be left out, and every width is that of the layer it names."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from compressor.costs import params_macs
from compressor.errors import ModelError
from compressor.models import (
    build,
    build_meta,
    example_input,
    graph_of,
    reference_architecture,
    units,
    with_options,
    with_units,
)
from compressor.models.architecture import Architecture

PRIMES = [n for n in range(5, 400) if all(n % d for d in range(2, n))]
THREE, FOUR = [[0, 2, 5], [0], [0, 7]], [[0, 2], [0], [0, 1, 7], [0]]
NETS = [
    ("basic3resnet", {"units": THREE}),
    ("bottleneck4resnet", {"units": FOUR}),
    ("plain3net", {"units": THREE, "mix": True}),
    ("plain4net", {"units": FOUR, "mix": True}),
]
PLAIN = [("plain3net", {"units": THREE}), ("plain4net", {"units": FOUR})]
IDS = [name for name, _ in NETS]


def of_primes(name, options, shape=(3, 16, 16)):
    reference = reference_architecture(name, options, 11, shape)
    return reference.with_widths(dict(zip(reference.widths, PRIMES, strict=False)))


def shaken(architecture):
    """The network with weights and statistics that all differ."""
    model = build(architecture).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.1)
    return model, torch.randn(3, *architecture.input_shape, generator=generator)


@pytest.mark.parametrize(("name", "options"), NETS, ids=IDS)
def test_a_closed_scale_leaves_what_the_network_without_the_unit_gives(name, options):
    whole = of_primes(name, options)
    for path, unit in units(whole).items():
        if not unit.detachable:
            assert unit.scales == ()
            continue
        model, images = shaken(whole)
        before = model(images)
        with torch.no_grad():
            for scale in unit.scales:
                model.get_parameter(scale).mul_(0)
        fewer = build(with_units(whole, set(units(whole)) - {path})).eval()
        missing = fewer.load_state_dict(model.state_dict(), strict=False).missing_keys
        assert not missing
        assert torch.allclose(fewer(images), model(images), atol=1e-6)
        assert not torch.allclose(before, model(images), atol=1e-3), "the unit does something"


@pytest.mark.parametrize(("name", "options"), NETS, ids=IDS)
def test_a_scale_goes_from_the_input_to_the_unit(name, options):
    """x + m·f(x), or (1 - m)·x + m·f(x), at m = 0.3: before the last ReLU, which inputs of 5 and more pass."""
    whole = of_primes(name, options)
    model, _ = shaken(whole)
    path, unit = next((path, unit) for path, unit in units(whole).items() if unit.detachable)
    module = model.get_submodule(path)
    x = 5 + torch.rand(2, whole.widths[stream_of(whole, unit.stage)], 6, 6)
    with torch.no_grad():
        for value in module.parameters():
            if value.dim() == 4:
                value.mul_(0.1)
        open_, share = module(x), 0.3
        for scale in unit.scales:
            model.get_parameter(scale).mul_(share)
        assert torch.allclose(module(x), x + share * (open_ - x), atol=1e-5)


def stream_of(architecture, stage):
    return [group for group in architecture.widths if group.startswith(f"{stage}.0.")][-1]


@pytest.mark.parametrize(("name", "options"), [*NETS, *PLAIN], ids=[*IDS, "plain3net unmixed", "plain4net unmixed"])
def test_the_trace_finds_the_groups_that_the_family_names(name, options):
    architecture = of_primes(name, options)
    graph = graph_of(architecture)
    assert graph.widths == dict(architecture.widths)
    model = build_meta(architecture)
    shapes = {path: value.shape for path, value in (*model.named_parameters(), *model.named_buffers())}
    for (path, dim), owners in graph.owners.items():
        assert len(owners.group) == shapes[path][dim], path
    for group, width in architecture.widths.items():
        assert model.get_submodule(group).out_channels == width
        for made in graph.producers(group):
            assert len(made.index) == width, made.tensor


@pytest.mark.parametrize("name", IDS)
def test_widths_of_one_channel_are_found_again(name):
    reference = reference_architecture(name, {"units": 3}, 10, (3, 16, 16))
    narrow = reference.with_widths(dict.fromkeys(reference.widths, 1))
    assert graph_of(narrow).widths == dict(narrow.widths)


def conv(a, b, kernel=3):
    return kernel**2 * a * b + 2 * b


def residual(counts, stages, kernels, expansion, stem, classes):
    """Stem, units of convolutions and batch-norms without bias, a 1×1 shortcut with batch-norm in unit 0."""
    total, entering = conv(3, stages[0], stem), stages[0]
    for count, width in zip(counts, stages, strict=True):
        for number in range(count):
            channels = [entering, *[width] * (len(kernels) - 1), width * expansion]
            total += sum(conv(a, b, k) for (a, b), k in zip(pairwise(channels), kernels, strict=True))
            total += conv(entering, channels[-1], 1) if number == 0 else 0
            entering = channels[-1]
    return total + entering * classes + classes


def plain(counts, stages, stem, classes):
    total, entering = conv(3, stages[0], stem), stages[0]
    for count, width in zip(counts, stages, strict=True):
        total += conv(entering, width) + (count - 1) * conv(width, width)
        entering = width
    return total + entering * classes + classes


@pytest.mark.parametrize("counts", [[1, 1, 1], [2, 5, 3]])
def test_sizes_of_three_stages(counts):
    stages = [16, 32, 64]
    for name, expected in (
        ("basic3resnet", residual(counts, stages, (3, 3), 1, 3, 10)),
        ("plain3net", plain(counts, stages, 3, 10)),
    ):
        assert params_macs.params(reference_architecture(name, {"units": counts}, 10, (3, 32, 32))) == expected


@pytest.mark.parametrize(("side", "stem"), [(63, 3), (64, 7)])
def test_sizes_of_four_stages_and_their_stems(side, stem):
    counts, stages = [3, 4, 6, 3], [64, 128, 256, 512]
    for name, expected in (
        ("bottleneck4resnet", residual(counts, stages, (1, 3, 1), 4, stem, 1000)),
        ("plain4net", plain(counts, stages, stem, 1000)),
    ):
        assert params_macs.params(reference_architecture(name, {"units": counts}, 1000, (3, side, side))) == expected


def test_bottleneck4resnet_at_resnet50s_depth_is_torchvisions_resnet50():
    own = reference_architecture("bottleneck4resnet", {"units": [3, 4, 6, 3]}, 1000, (3, 224, 224))
    theirs = reference_architecture("torchvision:resnet50", {}, 1000, (3, 224, 224))
    assert params_macs.params(own) == params_macs.params(theirs) == 25_557_032
    assert params_macs.macs(own) == params_macs.macs(theirs)


def test_mixing_adds_a_number_per_detachable_unit_and_changes_nothing_at_first():
    bare = of_primes("plain3net", {"units": 4})
    mixed = with_options(bare, mix=True)
    assert mixed.widths == bare.widths
    assert params_macs.params(mixed) - params_macs.params(bare) == 9
    model, images = shaken(bare)
    other = build(mixed).eval()
    other.load_state_dict(model.state_dict(), strict=False)
    assert torch.allclose(other(images), model(images), atol=1e-5)


@pytest.mark.parametrize(
    ("given", "complete"),
    [
        (None, [list(range(12))] * 3),
        (2, [[0, 1]] * 3),
        ([3, 1, 2], [[0, 1, 2], [0], [0, 1]]),
        ([[5, 0, 2], [0], (0, 7)], THREE),
    ],
)
def test_units_have_one_form(given, complete):
    architecture = reference_architecture("basic3resnet", {} if given is None else {"units": given}, 10, (3, 8, 8))
    assert architecture.options["units"] == complete
    assert list(units(architecture)) == [f"layer{s}.{n}" for s, numbers in enumerate(complete, 1) for n in numbers]
    assert Architecture.from_json(architecture.to_json()) == architecture


@pytest.mark.parametrize(
    "bad",
    [0, -1, True, 2.0, "3", [1, 1], [1, 1, 0], [[0], [0]], [[0], [0], [1]], [[0], [0], [0, 0]], [[0], [0], []],
     [[0], 1, 1], [[0], [0], [0, True]], [[0], [0], [0, -1]], [[0], [0], "0"], {}],
)  # fmt: skip
def test_units_that_are_none(bad):
    with pytest.raises(
        ModelError, match=r"^model.options.units: .* is not a whole number of units per stage, a list of 3"
    ):
        reference_architecture("plain3net", {"units": bad}, 10, (3, 8, 8))


@pytest.mark.parametrize(("name", "options"), NETS, ids=IDS)
def test_units_left_out_take_their_widths_along(name, options):
    whole = of_primes(name, options)
    seed = with_units(whole, [path for path, unit in units(whole).items() if not unit.detachable])
    assert seed.options["units"] == [[0]] * len(options["units"])
    assert dict(seed.widths) == {
        group: width for group, width in whole.widths.items() if group == "conv1" or ".0." in group
    }
    assert with_units(whole, units(whole)) == whole
    with torch.no_grad():
        assert build(seed).eval()(example_input(seed)).shape == (2, 11)


def test_units_that_cannot_be_left_out():
    whole = reference_architecture("basic3resnet", {"units": THREE}, 10, (3, 8, 8))
    with pytest.raises(ModelError, match=r"units of basic3resnet: layer2.0 is missing, which cannot be left out"):
        with_units(whole, ["layer1.0", "layer3.0"])
    with pytest.raises(ModelError, match=r"units of basic3resnet: 'layer1.1' is not one of .*layer1.2"):
        with_units(whole, [*units(whole), "layer1.1"])
    assert units(reference_architecture("resnet20", {}, 10, (3, 32, 32))) == {}
    assert units(reference_architecture("torchvision:squeezenet1_1", {}, 10, (3, 32, 32))) == {}


@pytest.mark.parametrize(("name", "options"), [*NETS, *PLAIN])
def test_gradients_reach_every_parameter(name, options):
    architecture = of_primes(name, options)
    model = build(architecture).train()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
