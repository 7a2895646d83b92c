"""Stacked layers equal units that run one by one, slowly: split, run, concatenate."""

import pytest
import torch
from torch import nn

from compressor.errors import ModelError
from compressor.exporters import export_onnx
from compressor.stacking import rearranged, stack_
from compressor.stacking.layers import Hybrid, StackedLinear, stacked_layer
from compressor.units import BasicUnit, Kind, Stack

EQUAL = (Kind(4, BasicUnit(2, 3, 2)),)
MIXED = (Kind(3, BasicUnit(2, 5, 3)), Kind(2, BasicUnit(2, 1, 3)), Kind(1, BasicUnit(4, 4, 5)))


def units_of(layer):
    """(weight, bias) of every unit, in order."""
    if isinstance(layer, Hybrid):
        return [unit for part in layer.parts for unit in units_of(part)]
    groups = layer.weight if isinstance(layer, StackedLinear) else layer.weight.chunk(getattr(layer, "groups", 1))
    count = len(groups)
    biases = [None] * count if layer.bias is None else layer.bias.chunk(count)
    return list(zip(groups, biases, strict=True))


def one_by_one(layer, x, kind):
    """The explicit reference of one weight layer."""
    dim = -1 if kind is nn.Linear else 1
    outputs, start = [], 0
    for weight, bias in units_of(layer):
        piece = x.narrow(dim, start, weight.shape[1])
        start += weight.shape[1]
        if kind is nn.Linear:
            outputs.append(nn.functional.linear(piece, weight, bias))
        else:
            run = {nn.Conv1d: nn.functional.conv1d, nn.Conv2d: nn.functional.conv2d}[kind]
            outputs.append(run(piece, weight, bias, padding=1))
    assert start == x.shape[dim]
    return torch.cat(outputs, dim)


def pair(kind, stack, bias=True):
    if kind is nn.Linear:
        return nn.Sequential(nn.Linear(stack.inputs, stack.hidden, bias), nn.Linear(stack.hidden, stack.outputs, bias))
    sizes = ((stack.inputs, stack.hidden), (stack.hidden, stack.outputs))
    return nn.Sequential(*(kind(*size, 3, padding=1, bias=bias) for size in sizes))


@pytest.mark.parametrize("kinds", [EQUAL, MIXED], ids=["equal", "mixed"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.Linear, ()), (nn.Linear, (5,)), (nn.Conv1d, (7,)), (nn.Conv2d, (6, 5))]
)
def test_a_stack_equals_its_units_run_one_by_one(kind, shape, bias, kinds):
    stack = Stack("1", kinds)
    model = pair(kind, stack, bias)
    stack_(model, {"0": stack})
    x = torch.randn(3, *shape, stack.inputs) if kind is nn.Linear else torch.randn(3, stack.inputs, *shape)
    hidden = one_by_one(model[0], x, kind)
    assert torch.allclose(model[0](x), hidden, atol=1e-5)
    expected = one_by_one(model[1], torch.relu(hidden), kind)
    assert expected.shape == (model[1](torch.relu(model[0](x)))).shape
    assert torch.allclose(model[1](torch.relu(model[0](x))), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_parameters_are_those_of_equation_5(kind):
    stack, taps = Stack("1", (Kind(5, BasicUnit(2, 4, 2)),)), 1 if kind is nn.Linear else 9
    model, dense = pair(kind, stack, bias=False), pair(kind, stack, bias=False)
    stack_(model, {"0": stack})
    count, whole = (sum(p.numel() for p in m.parameters()) for m in (model, dense))
    assert count == 5 * taps * (2 * 4 + 4 * 2)
    assert whole == 5 * count  # equation 6: the units' nodes in one dense pair


@pytest.mark.parametrize("kinds", [EQUAL, MIXED], ids=["equal", "mixed"])
@pytest.mark.parametrize("block", [None, 1, 3, 4, 6, 16])
@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_merged_units_compute_the_same(kind, block, kinds):
    stack = Stack("1", kinds)
    model = pair(kind, stack)
    stack_(model, {"0": stack})
    x = torch.randn(2, stack.inputs) if kind is nn.Linear else torch.randn(2, stack.inputs, 5, 5)
    merged = rearranged(model, {"0": stack}, block)
    assert torch.allclose(merged(x), model(x), atol=1e-5)
    if block is None:
        assert all(type(layer) is kind for layer in merged)
        assert all(getattr(layer, "groups", 1) == 1 for layer in merged)


def test_blocks_are_as_wide_as_the_kernels_want():
    stack = Stack("1", (Kind(32, BasicUnit(2, 4, 2)),))
    model = pair(nn.Conv2d, stack)
    stack_(model, {"0": stack})
    merged = rearranged(model, {"0": stack}, 16)
    assert [layer.groups for layer in merged] == [4, 4]
    assert [layer.weight.shape[1] for layer in merged] == [16, 32]


def test_depthwise_layers_between_stay_as_they_are():
    stack = Stack("expand.2", (Kind(4, BasicUnit(2, 6, 2)),))
    middle = nn.Sequential(nn.BatchNorm2d(24), nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 8, 1))
    model = nn.Sequential()
    model.add_module("first", nn.Conv2d(8, 24, 1))
    model.add_module("expand", middle)
    depthwise = middle[1]
    stack_(model, {"first": stack})
    assert middle[1] is depthwise
    assert (model.first.groups, middle[2].groups) == (4, 4)
    assert model(torch.zeros(1, 8, 4, 4)).shape == (1, 8, 4, 4)


def test_units_are_initialised_as_the_small_networks_they_are():
    torch.manual_seed(0)
    made = stacked_layer(nn.Conv2d(256, 512, 3, padding=1), [(128, 2, 4)])
    assert made.weight.std().item() == pytest.approx((2 / (9 * 4)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("stacks", "said"),
    [
        ({"7": Stack("1", EQUAL)}, "7 is no layer"),
        ({"0": Stack("9", EQUAL)}, "9 is no layer"),
        ({"0": Stack("1", MIXED)}, "8 inputs and 12 outputs, its units 14 and 21"),
        ({"2": Stack("1", EQUAL)}, "2 is a ReLU"),
        ({"3": Stack("1", EQUAL)}, "of 2 groups"),
    ],
)
def test_what_cannot_be_stacked_is_named(stacks, said):
    model = nn.Sequential(nn.Conv2d(8, 12, 3), nn.Conv2d(12, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=2))
    with pytest.raises(ModelError, match=said):
        stack_(model, stacks)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_the_graph_of_equal_units_neither_splits_nor_concatenates(kind, tmp_path):
    import onnx

    stack = Stack("1", EQUAL)
    model = pair(kind, stack)
    stack_(model, {"0": stack})
    shape = (stack.inputs,) if kind is nn.Linear else (stack.inputs, 6, 6)
    exported = export_onnx(model, tmp_path / "m.onnx", [torch.randn(1, *shape), torch.randn(5, *shape)])
    assert exported.parity.max_rel_error < 1e-4
    operators = {node.op_type for node in onnx.load(exported.path).graph.node}
    assert not operators & {"Split", "Concat", "Slice"}
