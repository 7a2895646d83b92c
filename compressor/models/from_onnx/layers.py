"""Nodes with weights as torch's own layers, so that whatever looks for convolutions and norms finds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from compressor.models.from_onnx.operator import Operator, function
from compressor.models.from_onnx.resampling import padding_of
from compressor.models.from_onnx.values import Host, UnsupportedError, tensor_of

CONVS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_PADS: dict[int, type[nn.Module]] = {1: nn.ConstantPad1d, 2: nn.ConstantPad2d, 3: nn.ConstantPad3d}

# A layer for a node: (the node, its constants, the shape of its first input) → modules that follow one another.
Made = list[nn.Module]
LAYERS: dict[str, Callable[[Operator, list[Host | None], Sequence[int]], Made | None]] = {}


def layer(*kinds: str) -> Callable[[Any], Any]:
    """Note what makes a layer of nodes of some kinds, or None where the node's form has none."""

    def note(makes: Any) -> Any:
        LAYERS.update(dict.fromkeys(kinds, makes))
        return makes

    return note


def parameter(values: Host) -> nn.Parameter:
    """Trained values as a parameter."""
    return nn.Parameter(torch.from_numpy(np.array(values, order="C")))


@layer("Conv")
def _conv(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    weight, bias = constants[1], constants[2] if len(constants) > 2 else None
    if weight is None:
        return None
    dims = weight.ndim - 2
    if dims not in CONVS:
        raise UnsupportedError(f"a convolution over {dims} axes")
    kernel, groups = list(weight.shape[2:]), (node.integer("group", 1))
    before, behind = padding_of(node, shape[2:], kernel)
    even = before == behind
    with torch.device("meta"):
        conv = CONVS[dims](
            weight.shape[1] * groups,
            weight.shape[0],
            kernel,
            stride=node.attribute("strides") or [1] * dims,
            padding=before if even else 0,
            dilation=node.attribute("dilations") or [1] * dims,
            groups=groups,
            bias=bias is not None,
        )
    _fill(conv, weight=weight, bias=bias)
    if even:
        return [conv]
    return [_PADS[dims]([int(pad) for pair in zip(before[::-1], behind[::-1], strict=True) for pad in pair], 0.0), conv]


@layer("ConvTranspose")
def _transposed(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    weight, bias = constants[1], constants[2] if len(constants) > 2 else None
    if weight is None:
        return None
    dims = weight.ndim - 2
    if dims not in TRANSPOSED:
        raise UnsupportedError(f"a convolution over {dims} axes")
    kernel, groups = list(weight.shape[2:]), (node.integer("group", 1))
    strides, dilations = node.attribute("strides") or [1] * dims, node.attribute("dilations") or [1] * dims
    extra = list(node.attribute("output_padding") or [0] * dims)
    pads = list(node.attribute("pads") or [0] * (2 * dims))
    mode, wanted = node.text("auto_pad", "NOTSET"), node.attribute("output_shape")
    spans = [
        (int(size) - 1) * stride + (length - 1) * dilation + 1 + more
        for size, stride, length, dilation, more in zip(shape[2:], strides, kernel, dilations, extra, strict=True)
    ]
    if wanted or mode.startswith("SAME"):
        wanted = list(wanted)[-dims:] if wanted else [int(s) * t for s, t in zip(shape[2:], strides, strict=True)]
        totals = [span - want for span, want in zip(spans, wanted, strict=True)]
        halves = [total // 2 for total in totals]
        others = [total - half for total, half in zip(totals, halves, strict=True)]
        pads = [*halves, *others] if mode == "SAME_UPPER" else [*others, *halves]
        if any(total < 0 for total in totals):
            raise UnsupportedError(f"an output_shape of {wanted}, beyond what the kernel reaches")
    before, behind = pads[:dims], pads[dims:]
    least = [min(pair) for pair in zip(before, behind, strict=True)]
    with torch.device("meta"):
        conv = TRANSPOSED[dims](
            weight.shape[0],
            weight.shape[1] * groups,
            kernel,
            stride=strides,
            padding=least if min(least, default=0) >= 0 else 0,
            output_padding=[0] * dims,
            dilation=dilations,
            groups=groups,
            bias=bias is not None,
        )
    _fill(conv, weight=weight, bias=bias)
    base = least if min(least, default=0) >= 0 else [0] * dims
    cut = (
        [b - p for b, p in zip(before, base, strict=True)],
        [b - p - more for b, p, more in zip(behind, base, extra, strict=True)],
    )
    if not any(cut[0]) and all(more == 0 for more in cut[1]):
        return [conv]
    if all(side == 0 for side in cut[0]) and all(
        -stride < more <= 0 for more, stride in zip(cut[1], strides, strict=True)
    ):
        conv.output_padding = tuple(-more for more in cut[1])  # type: ignore[assignment]
        return [conv]
    flat = [-int(pad) for pair in zip(cut[0][::-1], cut[1][::-1], strict=True) for pad in pair]
    if any(pad > 0 for pad in flat) and bias is not None:
        raise UnsupportedError("pads that differ, with output_padding and a bias")
    return [conv, _PADS[dims](flat, 0.0)]


@layer("Gemm")
def _gemm(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    weight, bias = constants[1], constants[2] if len(constants) > 2 else None
    given_bias = len(constants) > 2 and bias is None
    if weight is None or node.integer("transA", 0) or given_bias or weight.dtype.kind != "f":
        return None
    weight = weight if node.integer("transB", 0) else weight.T
    if bias is not None and (
        bias.shape[-1:] not in ((), (1,), weight.shape[:1]) or bias.size != max(bias.shape[-1:] or (1,))
    ):
        return None
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), (weight.shape[0],)) * np.float32(node.number("beta", 1.0))
    return [linear(weight * np.float32(node.number("alpha", 1.0)), bias)]


@layer("MatMul")
def _matmul(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    weight = constants[1]
    if weight is None or weight.ndim != 2 or weight.dtype.kind != "f" or len(shape) < 2:
        return None
    return [linear(weight.T, None)]


def linear(weight: Host, bias: Host | None) -> nn.Linear:
    """A linear layer of given weights, (out, in)."""
    with torch.device("meta"):
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    _fill(made, weight=weight, bias=bias)
    return made


@layer("BatchNormalization")
def _batch_norm(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    if node.integer("training_mode", 0):
        raise UnsupportedError("attribute training_mode: 1")
    if any(one is None for one in constants[1:5]):
        return None
    if len(shape) not in _BATCH_NORMS:
        raise UnsupportedError(f"a tensor of {len(shape)} axes")
    if node.version < 9 and not node.integer("spatial", 1):
        raise UnsupportedError("attribute spatial: 0")
    weight, bias, mean, variance = constants[1:5]
    assert weight is not None
    norm: Any = _BATCH_NORMS[len(shape)](len(weight), eps=node.attribute("epsilon", 1e-5))
    _fill(norm, weight=weight, bias=bias, running_mean=mean, running_var=variance)
    return [norm]


@layer("LayerNormalization")
def _layer_norm(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    axis = node.integer("axis", -1)
    over = tuple(shape[axis:])
    weight, bias = constants[1], constants[2] if len(constants) > 2 else None
    if weight is None or (len(constants) > 2 and bias is None) or weight.shape != over:
        return None
    with torch.device("meta"):
        norm = nn.LayerNorm(over, eps=node.attribute("epsilon", 1e-5), bias=bias is not None)
    _fill(norm, weight=weight, bias=bias)
    return [norm]


@layer("InstanceNormalization")
def _instance_norm(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    kinds: dict[int, Any] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
    weight, bias = constants[1:3]
    if weight is None or bias is None or len(shape) not in kinds:
        return None
    norm = kinds[len(shape)](len(weight), eps=node.attribute("epsilon", 1e-5), affine=True)
    _fill(norm, weight=weight, bias=bias)
    return [norm]


@layer("PRelu")
def _prelu(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    slope = constants[1]
    channels = shape[1] if len(shape) > 1 else 1
    if (
        slope is None
        or slope.size not in (1, channels)
        or not (slope.size == 1 or (slope.ndim == len(shape) - 1 and slope.shape[0] == slope.size))
    ):
        return None
    made = nn.PReLU(slope.size)
    _fill(made, weight=slope.reshape(-1))
    return [made]


@layer("Gather")
def _embedding(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    table = constants[0]
    if table is None or table.ndim != 2 or table.dtype.kind != "f" or node.integer("axis", 0):
        return None
    with torch.device("meta"):
        made = nn.Embedding(*table.shape)
    _fill(made, weight=table)
    return [made]


_ACTIVATIONS: dict[str, Callable[[Operator], nn.Module | None]] = {
    "Relu": lambda node: nn.ReLU(),
    "Sigmoid": lambda node: nn.Sigmoid(),
    "Tanh": lambda node: nn.Tanh(),
    "HardSwish": lambda node: nn.Hardswish(),
    "Mish": lambda node: nn.Mish(),
    "Softplus": lambda node: nn.Softplus(),
    "Elu": lambda node: nn.ELU(node.number("alpha", 1.0)),
    "LeakyRelu": lambda node: nn.LeakyReLU(node.number("alpha", 0.01)),
    "Gelu": lambda node: nn.GELU(node.text("approximate", "none")),
    "HardSigmoid": lambda node: (
        nn.Hardsigmoid()
        if np.isclose(node.number("alpha", 0.2), 1 / 6, atol=1e-7) and node.number("beta", 0.5) == 0.5
        else None
    ),
}


@layer(*_ACTIVATIONS)
def _activation(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    made = _ACTIVATIONS[node.kind](node)
    return None if made is None else [made]


@layer("Clip")
def _clip(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    if any(place == "given" for place in node.places[1:]):
        return None
    low, high = (node.parameter(node.places, place, name) for place, name in ((1, "min"), (2, "max")))
    if low is None or high is None or not isinstance(low[0], float) or low[0] > high[0]:
        return None
    return [nn.ReLU6() if (low[0], high[0]) == (0.0, 6.0) else nn.Hardtanh(low[0], high[0])]


_GATES = {"LSTM": (4, (0, 2, 3, 1)), "GRU": (3, (1, 0, 2)), "RNN": (1, (0,))}  # ONNX: iofc, zrh; torch: ifgo, rzn
_USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@layer("LSTM", "GRU", "RNN")
def _recurrent(node: Operator, constants: list[Host | None], shape: Sequence[int]) -> Made | None:
    kind = node.kind
    weights, states = constants[1:3], node.places
    if any(one is None for one in weights):
        return None
    w, r = weights
    assert w is not None
    assert r is not None
    directions = w.shape[0]
    direction = node.text("direction", "forward")
    if direction == "reverse":
        raise UnsupportedError("attribute direction: reverse")
    given = node.attribute("activations")
    usual = _USUAL[kind] * directions
    relu = kind == "RNN" and given is not None and given == ["Relu"] * directions
    if given is not None and not relu and given != usual:
        raise UnsupportedError(f"attribute activations: {', '.join(given)}")
    for name in ("clip", "layout", "input_forget"):
        if node.attribute(name, 0):
            raise UnsupportedError(f"attribute {name}: {node.attribute(name)}")
    if kind == "GRU" and not node.integer("linear_before_reset", 0):
        raise UnsupportedError("attribute linear_before_reset: 0 (torch's GRU has 1)")
    if len(states) > 7 and states[7] is not None:
        raise UnsupportedError("peepholes")
    lengths = states[4] if len(states) > 4 else None
    if isinstance(lengths, str) or (lengths is not None and bool((lengths != shape[0]).any())):
        raise UnsupportedError("sequence_lens")
    return [Recurrent(node, w=w, r=r, bias=constants[3] if len(constants) > 3 else None, relu=relu)]


class Recurrent(nn.Module):
    """A recurrent layer as ONNX has it: (T, N, features) in, (T, directions, N, hidden) and last states out.

    Attributes:
        rnn: torch's layer
    """

    def __init__(self, node: Operator, *, w: Host, r: Host, bias: Host | None, relu: bool) -> None:
        super().__init__()
        directions, hidden = w.shape[0], r.shape[2]
        kind: Any = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[node.kind]
        more = {"nonlinearity": "relu" if relu else "tanh"} if node.kind == "RNN" else {}
        self.rnn = kind(w.shape[2], hidden, bias=bias is not None, bidirectional=directions == 2, **more)
        gates, order = _GATES[node.kind]
        self.directions, self.states = directions, 2 if node.kind == "LSTM" else 1

        def sorted_gates(values: Host) -> Host:
            return np.concatenate([values.reshape(gates, hidden, -1)[gate] for gate in order]).reshape(values.shape)

        for one in range(directions):
            tail = "_reverse" if one else ""
            found = {f"weight_ih_l0{tail}": w[one], f"weight_hh_l0{tail}": r[one]}
            if bias is not None:
                half = bias.shape[1] // 2
                found |= {f"bias_ih_l0{tail}": bias[one, :half], f"bias_hh_l0{tail}": bias[one, half:]}
            with torch.no_grad():
                for name, values in found.items():
                    self.rnn.get_parameter(name).copy_(torch.from_numpy(np.array(sorted_gates(values))))
        self.zeros = [_is_zero(place) for place in (node.places + [None] * 7)[5 : 5 + self.states]]

    def forward(self, x: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(T, N, features) and the first states, if they are no zeros: (T, D, N, hidden), and the last states."""
        states: Any = None
        if given:
            states = given if self.states == 2 else given[0]
        output, last = self.rnn(x, states)
        t, n, _ = output.shape
        split = output.reshape(t, n, self.directions, -1).transpose(1, 2)
        return (split, *last) if isinstance(last, tuple) else (split, last)


def _is_zero(place: Any) -> bool:
    return place is None or (isinstance(place, np.ndarray) and not place.any())


def _fill(module: nn.Module, **values: Host | None) -> None:
    for name, value in values.items():
        if value is None:
            continue
        if name in module._buffers:
            module._buffers[name] = torch.from_numpy(np.array(value, order="C"))
        else:
            setattr(module, name, parameter(value))


@function("GroupNormalization")
def _group_norm(op: Operator, values: list[Any]) -> torch.Tensor:
    x, weight, bias = values
    groups, eps = int(op.attribute("num_groups")), op.attribute("epsilon", 1e-5)
    normed = nn.functional.group_norm(x, groups, eps=eps)
    each = x.shape[1] // len(weight)  # before operator set 21 one a group
    shape = [1, -1] + [1] * (x.dim() - 2)
    weight, bias = (tensor_of(one, x).to(x).repeat_interleave(each).reshape(shape) for one in (weight, bias))
    return normed * weight + bias


@function("LayerNormalization")
def _layer_norm_by_hand(op: Operator, values: list[Any]) -> tuple[torch.Tensor, ...]:
    x, axis = values[0], (op.integer("axis", -1))
    axes = list(range(axis % x.dim(), x.dim()))
    centred = x - x.mean(axes, True)
    scale = (centred.square().mean(axes, True) + op.attribute("epsilon", 1e-5)).rsqrt()
    found = centred * scale * tensor_of(values[1], x).to(x)
    found = found + tensor_of(values[2], x).to(x) if len(values) > 2 and values[2] is not None else found
    return found, x.mean(axes, True), scale


@function("RMSNormalization")
def _rms_norm(op: Operator, values: list[Any]) -> torch.Tensor:
    x, axis = values[0], (op.integer("axis", -1))
    axes = list(range(axis % x.dim(), x.dim()))
    scale = (x.square().mean(axes, True) + op.attribute("epsilon", 1e-5)).rsqrt()
    found: torch.Tensor = x * scale * tensor_of(values[1], x).to(x)
    return found


@function("InstanceNormalization")
def _instance_norm_by_hand(op: Operator, values: list[Any]) -> torch.Tensor:
    x, weight, bias = (torch.as_tensor(value) for value in values)
    return nn.functional.instance_norm(x, weight=weight.to(x), bias=bias.to(x), eps=op.attribute("epsilon", 1e-5))


@function("BatchNormalization")
def _batch_norm_by_hand(op: Operator, values: list[Any]) -> torch.Tensor:
    x, weight, bias, mean, variance = values
    mean, variance, weight, bias = (tensor_of(value, x).to(x) for value in (mean, variance, weight, bias))
    return nn.functional.batch_norm(x, mean, variance, weight, bias, eps=op.attribute("epsilon", 1e-5))


@function("Conv")
def _conv_by_hand(op: Operator, values: list[Any]) -> torch.Tensor:
    raise UnsupportedError("weights that are computed, not constant")


@function("ConvTranspose", "LSTM", "GRU", "RNN")
def _computed_weights(op: Operator, values: list[Any]) -> torch.Tensor:
    raise UnsupportedError("weights that are computed, not constant")
