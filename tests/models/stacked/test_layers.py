"""Stacked layers equal units that run one by one, slowly: split, run, concatenate."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.errors import ModelError
from compressor.exporters import export_onnx
from compressor.models.stacked import stack_
from compressor.models.stacked.layers import Hybrid, StackedLinear, stacked_layer
from compressor.models.stacked.spec import BasicUnit, Kind, Stack

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


def small_network(model, stack, index, start):
    """Unit `index` as a network of its own: slices of every layer; `start` = its first (input, hidden, output)."""
    unit = [kind.unit for kind in stack.kinds for _ in range(kind.many)][index]
    hidden = slice(start[1], start[1] + unit.hidden)
    layers, weight_layers = [], 0
    for layer in model:
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            made = type(layer)(unit.hidden).eval()
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(made, name).data = getattr(layer, name).data[hidden]
        elif getattr(layer, "groups", 1) == stack.hidden == getattr(layer, "in_channels", 0):
            made = nn.Conv2d(unit.hidden, unit.hidden, layer.kernel_size, layer.stride, layer.padding, 1, unit.hidden)
            made.weight.data, made.bias.data = layer.weight.data[hidden], layer.bias.data[hidden]
        elif isinstance(layer, nn.ReLU):
            made = nn.ReLU()
        else:
            made = unit_layer(layer, index, *unit[weight_layers : weight_layers + 2])
            weight_layers += 1
        layers.append(made)
    assert weight_layers == 2
    return nn.Sequential(*layers)


def unit_layer(layer, index, inputs, outputs):
    weight, bias = units_of(layer)[index]
    like = layer.parts[0] if isinstance(layer, Hybrid) else layer
    if isinstance(like, (StackedLinear, nn.Linear)):
        made = nn.Linear(inputs, outputs)
    else:
        options = (like.kernel_size, like.stride, like.padding, like.dilation)
        made = type(like)(inputs, outputs, *options, padding_mode=like.padding_mode)
    assert made.weight.shape == weight.shape
    made.weight.data, made.bias.data = weight.data, bias.data
    return made


def network(form, inputs, hidden, outputs):
    """(network, shape of a sample): two weight layers, and what can lie between them."""
    if form == "linear":
        made = [nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
        return nn.Sequential(*made), (inputs,)
    if form == "conv1d":
        first, second = nn.Conv1d(inputs, hidden, 3, dilation=2), nn.Conv1d(hidden, outputs, 5, stride=3, padding=2)
        return nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(), second), (inputs, 13)
    if form == "conv2d":
        first = nn.Conv2d(inputs, hidden, 3, stride=2, padding=1, padding_mode="reflect")
        second = nn.Conv2d(hidden, outputs, (1, 3), padding=(0, 1))
        return nn.Sequential(first, nn.BatchNorm2d(hidden), nn.ReLU(), second), (inputs, 7, 5)
    depthwise = nn.Conv2d(hidden, hidden, 3, stride=2, padding=1, groups=hidden)
    first, second = nn.Conv2d(inputs, hidden, 1), nn.Conv2d(hidden, outputs, 1)
    return nn.Sequential(first, nn.BatchNorm2d(hidden), nn.ReLU(), depthwise, nn.ReLU(), second), (inputs, 7, 5)


@pytest.mark.parametrize("kinds", [EQUAL, MIXED], ids=["equal", "mixed"])
@pytest.mark.parametrize("form", ["linear", "conv1d", "conv2d", "depthwise"])
def test_a_stack_in_a_network_equals_its_units_as_networks_of_their_own(form, kinds):
    torch.manual_seed(0)
    stack = Stack("", kinds)
    model, shape = network(form, stack.inputs, stack.hidden, stack.outputs)
    stack = Stack(str(len(model) - 1), kinds)
    stack_(model, {"0": stack})
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.add_(torch.rand(tensor.shape))  # batch-norm and biases: none alike
    model.eval()
    x = torch.randn(3, *shape)
    outputs, start = [], (0, 0, 0)
    for index, unit in enumerate(kind.unit for kind in kinds for _ in range(kind.many)):
        piece = x[:, start[0] : start[0] + unit.inputs]
        outputs.append(small_network(model, stack, index, start)(piece))
        start = tuple(before + width for before, width in zip(start, unit, strict=True))
    assert start == (stack.inputs, stack.hidden, stack.outputs)
    torch.testing.assert_close(model(x), torch.cat(outputs, 1), rtol=1e-4, atol=1e-4)


def test_what_a_stacked_layer_keeps_of_the_dense_one():
    dense = nn.Conv2d(8, 12, (3, 1), 2, (1, 0), (2, 1), bias=False, padding_mode="circular", dtype=torch.float64)
    made = stacked_layer(dense, [(1, 2, 3), (3, 2, 3)])
    assert type(made) is nn.Conv2d  # neighbours of equal sizes are one kind
    assert made.groups == 4
    for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode", "bias"):
        assert getattr(made, name) == getattr(dense, name)
    assert made.weight.dtype == torch.float64
    assert stacked_layer(nn.Conv2d(8, 12, 1, device="meta"), [(4, 2, 3)]).weight.is_meta
    assert type(stacked_layer(nn.Linear(8, 12), [(1, 8, 12)])) is nn.Linear


def test_the_batched_product_takes_any_leading_dimensions_and_is_counted():
    made = StackedLinear(4, 3, 5)
    assert [tuple(made(torch.zeros(*lead, 12)).shape) for lead in ((), (0,), (2,), (2, 7))] == [
        (20,),
        (0, 20),
        (2, 20),
        (2, 7, 20),
    ]
    with FlopCounterMode(display=False) as counter:
        made(torch.zeros(7, 12))
    assert counter.get_total_flops() == 2 * 7 * 4 * 3 * 5
    on_meta = StackedLinear(4, 3, 5, device=torch.device("meta"))
    assert on_meta(torch.zeros(2, 12, device="meta")).shape == (2, 20)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_biases_are_one_for_each_node(kind):
    stack = Stack("1", MIXED)
    with_bias, without = pair(kind, stack, True), pair(kind, stack, False)
    counts = []
    for model in (with_bias, without):
        stack_(model, {"0": stack})
        counts.append(sum(p.numel() for p in model.parameters()))
    assert counts[0] - counts[1] == stack.hidden + stack.outputs
    assert counts[1] == sum(stack.products) * (1 if kind is nn.Linear else 9)


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
    assert not made.bias.any()
    linear = stacked_layer(nn.Linear(2048, 1024), [(512, 4, 2)])
    assert linear.weight.std().item() == pytest.approx((1 / (3 * 4)) ** 0.5, rel=0.05)  # torch's, of 4 inputs
    assert linear.weight.abs().max().item() <= 0.5


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


def test_an_error_leaves_the_network_as_it_was():
    model = nn.Sequential(nn.Conv2d(8, 12, 3), nn.Conv2d(12, 9, 3))
    before = list(model)
    with pytest.raises(ModelError, match="12 inputs and 9 outputs, its units 12 and 8"):
        stack_(model, {"0": Stack("1", EQUAL)})
    assert all(layer is kept for layer, kept in zip(model, before, strict=True))


def test_a_layer_is_in_one_stack_only():
    model = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 8))
    stacks = {"0": Stack("1", EQUAL), "1": Stack("2", (Kind(4, BasicUnit(3, 2, 2)),))}
    with pytest.raises(ModelError, match=r"stacks\.1: 1 is in a stacked layer already"):
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
