"""Operators that work element by element, and reductions, in torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from compressor.models.from_onnx.operator import Operator, first_tensor, function
from compressor.models.from_onnx.values import UnsupportedError, Value, normalised_axes, numbers, tensor_of, torch_dtype

Tensor = torch.Tensor


def tensors(values: list[Value]) -> list[Tensor]:
    """All values as tensors."""
    like = first_tensor(values)
    return [tensor_of(value, like) for value in values if value is not None]


def _unary(computes: Callable[[Operator, Tensor], Tensor]) -> Callable[[Operator, list[Value]], Tensor]:
    return lambda op, values: computes(op, first_tensor(values))


def _shrink(op: Operator, x: Tensor) -> Tensor:
    bias, edge = op.number("bias", 0.0), op.number("lambd", 0.5)
    return torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, torch.zeros_like(x)))


def _is_inf(op: Operator, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if op.integer("detect_negative", 1):
        found = found | torch.isneginf(x)
    return found | torch.isposinf(x) if op.integer("detect_positive", 1) else found


_UNARY: dict[str, Callable[[Operator, Tensor], Tensor]] = {
    "Abs": lambda op, x: x.abs(),
    "Acos": lambda op, x: x.acos(),
    "Acosh": lambda op, x: x.acosh(),
    "Asin": lambda op, x: x.asin(),
    "Asinh": lambda op, x: x.asinh(),
    "Atan": lambda op, x: x.atan(),
    "Atanh": lambda op, x: x.atanh(),
    "BitwiseNot": lambda op, x: x.bitwise_not(),
    "Ceil": lambda op, x: x.ceil(),
    "Celu": lambda op, x: functional.celu(x, op.number("alpha", 1.0)),
    "Cos": lambda op, x: x.cos(),
    "Cosh": lambda op, x: x.cosh(),
    "Elu": lambda op, x: functional.elu(x, op.number("alpha", 1.0)),
    "Erf": lambda op, x: x.erf(),
    "Exp": lambda op, x: x.exp(),
    "Floor": lambda op, x: x.floor(),
    "Gelu": lambda op, x: functional.gelu(x, approximate=op.text("approximate", "none")),
    "HardSigmoid": lambda op, x: (op.number("alpha", 0.2) * x + op.number("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda op, x: functional.hardswish(x),
    "IsInf": _is_inf,
    "IsNaN": lambda op, x: x.isnan(),
    "LeakyRelu": lambda op, x: functional.leaky_relu(x, op.number("alpha", 0.01)),
    "Log": lambda op, x: x.log(),
    "Mish": lambda op, x: functional.mish(x),
    "Neg": lambda op, x: -x,
    "Not": lambda op, x: x.logical_not(),
    "Reciprocal": lambda op, x: x.reciprocal(),
    "Relu": lambda op, x: functional.relu(x),
    "Round": lambda op, x: x.round(),
    "Selu": lambda op, x: (
        op.number("gamma", 1.0507009873554805)
        * torch.where(x > 0, x, op.number("alpha", 1.6732632423543772) * (x.exp() - 1))
    ),
    "Shrink": _shrink,
    "Sigmoid": lambda op, x: x.sigmoid(),
    "Sign": lambda op, x: x.sign(),
    "Sin": lambda op, x: x.sin(),
    "Sinh": lambda op, x: x.sinh(),
    "Softplus": lambda op, x: functional.softplus(x),
    "Softsign": lambda op, x: functional.softsign(x),
    "Sqrt": lambda op, x: x.sqrt(),
    "Swish": lambda op, x: x * (op.number("alpha", 1.0) * x).sigmoid(),
    "Tan": lambda op, x: x.tan(),
    "Tanh": lambda op, x: x.tanh(),
    "ThresholdedRelu": lambda op, x: torch.where(x > op.number("alpha", 1.0), x, torch.zeros_like(x)),
}
for _kind, _computes in _UNARY.items():
    function(_kind)(_unary(_computes))


def _divided(left: Tensor, right: Tensor) -> Tensor:
    if left.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


def _power(left: Tensor, right: Tensor) -> Tensor:
    return torch.pow(left, right).to(left.dtype)


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divided,
    "Pow": _power,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
}
for _name, _computes_two in _BINARY.items():

    def _two(op: Operator, values: list[Value], computes: Callable[[Tensor, Tensor], Tensor] = _computes_two) -> Tensor:
        if op.version < 7 and "axis" in op.attributes:
            raise UnsupportedError("attribute axis of operator set 6 and before")
        left, right = tensors(values)
        return computes(left, right)

    function(_name)(_two)


@function("Mod")
def _mod(op: Operator, values: list[Value]) -> Tensor:
    left, right = tensors(values)
    return torch.fmod(left, right) if op.integer("fmod", 0) else torch.remainder(left, right)


@function("BitShift")
def _bit_shift(op: Operator, values: list[Value]) -> Tensor:
    left, right = tensors(values)
    shift = torch.bitwise_left_shift if op.text("direction", "") == "LEFT" else torch.bitwise_right_shift
    return shift(left, right)


@function("Min", "Max", "Sum", "Mean")
def _variadic(op: Operator, values: list[Value]) -> Tensor:
    two = {"Min": torch.minimum, "Max": torch.maximum}.get(op.kind, torch.add)
    all_of = tensors(values)
    found = functools.reduce(two, all_of)
    return found / len(all_of) if op.kind == "Mean" else found


@function("Where")
def _where(op: Operator, values: list[Value]) -> Tensor:
    condition, yes, no = tensors(values)
    return torch.where(condition, yes, no)


@function("Clip")
def _clip(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values[:1])
    low, high = (_bound(op, values, place, name) for place, name in ((1, "min"), (2, "max")))
    if low is not None:
        x = torch.maximum(x, low) if isinstance(low, torch.Tensor) else x.clamp(min=low)
    if high is not None:  # where low > high, all is high, as ONNX has it
        x = torch.minimum(x, high) if isinstance(high, torch.Tensor) else x.clamp(max=high)
    return x


def _bound(op: Operator, values: list[Value], place: int, name: str) -> Any:
    if place < len(values) and isinstance(values[place], torch.Tensor):
        return values[place]
    found = op.parameter(values, place, name)
    return found[0] if found is not None else None


@function("Cast", "CastLike")
def _cast(op: Operator, values: list[Value]) -> Tensor:
    x = tensor_of(values[0], first_tensor(values))
    if op.kind == "CastLike":
        return x.to(tensor_of(values[1], x).dtype)
    return x.to(torch_dtype(op.attribute("to")))


@function("Softmax", "LogSoftmax", "Hardmax")
def _softmax(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values)
    axis = op.attribute("axis", -1 if op.version >= 13 else 1)
    (axis,) = normalised_axes([axis], max(x.dim(), 1))
    if op.version < 13:  # over all axes from this one on
        flat = x.reshape(*x.shape[:axis], -1) if axis else x.reshape(-1)
        if not x.dim() - axis > 1:
            return _soft(op.kind, x, axis)
        return _soft(op.kind, flat, -1).reshape(x.shape)
    return _soft(op.kind, x, axis)


def _soft(kind: str, x: Tensor, axis: int) -> Tensor:
    if kind == "Softmax":
        return torch.softmax(x, axis)
    if kind == "LogSoftmax":
        return torch.log_softmax(x, axis)
    best = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, torch.ones_like(best, dtype=x.dtype))


_REDUCE: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: (
        x.mean(axes, keep) if x.is_floating_point() else x.double().mean(axes, keep).to(x.dtype)
    ),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keep, dtype=x.dtype),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: (x * x).sum(axes, keep).sqrt().to(x.dtype),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
    "ReduceProd": lambda x, axes, keep: _one_by_one(torch.prod, x, axes, keep),
    "ReduceMax": lambda x, axes, keep: _extreme(torch.amax, x, axes, keep),
    "ReduceMin": lambda x, axes, keep: _extreme(torch.amin, x, axes, keep),
}


def _one_by_one(reduce: Callable[..., Tensor], x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = reduce(x, axis, keep, dtype=x.dtype)
    return x


def _extreme(reduce: Callable[..., Tensor], x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.dtype == torch.bool:
        return reduce(x.to(torch.uint8), axes, keep).to(torch.bool)
    return reduce(x, axes, keep)


@function(*_REDUCE)
def _reduced(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values[:1])
    axes = op.parameter(values, 1, "axes")
    if not axes:
        if (axes is not None and op.integer("noop_with_empty_axes", 0)) or op.integer("noop_with_empty_axes", 0):
            axes = []
        else:
            axes = list(range(x.dim()))
        if not axes:
            return _elementwise_part(op.kind, x)
    return _REDUCE[op.kind](x, normalised_axes(axes, x.dim()), bool(op.integer("keepdims", 1)))


def _elementwise_part(kind: str, x: Tensor) -> Tensor:
    """A reduction over no axis."""
    if kind == "ReduceSumSquare":
        return x * x
    if kind in ("ReduceL1", "ReduceL2"):
        return x.abs()
    return x.log() if kind == "ReduceLogSum" else x


@function("ArgMax", "ArgMin")
def _arg(op: Operator, values: list[Value]) -> Tensor:
    x, axis = first_tensor(values), op.integer("axis", 0)
    if op.integer("select_last_index", 0):
        length = x.shape[axis]
        find = torch.argmax if op.kind == "ArgMax" else torch.argmin
        return length - 1 - find(x.flip(axis), axis, bool(op.integer("keepdims", 1)))
    find = torch.argmax if op.kind == "ArgMax" else torch.argmin
    return find(x, axis, bool(op.integer("keepdims", 1)))


@function("CumSum")
def _cumulated(op: Operator, values: list[Value]) -> Tensor:
    x, (axis,) = first_tensor(values[:1]), numbers(values[1], "axis")
    if op.integer("reverse", 0):
        x = x.flip(axis)
    found = x.cumsum(axis, dtype=x.dtype)
    if op.integer("exclusive", 0):
        found = found - x
    return found.flip(axis) if op.integer("reverse", 0) else found


@function("TopK")
def _top(op: Operator, values: list[Value]) -> tuple[Tensor, Tensor]:
    x, (count,) = first_tensor(values[:1]), op.parameter(values, 1, "k")
    axis, largest = op.integer("axis", -1), bool(op.integer("largest", 1))
    ordered, places = torch.sort(x, dim=axis, descending=largest, stable=True)  # of equal values ONNX takes the first
    return ordered.narrow(axis, 0, count), places.narrow(axis, 0, count)


@function("MeanVarianceNormalization")
def _mean_variance(op: Operator, values: list[Value]) -> Tensor:
    x, axes = first_tensor(values), op.attribute("axes") or [0, 2, 3]
    mean = x.mean(axes, True)
    return (x - mean) / (((x * x).mean(axes, True) - mean * mean).sqrt() + 1e-9)


@function("LpNormalization")
def _lp_normalised(op: Operator, values: list[Value]) -> Tensor:
    x, axis = first_tensor(values), op.integer("axis", -1)
    norm = x.abs().sum(axis, True) if op.integer("p", 2) == 1 else (x * x).sum(axis, True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


@function("LRN")
def _local_response(op: Operator, values: list[Value]) -> Tensor:
    x, size = first_tensor(values), int(op.attribute("size"))
    squares = functional.pad((x * x).flatten(2).unsqueeze(1), (0, 0, (size - 1) // 2, size // 2))
    summed = functional.avg_pool2d(squares, (size, 1), stride=1) * size
    scale = op.number("bias", 1.0) + op.attribute("alpha", 1e-4) / size * summed.squeeze(1).reshape(x.shape)
    normed: Tensor = x / scale ** op.number("beta", 0.75)
    return normed


@function("Einsum")
def _einsum(op: Operator, values: list[Value]) -> Tensor:
    return torch.einsum(op.text("equation", "").replace(" ", ""), tensors(values))


@function("MatMul")
def _product(op: Operator, values: list[Value]) -> Tensor:
    left, right = tensors(values)
    return left @ right


@function("Gemm")
def _gemm(op: Operator, values: list[Value]) -> Tensor:
    given = tensors(values)
    left, right = given[:2]
    left = left.t() if op.integer("transA", 0) else left
    right = right.t() if op.integer("transB", 0) else right
    found = op.number("alpha", 1.0) * (left @ right)
    return (found + op.number("beta", 1.0) * given[2]).to(left.dtype) if len(given) > 2 else found
