"""Values of an ONNX graph while torch runs it: tensors, and host values, which are constants and computed shapes.

Host values are numpy arrays. Those of shapes have dtype object and hold Python integers, or torch's symbolic ones while
`torch.export` runs: they are never put into tensors unless an operator mixes them with some, so that a shape that the
graph computes stays a shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

Host = NDArray[Any]
Value = torch.Tensor | Host | None

# Networks are float32 in torch; ONNX's other floats are brought back at the file's inputs and outputs.
_DTYPES = {
    "FLOAT": torch.float32,
    "FLOAT16": torch.float32,
    "BFLOAT16": torch.float32,
    "DOUBLE": torch.float32,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "UINT8": torch.uint8,
    "UINT16": torch.int32,
    "UINT32": torch.int64,
    "UINT64": torch.int64,
    "BOOL": torch.bool,
}


class UnsupportedError(Exception):
    """An operator, or a form of it, that torch cannot be given; the text says what."""


class Dim(int):
    """A number that comes from a tensor's shape: while a graph is converted it must be told from a literal."""

    __slots__ = ()

    def __add__(self, other: Any) -> Any:
        return _marked(int.__add__, self, other)

    def __sub__(self, other: Any) -> Any:
        return _marked(int.__sub__, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _marked(int.__rsub__, self, other)

    def __mul__(self, other: Any) -> Any:
        return _marked(int.__mul__, self, other)

    def __floordiv__(self, other: Any) -> Any:
        return _marked(int.__floordiv__, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _marked(int.__rfloordiv__, self, other)

    def __mod__(self, other: Any) -> Any:
        return _marked(int.__mod__, self, other)

    def __neg__(self) -> Any:
        return Dim(-int(self))

    __radd__, __rmul__ = __add__, __mul__


def _marked(function: Any, left: Dim, right: Any) -> Any:
    if not isinstance(right, (int, np.integer)):
        return NotImplemented
    return Dim(function(int(left), int(right)))


def torch_dtype(kind: int) -> torch.dtype:
    """The dtype that stands for one of ONNX's in torch.

    Raises:
        UnsupportedError: none does
    """
    name = onnx.TensorProto.DataType.Name(kind)
    if name not in _DTYPES:
        raise UnsupportedError(f"values of type {name}")
    return _DTYPES[name]


def host_of(tensor: onnx.TensorProto) -> Host:
    """A constant of the file, in the dtype that it has in torch."""
    dtype = torch_dtype(tensor.data_type)
    values = np.asarray(onnx.numpy_helper.to_array(tensor))
    return values.astype(numpy_dtype(dtype), copy=False)


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The dtype of numpy that is torch's."""
    return torch.zeros(0, dtype=dtype).numpy().dtype


def is_host(value: Value) -> bool:
    """Whether a value is no tensor of the network's."""
    return not isinstance(value, torch.Tensor)


def shape_values(sizes: Sequence[Any]) -> Host:
    """Sizes as a host value, which may be symbolic."""
    found = np.empty(len(sizes), dtype=object)
    for place, size in enumerate(sizes):
        found[place] = size
    return found


def numbers(value: Value, what: str) -> list[Any]:
    """The numbers of a host value, in one list.

    Raises:
        UnsupportedError: it depends on the values of the inputs
    """
    if value is None:
        raise UnsupportedError(f"no {what}")
    if isinstance(value, torch.Tensor):
        raise UnsupportedError(f"{what} that depend on the values of the network's inputs")
    return [item if value.dtype == object else item.item() for item in value.reshape(-1)]


def tensor_of(value: Value, like: torch.Tensor) -> torch.Tensor:
    """A value as a tensor on the device of another one."""
    if isinstance(value, torch.Tensor):
        return value
    if value is None:
        raise UnsupportedError("a missing input")
    if value.dtype != object:
        return torch.as_tensor(np.array(value, order="C"), device=like.device)
    items = list(value.reshape(-1))
    floats = any(isinstance(item, (float, torch.SymFloat, np.floating)) for item in items)
    flags = bool(items) and all(isinstance(item, (bool, torch.SymBool, np.bool_)) for item in items)
    dtype = torch.float32 if floats else torch.bool if flags else torch.int64
    if any(isinstance(item, (torch.SymInt, torch.SymFloat, torch.SymBool)) for item in items):
        parts = [torch.full((), item, dtype=dtype, device=like.device) for item in items]
        return torch.stack(parts).reshape(value.shape)
    return torch.tensor(items, dtype=dtype, device=like.device).reshape(value.shape)


def normalised_axes(axes: Sequence[int], rank: int) -> list[int]:
    """Axes counted from 0.

    Raises:
        UnsupportedError: one is out of range
    """
    if any(not -rank <= axis < rank for axis in axes):
        raise UnsupportedError(f"axes {list(axes)} of a tensor with {rank}")
    return [int(axis) % rank for axis in axes]
