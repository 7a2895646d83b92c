"""Shapes and random values for the inputs of an ONNX model."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from .errors import BenchError

__all__ = ["BATCH", "INPUT_SHAPE", "TensorSpec", "available_bytes", "check_types", "names_of", "random_tensor"]
__all__ += ["read_values", "resolve_inputs"]

BATCH: Final = "N"  # stands for the batch in a shape that the user gives
# Metadata of a model with one input: the shape of one sample as JSON, such as [35] for tokens (N, 35).
INPUT_SHAPE: Final = "compressor.input_shape"

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

Shapes = Mapping[str, Sequence[int | str]]
_LARGE = 2**26  # bytes; what is packed more densely than so many times may be meant to fill the memory
_DENSEST = 100
_ANY = 0  # what older converters write for an axis of any size


@dataclass(frozen=True)
class TensorSpec:
    """One input as it is fed: its name, its shape with every axis a number, and its numpy dtype's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


def resolve_inputs(session: Any, file: str, batch: int, shapes: Shapes) -> tuple[TensorSpec, ...]:
    """Give every axis of every input a size.

    `shapes` holds sizes by name. The name of an input gives its whole shape, whatever its first axis means
    (time in a time-major LSTM, layers in an initial state); the name of a symbolic axis, with one number, gives
    that axis its size wherever it occurs. Where a name is both, the input's is meant if the number of sizes is its
    rank. "N" stands for the batch in both.

    Axes that `shapes` leaves open: a symbolic first axis becomes `batch`, and so do all axes of the same name; a
    fixed first axis must equal `batch`, unless another axis of that input is one of those. The other symbolic axes
    of a model with one input get the sizes that the model's metadata names under `INPUT_SHAPE`.

    Args:
        session: an `onnxruntime.InferenceSession`.
        file: the model's name for messages.
        batch: samples in one run.
        shapes: sizes by the name of an input or a symbolic axis.

    Returns:
        One spec for each input, in the model's order.

    Raises:
        BenchError: a name in `shapes` that is neither, a shape that the model refuses, an axis without a size, a
            fixed batch other than `batch`, no axis of that size at all, or a type that numpy lacks.
    """
    nodes = session.get_inputs()
    dtypes = [_dtype(node, file) for node in nodes]
    whole, sizes, batches = _sort_shapes(nodes, file, batch, shapes)
    firsts = {node.shape[0] for node in nodes if node.name not in whole and node.shape}
    batches |= {axis for axis in firsts if isinstance(axis, str) and axis not in sizes}
    sizes = _stated_sizes(session, nodes) | sizes | dict.fromkeys(batches, batch)
    resolved = [whole[node.name] if node.name in whole else _shape(node, file, batch, sizes, batches) for node in nodes]
    specs = tuple(
        TensorSpec(node.name, shape, dtype) for node, shape, dtype in zip(nodes, resolved, dtypes, strict=True)
    )
    if batch > 1 and not any(batch in spec.shape for spec in specs):
        listed = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in specs) or "there are none"
        raise BenchError(f"{file}: batch={batch} is the size of no axis of the inputs: {listed}")
    return specs


def names_of(session: Any) -> set[str]:
    """What `shapes` may name of a model: its inputs and their symbolic axes."""
    nodes = session.get_inputs()
    return {node.name for node in nodes} | {axis for node in nodes for axis in node.shape if isinstance(axis, str)}


def read_values(file: str | None) -> dict[str, np.ndarray[Any, Any]]:
    """Read values of inputs from an .npz file, by the names of its arrays; none without a file.

    Raises:
        BenchError: it cannot be read, or holds Python objects
    """
    if file is None:
        return {}
    if not Path(file).is_file():  # reading from a pipe would wait for good
        raise BenchError(f"{file} is not a file")
    if not zipfile.is_zipfile(file):
        raise BenchError(f"{file}: is not an .npz file with an array for each input (numpy.savez makes them)")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            packed, needed = Path(file).stat().st_size, sum(part.file_size for part in arrays.zip.infolist())
            if needed > max(_LARGE, _DENSEST * packed):
                raise BenchError(
                    f"{file}: has {packed:,} bytes and unpacks to {needed:,}, more than {_DENSEST} times as many; "
                    "write it with numpy.savez if that is right"
                )
            return {name: np.ascontiguousarray(arrays[name]) for name in arrays.files}
    except BenchError:
        raise
    except Exception as error:  # zipfile, numpy and the system each have their own
        said = " ".join(str(error).split())
        cause = "it holds Python objects" if "allow_pickle" in said else said[:200]
        raise BenchError(f"{file}: cannot be read as an .npz file: {cause}") from error


def check_types(file: str, specs: Sequence[TensorSpec], values: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Refuse values of another type than their input's.

    Raises:
        BenchError: names the input
    """
    for spec in specs:
        found = values[spec.name].dtype.name if spec.name in values else spec.dtype
        if found != spec.dtype:
            raise BenchError(f"{file}: the values given for input {spec.name!r} are {found}, it takes {spec.dtype}")


def _stated_sizes(session: Any, nodes: Sequence[Any]) -> dict[str, int]:
    """Sizes by symbolic axis that the model's metadata states; none where it states nothing that fits its input."""
    try:
        text = session.get_modelmeta().custom_metadata_map.get(INPUT_SHAPE)
    except UnicodeDecodeError:  # someone else's notes; ours are text
        return {}
    if text is None or len(nodes) != 1:
        return {}
    from compressor.files import parse_json  # not where memory is measured, unless it is asked for

    try:
        listed = parse_json(text)
    except ValueError:
        return {}
    axes = nodes[0].shape[1:]
    if not isinstance(listed, list) or len(listed) != len(axes) or not all(type(n) is int and n > 0 for n in listed):
        return {}
    return {axis: size for axis, size in zip(axes, listed, strict=True) if isinstance(axis, str)}


def random_tensor(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Draw values for an input: N(0, 1) for floats, 0 or 1 for integers, either for booleans.

    Integers stay below 2 because they are often indices, and every table worth a look-up has two rows.
    """
    if spec.dtype == "float64":
        return np.asarray(rng.standard_normal(spec.shape))
    if spec.dtype.startswith("float"):
        return np.asarray(rng.standard_normal(spec.shape, np.float32)).astype(spec.dtype, copy=False)
    return np.asarray(rng.integers(0, 2, spec.shape, np.uint8)).astype(spec.dtype, copy=False)


def available_bytes() -> int | None:
    """Memory that can be had without swapping, in bytes; None where the system does not report it."""
    lines = _text("/proc/meminfo").splitlines()
    rooms = [int(line.split()[1]) * 2**10 for line in lines if line.startswith("MemAvailable:")]
    limit = _text("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():  # of the container
        rooms.append(int(limit))
    return min(rooms, default=None)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _sort_shapes(
    nodes: Sequence[Any], file: str, batch: int, shapes: Shapes
) -> tuple[dict[str, tuple[int, ...]], dict[str, int], set[str]]:
    """Split `shapes` into whole shapes by input, sizes by symbolic axis, and the symbolic axes that are the batch.

    A whole shape gives the sizes of its own symbolic axes too, for inputs that share them.
    """
    inputs = {node.name: node for node in nodes}
    axes = {axis for node in nodes for axis in node.shape if isinstance(axis, str)}
    whole: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    for name, given in shapes.items():
        listed = _numbers(name, file, batch, given)
        if name in inputs and (name not in axes or len(listed) == len(inputs[name].shape)):
            whole[name] = _whole_shape(inputs[name], file, listed)
        elif name in axes:
            if len(listed) != 1 or listed[0] < 0:
                raise BenchError(f"{file}: the axis {name!r} takes one size of 0 or more, not {list(given)}")
            sizes[name] = listed[0]
        else:
            symbolic = f"; symbolic axes: {', '.join(sorted(axes))}" if axes else ""
            raise BenchError(
                f"{file}: shapes names {name!r}, which is not one of the inputs {', '.join(inputs)}{symbolic}"
            )
    batches = {axis for axis in sizes if shapes[axis][0] == BATCH}
    for name, shape in whole.items():
        for axis, size, raw in zip(inputs[name].shape, shape, shapes[name], strict=False):
            if isinstance(axis, str) and axis not in sizes:
                sizes[axis] = size
                batches |= {axis} if raw == BATCH else set()
    return whole, sizes, batches


def _numbers(name: str, file: str, batch: int, given: Sequence[int | str]) -> tuple[int, ...]:
    for size in given:
        if size != BATCH and isinstance(size, str | bool):
            raise BenchError(
                f"{file}: shapes gives {name!r} the size {size!r}, which is neither a number nor {BATCH!r} (the batch)"
            )
    return tuple(batch if size == BATCH else int(size) for size in given)


def _whole_shape(node: Any, file: str, given: tuple[int, ...]) -> tuple[int, ...]:
    # ONNX Runtime gives no axes for a scalar, and for what may have any number of them: it will say if they do not fit.
    fits = (not node.shape or len(given) == len(node.shape)) and all(size >= 0 for size in given)
    fits &= all(not isinstance(own, int) or own in (size, _ANY) for size, own in zip(given, node.shape, strict=False))
    if not fits:
        raise BenchError(f"{file}: shape {list(given)} does not fit input {node.name!r}, which has {node.shape}")
    return given


def _shape(node: Any, file: str, batch: int, known: Mapping[str, int], batches: set[str]) -> tuple[int, ...]:
    """Resolve one input's shape; `node.shape` holds ints, and names or None for symbolic axes."""
    first = (node.shape[0] if node.shape else None) or None
    if isinstance(first, int) and first != batch and batches.isdisjoint(node.shape):
        raise BenchError(
            f"{file}: input {node.name!r} has a fixed batch of {first}, not batch={batch}; measure "
            f"with batch={first}, export it with a dynamic batch, or give its whole shape in "
            "shapes if its axis 0 is no batch"
        )
    sizes = [known.get(axis, axis) if isinstance(axis, str) else axis or None for axis in node.shape]
    if sizes and first is None:
        sizes[0] = batch
    for axis, size in enumerate(sizes):
        if not isinstance(size, int):
            remedy = f"shapes={{{size!r}: [SIZE]}} (--shape {size}=SIZE), or its whole shape with " if size else ""
            raise BenchError(
                f"{file}: axis {axis} of input {node.name!r} has no fixed size ({size or 'unnamed'}); give it one "
                f"with {remedy}shapes={{{node.name!r}: [...]}}, {len(sizes)} numbers that fit {node.shape}"
            )
    return tuple(int(size) for size in sizes if isinstance(size, int))  # all are, by now


def _dtype(node: Any, file: str) -> str:
    if node.type not in _DTYPES:
        raise BenchError(
            f"{file}: input {node.name!r} has the type {node.type}, which is not one of {', '.join(_DTYPES)}"
        )
    return _DTYPES[node.type]
