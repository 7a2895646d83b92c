"""Operators on numbers alone, constants and sizes, by which a graph computes shapes; torch takes no part."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from compressor.models.from_onnx.movement import fill_of
from compressor.models.from_onnx.operator import Operator, host, host_function
from compressor.models.from_onnx.values import Host, Value, numbers, numpy_dtype, torch_dtype


def _each(computes: Callable[..., Any], *arrays: Host) -> Host:
    """A function of numbers, on arrays of objects as on others."""
    found: Any = np.frompyfunc(computes, len(arrays), 1)(*arrays)
    if not isinstance(found, np.ndarray):
        found = _boxed(found, np.dtype(object))
    return np.asarray(found)


def _two_numbers(plain: Callable[..., Host], computes: Callable[..., Any], values: list[Value]) -> Host:
    left, right = (host(value) for value in values)
    if left.dtype != object and right.dtype != object:
        return np.asarray(plain(left, right))
    return _each(computes, left, right)


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _quotient(left: Any, right: Any) -> Any:
    left, right = _item(left), _item(right)
    if isinstance(left, float) or isinstance(right, float):
        return left / right
    if isinstance(left, torch.SymInt) or left >= 0 < right:
        return left // right
    return int(left / right)


def _divide(left: Host, right: Host) -> Host:
    if left.dtype.kind == "f":
        with np.errstate(all="ignore"):
            return left / right
    return np.trunc(left / right).astype(left.dtype)


_PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Add": (np.add, lambda a, b: a + b),
    "Sub": (np.subtract, lambda a, b: a - b),
    "Mul": (np.multiply, lambda a, b: a * b),
    "Div": (_divide, _quotient),
    "Mod": (np.mod, lambda a, b: a % b),
    "Min": (np.minimum, lambda a, b: a if a <= b else b),
    "Max": (np.maximum, lambda a, b: a if a >= b else b),
    "Equal": (np.equal, lambda a, b: a == b),
    "Greater": (np.greater, lambda a, b: a > b),
    "GreaterOrEqual": (np.greater_equal, lambda a, b: a >= b),
    "Less": (np.less, lambda a, b: a < b),
    "LessOrEqual": (np.less_equal, lambda a, b: a <= b),
    "And": (np.logical_and, lambda a, b: a and b),
    "Or": (np.logical_or, lambda a, b: a or b),
}
for _kind, (_plain, _of_objects) in _PAIRS.items():

    def _pair(op: Operator, values: list[Value], plain: Any = _plain, computes: Any = _of_objects) -> Host:
        found = host(values[0])
        if len(values) == 1:
            return found
        for value in values[1:]:
            found = _two_numbers(plain, lambda a, b: computes(_item(a), _item(b)), [found, value])
        return found if op.kind != "Mod" or not op.integer("fmod", 0) else _host_fmod(values)

    host_function(_kind)(_pair)


def _host_fmod(values: list[Value]) -> Host:
    return np.fmod(host(values[0]), host(values[1]))


@host_function("Not")
def _host_not(op: Operator, values: list[Value]) -> Host:
    return _each(lambda item: not item, host(values[0])).astype(bool)


@host_function("Neg")
def _host_negative(op: Operator, values: list[Value]) -> Host:
    return np.asarray(-host(values[0]))


@host_function("Floor", "Ceil", "Sqrt")
def _host_rounded(op: Operator, values: list[Value]) -> Host:
    x = host(values[0])
    if x.dtype != object:
        plain: Any = {"Floor": np.floor, "Ceil": np.ceil, "Sqrt": np.sqrt}[op.kind]
        return np.asarray(plain(x))
    computes: Any = {"Floor": math.floor, "Ceil": math.ceil, "Sqrt": math.sqrt}[op.kind]
    return _each(lambda item: float(computes(item)), x)


@host_function("Cast")
def _host_cast(op: Operator, values: list[Value]) -> Host:
    x, dtype = host(values[0]), torch_dtype(op.attribute("to"))
    if x.dtype != object:
        with np.errstate(all="ignore"):
            return x.astype(numpy_dtype(dtype))
    if dtype == torch.bool:
        return _each(bool, x)
    if dtype.is_floating_point:
        return _each(lambda item: item * 1.0 if isinstance(item, torch.SymInt) else float(item), x)
    return _each(lambda item: int(item) if isinstance(item, float) else item, x)


@host_function("Where")
def _host_where(op: Operator, values: list[Value]) -> Host:
    condition, yes, no = (host(value) for value in values)
    return np.where(condition.astype(bool), yes, no)


@host_function("Shape")
def _host_shape(op: Operator, values: list[Value]) -> Host:
    sizes = host(values[0]).shape
    return np.array(sizes[op.integer("start", 0) : op.attribute("end", len(sizes))], dtype=np.int64)


@host_function("Gather")
def _host_gather(op: Operator, values: list[Value]) -> Host:
    x, index = host(values[0]), host(values[1])
    if index.dtype == object:
        index = index.astype(np.int64)
    found = np.take(x, index, axis=op.integer("axis", 0))
    return found if isinstance(found, np.ndarray) else _boxed(found, x.dtype)


def _boxed(item: Any, dtype: np.dtype[Any]) -> Host:
    found = np.empty((), dtype=dtype)
    found[()] = item
    return found


@host_function("Concat")
def _host_concat(op: Operator, values: list[Value]) -> Host:
    return np.concatenate([host(value) for value in values], axis=op.integer("axis", 1))


@host_function("Slice")
def _host_slice(op: Operator, values: list[Value]) -> Host:
    x = host(values[0])
    starts, ends = op.parameter(values, 1, "starts"), op.parameter(values, 2, "ends")
    axes = op.parameter(values, 3, "axes") or list(range(len(starts)))
    steps = op.parameter(values, 4, "steps") or [1] * len(starts)
    whole: list[Any] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        length = x.shape[axis]
        stop = None if step < 0 and end < -length else end
        whole[axis] = slice(start, stop, step)
    return np.asarray(x[tuple(whole)])


@host_function("Squeeze")
def _host_squeeze(op: Operator, values: list[Value]) -> Host:
    x, axes = host(values[0]), op.parameter(values, 1, "axes")
    return np.squeeze(x, tuple(axes) if axes is not None else None)


@host_function("Unsqueeze")
def _host_unsqueeze(op: Operator, values: list[Value]) -> Host:
    return np.expand_dims(host(values[0]), tuple(op.parameter(values, 1, "axes")))


@host_function("Reshape")
def _host_reshape(op: Operator, values: list[Value]) -> Host:
    x, wanted = host(values[0]), op.parameter(values, 1, "shape")
    if not op.integer("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape([int(size) for size in wanted])


@host_function("Transpose")
def _host_transpose(op: Operator, values: list[Value]) -> Host:
    return np.transpose(host(values[0]), op.attribute("perm"))


@host_function("Expand")
def _host_expand(op: Operator, values: list[Value]) -> Host:
    x, wanted = host(values[0]), [int(size) for size in numbers(values[1], "shape")]
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(wanted))).copy()


@host_function("Tile")
def _host_tile(op: Operator, values: list[Value]) -> Host:
    return np.tile(host(values[0]), [int(size) for size in numbers(values[1], "repeats")])


@host_function("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def _host_reduced(op: Operator, values: list[Value]) -> Host:
    x, axes = host(values[0]), op.parameter(values, 1, "axes")
    reduce: Any = {"ReduceProd": np.prod, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min}[op.kind]
    if not axes and op.integer("noop_with_empty_axes", 0):
        return x
    found = reduce(x, axis=tuple(axes) if axes else None, keepdims=bool(op.integer("keepdims", 1)))
    return found.astype(x.dtype) if isinstance(found, np.ndarray) else _boxed(found, x.dtype)


@host_function("ConstantOfShape")
def _host_constant_of_shape(op: Operator, values: list[Value]) -> Host:
    fill, dtype = fill_of(op)
    return np.full([int(size) for size in numbers(values[0], "input")], fill, dtype=numpy_dtype(dtype))


@host_function("Range")
def _host_range(op: Operator, values: list[Value]) -> Host:
    arrays = [host(value) for value in values]
    kinds = [array.dtype for array in arrays if array.dtype != object]
    dtype = kinds[0] if kinds else np.dtype(np.int64)
    return np.arange(*(_item(array.reshape(-1)[0]) for array in arrays), dtype=dtype)


@host_function("Size")
def _host_size(op: Operator, values: list[Value]) -> Host:
    return np.asarray(host(values[0]).size, dtype=np.int64)
