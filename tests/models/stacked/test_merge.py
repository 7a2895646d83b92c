"""Networks whose units are merged compute what they did, in blocks as wide as asked for."""

import copy

import pytest
import torch
from torch import nn

from compressor.errors import ModelError
from compressor.exporters import export_onnx
from compressor.models.stacked import everywhere, rearranged, stack_
from compressor.models.stacked.layers import Hybrid, StackedLinear
from compressor.models.stacked.spec import BasicUnit, Kind, Stack

EQUAL = (Kind(12, BasicUnit(2, 3, 2)),)
MIXED = (Kind(3, BasicUnit(2, 5, 3)), Kind(2, BasicUnit(2, 1, 3)), Kind(1, BasicUnit(4, 4, 5)))
FORMS = ["linear", "conv1d", "conv2d", "depthwise"]


def stacked_network(form, kinds, bias=True):
    """(network in evaluation, its stacks, shape of a sample)."""
    torch.manual_seed(0)
    one = Stack("-", kinds)
    inputs, hidden, outputs = one.inputs, one.hidden, one.outputs
    norm = nn.BatchNorm2d(hidden) if form in ("conv2d", "depthwise") else nn.BatchNorm1d(hidden)
    between, shape = [norm, nn.ReLU()], {"linear": (), "conv1d": (13,)}.get(form, (7, 5))
    if form == "linear":
        first, second = nn.Linear(inputs, hidden, bias), nn.Linear(hidden, outputs, bias)
    elif form == "conv1d":
        first, second = nn.Conv1d(inputs, hidden, 3, dilation=2, bias=bias), nn.Conv1d(hidden, outputs, 5, 3, bias=bias)
    elif form == "conv2d":
        first = nn.Conv2d(inputs, hidden, 3, 2, 1, bias=bias, padding_mode="reflect")
        second = nn.Conv2d(hidden, outputs, (1, 3), padding=(0, 1), bias=bias)
    else:
        between += [nn.Conv2d(hidden, hidden, 3, 2, 1, groups=hidden), nn.ReLU()]
        first, second = nn.Conv2d(inputs, hidden, 1, bias=bias), nn.Conv2d(hidden, outputs, 1, bias=bias)
    model = nn.Sequential(first, *between, second)
    stacks = {"0": Stack(str(len(model) - 1), kinds)}
    stack_(model, stacks)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.add_(torch.rand(tensor.shape))  # biases and running statistics: none alike
    return model.eval(), stacks, (inputs, *shape)


def weight_layers(model):
    return [model[0], model[len(model) - 1]]


def group_shapes(layer):
    """(groups, inputs and outputs of each) of a layer of one kind."""
    if isinstance(layer, StackedLinear):
        return layer.units, layer.inputs, layer.outputs
    if isinstance(layer, nn.Linear):
        return 1, layer.in_features, layer.out_features
    return layer.groups, layer.in_channels // layer.groups, layer.out_channels // layer.groups


@pytest.mark.parametrize("kinds", [EQUAL, MIXED], ids=["equal", "mixed"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_merged_units_compute_the_same(form, bias, kinds):
    model, stacks, shape = stacked_network(form, kinds, bias)
    x = torch.randn(3, *shape)
    expected = model(x)
    for block in (None, 1, 2, 3, 4, 6, 8, 16, 1000):
        torch.testing.assert_close(rearranged(model, everywhere(stacks, block))(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kinds", [EQUAL, MIXED], ids=["equal", "mixed"])
@pytest.mark.parametrize("form", FORMS)
def test_dense_layers_are_plain_ones(form, kinds):
    model, stacks, _ = stacked_network(form, kinds)
    dense = rearranged(model, everywhere(stacks, None))
    plain = {"linear": nn.Linear, "conv1d": nn.Conv1d}.get(form, nn.Conv2d)
    for layer in weight_layers(dense):
        assert type(layer) is plain
        assert getattr(layer, "groups", 1) == 1
    if kinds is EQUAL:
        pairs = zip(weight_layers(dense), weight_layers(model), strict=True)
        assert all(whole.weight.numel() == 12 * units.weight.numel() for whole, units in pairs)  # u times, of each
    assert not any(isinstance(module, (Hybrid, StackedLinear)) for module in dense.modules())


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
@pytest.mark.parametrize(
    ("units", "unit", "block", "first", "second"),
    [
        (32, (2, 4, 2), 16, (4, 16, 32), (4, 32, 16)),  # both sides a multiple of 16
        (12, (2, 3, 2), 8, (3, 8, 12), (4, 9, 6)),  # second: no divisor makes 3m a multiple of 8; 3 · 3 reaches it
        (12, (2, 4, 2), 8, (3, 8, 16), (3, 16, 8)),
        (32, (2, 8, 2), 1, (32, 2, 8), (32, 8, 2)),  # wide enough as they are
        (8, (2, 16, 8), 16, (1, 16, 128), (4, 32, 16)),  # not the same number in both layers
        (5, (3, 4, 3), 16, (1, 15, 20), (1, 20, 15)),  # the whole is narrower: all of them
    ],
)
def test_blocks_are_as_wide_as_the_kernels_want(kind, units, unit, block, first, second):
    stack = Stack("1", (Kind(units, BasicUnit(*unit)),))
    options = {} if kind is nn.Linear else {"kernel_size": 3}
    model = nn.Sequential(
        kind(stack.inputs, stack.hidden, **options),
        kind(stack.hidden, stack.outputs, **options),
    )
    stack_(model, {"0": stack})
    merged = rearranged(model, everywhere({"0": stack}, block))
    assert [group_shapes(layer) for layer in merged] == [first, second]


def test_kinds_are_merged_each_by_itself():
    model, stacks, _ = stacked_network("conv2d", (Kind(8, BasicUnit(2, 4, 2)), Kind(4, BasicUnit(4, 2, 4))))
    merged = rearranged(model, everywhere(stacks, 8))
    first, second = weight_layers(merged)
    assert [group_shapes(part) for part in first.parts] == [(2, 8, 16), (1, 16, 8)]
    assert [group_shapes(part) for part in second.parts] == [(2, 16, 8), (1, 8, 16)]


@pytest.mark.parametrize("form", ["linear", "conv2d"])
@pytest.mark.parametrize("block", [None, 4])
def test_the_network_and_the_random_state_stay_as_they_are(form, block):
    model, stacks, _ = stacked_network(form, MIXED)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    merged = rearranged(model, everywhere(stacks, block))
    assert torch.equal(torch.get_rng_state(), state)
    for tensor in merged.parameters():
        assert not tensor.is_meta
        tensor.data.zero_()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(not module.training for module in merged.modules())


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize(
    ("first", "second", "said"),
    [("7", "3", "7 is no layer"), ("0", "9", "9 is no layer"), ("0", "2", "2 is a ReLU"), ("1", "3", "1 is a Batch")],
)
def test_what_has_no_units_is_named(first, second, said, block):
    model, _, _ = stacked_network("conv2d", EQUAL)
    with pytest.raises(ModelError, match=said):
        rearranged(model, everywhere({first: Stack(second, EQUAL)}, block))


@pytest.mark.parametrize("form", ["linear", "conv2d"])
@pytest.mark.parametrize(("kinds", "block"), [(EQUAL, 8), (MIXED, None)], ids=["blocks", "dense"])
def test_the_graph_neither_splits_nor_concatenates(form, kinds, block, tmp_path):
    import onnx

    model, stacks, shape = stacked_network(form, kinds)
    merged = rearranged(model, everywhere(stacks, block))
    exported = export_onnx(merged, tmp_path / "m.onnx", [torch.randn(1, *shape), torch.randn(5, *shape)])
    assert exported.parity.max_rel_error < 1e-4
    operators = {node.op_type for node in onnx.load(exported.path).graph.node}
    assert not operators & {"Split", "Concat", "Slice"}
