"""Shapes and random values for the inputs of an ONNX model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .errors import BenchError

__all__ = ["TensorSpec", "random_tensor", "resolve_inputs"]

# ONNX Runtime's type names and the numpy types that hold their values.
_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True)
class TensorSpec:
    """One input as it is fed: its name, its shape with every axis a number, and its numpy dtype's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def resolve_inputs(session: Any, file: str, batch: int, shapes: Mapping[str, Sequence[int]]) -> tuple[TensorSpec, ...]:
    """Give every axis of every input a size.

    A symbolic first axis becomes `batch`; a fixed one must equal it. An input named in `shapes` takes that
    shape instead, whatever its first axis means (time in a time-major LSTM, layers in an initial state).

    Args:
        session: an `onnxruntime.InferenceSession`.
        file: the model's name for messages.
        batch: samples in one run.
        shapes: whole shapes by input name.

    Returns:
        One spec for each input, in the model's order.

    Raises:
        BenchError: a name in `shapes` that is no input, a shape that the model refuses, an axis without a
            size, a fixed batch other than `batch`, no axis of that size at all, or a type that numpy lacks.
    """
    nodes = session.get_inputs()
    names = [node.name for node in nodes]
    for name in shapes:
        if name not in names:
            raise BenchError(f"{file}: shapes names {name!r}, which is not one of the inputs {', '.join(names)}")
    specs = tuple(
        TensorSpec(node.name, _shape(node, file, batch, shapes.get(node.name)), _dtype(node, file)) for node in nodes
    )
    if batch > 1 and not any(batch in spec.shape for spec in specs):
        told = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in specs) or "there are none"
        raise BenchError(f"{file}: batch={batch} is the size of no axis of the inputs: {told}")
    return specs


def random_tensor(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Draw values for an input: N(0, 1) for floats, 0 or 1 for integers, either for booleans.

    Integers stay below 2 because they are often indices, and every table worth a look-up has two rows.
    """
    if spec.dtype.startswith("float"):
        return rng.standard_normal(spec.shape).astype(spec.dtype)
    return rng.integers(0, 2, spec.shape).astype(spec.dtype)


def _shape(node: Any, file: str, batch: int, given: Sequence[int] | None) -> tuple[int, ...]:
    """Resolve one input's shape; `node.shape` holds ints, and names or None for symbolic axes."""
    if given is not None:
        return _given_shape(node, file, given)
    if node.shape and isinstance(node.shape[0], int) and node.shape[0] != batch:
        raise BenchError(
            f"{file}: input {node.name!r} has a fixed batch of {node.shape[0]}, not batch={batch}; measure "
            f"with batch={node.shape[0]}, export it with a dynamic batch, or give its whole shape in "
            "shapes if its axis 0 is no batch"
        )
    sizes = [batch, *node.shape[1:]] if node.shape else []
    for axis, size in enumerate(sizes):
        if not isinstance(size, int):
            raise BenchError(
                f"{file}: axis {axis} of input {node.name!r} has no fixed size ({size or 'unnamed'}); give "
                f"it one with shapes={{{node.name!r}: [...]}}, {len(sizes)} numbers that fit {node.shape}"
            )
    return tuple(sizes)


def _given_shape(node: Any, file: str, given: Sequence[int]) -> tuple[int, ...]:
    fits = len(given) == len(node.shape) and all(
        size >= 1 and (not isinstance(own, int) or own == size) for size, own in zip(given, node.shape, strict=True)
    )
    if not fits:
        raise BenchError(f"{file}: shape {list(given)} does not fit input {node.name!r}, which has {node.shape}")
    return tuple(int(size) for size in given)


def _dtype(node: Any, file: str) -> str:
    if node.type not in _DTYPES:
        raise BenchError(
            f"{file}: input {node.name!r} has the type {node.type}, which is not one of {', '.join(_DTYPES)}"
        )
    return _DTYPES[node.type]
