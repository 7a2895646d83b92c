"""Operators that move, cut and join elements, in torch; and all that compute shapes, on numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from compressor.models.from_onnx.elementwise import tensors
from compressor.models.from_onnx.operator import Operator, first_tensor, function, host
from compressor.models.from_onnx.values import (
    Dim,
    Host,
    UnsupportedError,
    Value,
    host_of,
    normalised_axes,
    numbers,
    shape_values,
    tensor_of,
    torch_dtype,
)

Tensor = torch.Tensor
marking = [False]  # whether sizes are told from literals: while a graph is converted


# Tensors


@function("Shape")
def _shape(op: Operator, values: list[Value]) -> Host:
    sizes: list[Any] = list(first_tensor(values).shape)
    if marking[0]:
        sizes = [Dim(size) for size in sizes]
    return shape_values(sizes[op.integer("start", 0) : op.attribute("end", len(sizes))])


@function("Size")
def _size(op: Operator, values: list[Value]) -> Host:
    found = np.empty((), dtype=object)
    found[()] = Dim(math.prod(first_tensor(values).shape)) if marking[0] else math.prod(first_tensor(values).shape)
    return found


@function("Reshape")
def _reshape(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values[:1])
    wanted = op.parameter(values, 1, "shape")
    if op.plan is not None:
        return x.reshape(op.plan.sizes(x.shape, wanted))
    if not op.integer("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


@function("Flatten")
def _flatten(op: Operator, values: list[Value]) -> Tensor:
    x, axis = first_tensor(values), op.integer("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1:
        return x.flatten(1) if x.dim() > 1 else x.reshape(x.shape[0], 1)
    if axis == 0:
        return x.reshape(1, -1)
    return x.reshape(math.prod(x.shape[:axis]), -1) if axis < x.dim() else x.reshape(-1, 1)


@function("Transpose")
def _transpose(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values)
    return x.permute(op.attribute("perm") or list(range(x.dim()))[::-1])


@function("Squeeze")
def _squeeze(op: Operator, values: list[Value]) -> Tensor:
    x, axes = first_tensor(values[:1]), op.parameter(values, 1, "axes")
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if size == 1]
    for axis in sorted(normalised_axes(axes, x.dim()), reverse=True):
        x = x.squeeze(axis)
    return x


@function("Unsqueeze")
def _unsqueeze(op: Operator, values: list[Value]) -> Tensor:
    x, axes = first_tensor(values[:1]), op.parameter(values, 1, "axes")
    for axis in sorted(normalised_axes(axes, x.dim() + len(axes))):
        x = x.unsqueeze(axis)
    return x


@function("Concat")
def _concat(op: Operator, values: list[Value]) -> Tensor:
    parts, axis = tensors(values), op.integer("axis", 1)
    if op.plan == "batch":  # constants of one sample, such as class tokens, beside what has many
        most = max(part.shape[0] for part in parts)
        parts = [part.expand(most, *part.shape[1:]) if part.shape[0] != most else part for part in parts]
    return torch.cat(parts, axis)


@function("Split")
def _split(op: Operator, values: list[Value]) -> tuple[Tensor, ...]:
    x, axis = first_tensor(values[:1]), op.integer("axis", 0)
    sizes = op.parameter(values, 1, "split")
    length = x.shape[axis]
    if sizes is None or op.plan == "equal":
        count = op.outputs
        each = -(-length // count)  # the last may be smaller
        return tuple(torch.split(x, each, axis))
    return tuple(torch.split(x, sizes, axis))


@function("Slice")
def _slice(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values[:1])
    starts, ends = op.parameter(values, 1, "starts"), op.parameter(values, 2, "ends")
    axes = normalised_axes(op.parameter(values, 3, "axes") or list(range(len(starts))), x.dim())
    steps = op.parameter(values, 4, "steps") or [1] * len(starts)
    if op.plan is not None:  # one of so many equal parts
        part, parts = op.plan
        chosen: Tensor = torch.chunk(x, parts, axes[0])[part]
        return chosen
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x = _sliced(x, axis, start, end, step)
    return x


def _sliced(x: Tensor, axis: int, start: Any, end: Any, step: Any) -> Tensor:
    length = x.shape[axis]
    if step < 0:
        last = length - 1
        start = min(start + length if start < 0 else start, last)
        end = max(end + length, -1) if -length <= end < 0 else max(end, -1)
        # forwards, from the last that counts, then turned round
        count = max(0, -(-(start - end) // -step))
        return (
            x.narrow(axis, start + step * (count - 1), -step * (count - 1) + 1)[
                (slice(None),) * axis + (slice(None, None, -step),)
            ].flip(axis)
            if count
            else x.narrow(axis, 0, 0)
        )
    whole: list[Any] = [slice(None)] * x.dim()
    big = 2**31 - 1
    whole[axis] = slice(start if start > -big else None, end if end < big else None, step)
    return x[tuple(whole)]


@function("Gather")
def _gather(op: Operator, values: list[Value]) -> Tensor:
    x, index = tensors(values)
    (axis,) = normalised_axes([op.integer("axis", 0)], x.dim())
    if not isinstance(values[1], torch.Tensor) and values[1] is not None and values[1].ndim == 0:
        (place,) = numbers(values[1], "indices")
        return x.select(axis, place)
    index = torch.where(index < 0, index + x.shape[axis], index) if _may_be_negative(values[1]) else index
    flat = x.index_select(axis, index.reshape(-1).long())
    return flat.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _may_be_negative(index: Value) -> bool:
    if isinstance(index, torch.Tensor) or index is None or index.dtype == object:
        return isinstance(index, torch.Tensor)
    return bool((index < 0).any())


@function("GatherElements")
def _gather_elements(op: Operator, values: list[Value]) -> Tensor:
    x, index = tensors(values)
    axis = op.integer("axis", 0)
    index = torch.where(index < 0, index + x.shape[axis], index).long()
    return torch.gather(x, axis, index)


@function("GatherND")
def _gather_nd(op: Operator, values: list[Value]) -> Tensor:
    x, index = tensors(values)
    batch, depth = op.integer("batch_dims", 0), index.shape[-1]
    lead = [torch.arange(x.shape[axis], device=x.device) for axis in range(batch)]
    rest = index.dim() - 1 - batch
    lead = [
        one.reshape([-1 if axis == place else 1 for place in range(batch)] + [1] * rest)
        for axis, one in enumerate(lead)
    ]
    return x[(*lead, *(index[..., place].long() for place in range(depth)))]


@function("ScatterElements", "Scatter")
def _scatter_elements(op: Operator, values: list[Value]) -> Tensor:
    x, index, updates = tensors(values)
    axis, how = op.integer("axis", 0), op.text("reduction", "none")
    index = torch.where(index < 0, index + x.shape[axis], index).long()
    if how == "none":
        return x.scatter(axis, index, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, index, updates, names[how])


@function("ScatterND")
def _scatter_nd(op: Operator, values: list[Value]) -> Tensor:
    x, index, updates = tensors(values)
    how = op.text("reduction", "none")
    if how not in ("none", "add"):
        raise UnsupportedError(f"attribute reduction: {how}")
    places = tuple(index[..., place].long() for place in range(index.shape[-1]))
    return x.index_put(places, updates, accumulate=how == "add")


@function("Expand")
def _expand(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values[:1]) if isinstance(values[0], torch.Tensor) else tensor_of(values[0], first_tensor(values))
    wanted = numbers(values[1], "shape")
    rank = max(len(wanted), x.dim())
    own = [1] * (rank - x.dim()) + list(x.shape)
    wanted = [1] * (rank - len(wanted)) + wanted
    return x.expand([size if one == 1 else one for one, size in zip(own, wanted, strict=True)])


@function("Tile")
def _tile(op: Operator, values: list[Value]) -> Tensor:
    return first_tensor(values[:1]).repeat(numbers(values[1], "repeats"))


@function("Pad")
def _pad(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values[:1])
    pads = op.parameter(values, 1, "pads") or op.attribute("paddings")
    mode = op.text("mode", "constant")
    fill = (op.parameter(values, 2, "value") or [0])[0]
    axes = op.parameter(values, 3, "axes")
    axes = list(range(x.dim())) if axes is None else normalised_axes(axes, x.dim())
    begin, end = dict(zip(axes, pads[: len(axes)], strict=True)), dict(zip(axes, pads[len(axes) :], strict=True))
    if mode == "constant":
        flat = [item for axis in range(x.dim() - 1, -1, -1) for item in (begin.get(axis, 0), end.get(axis, 0))]
        while len(flat) > 2 and flat[-1] == flat[-2] == 0:
            flat = flat[:-2]
        if x.dtype == torch.bool:
            return functional.pad(x.to(torch.uint8), flat, value=int(fill)).to(torch.bool)
        return functional.pad(x, flat, value=fill)
    for axis in axes:
        before, after = begin[axis], end[axis]
        if before or after:
            x = x.index_select(axis, _mirrored(mode, x.shape[axis], before, after).to(x.device))
    return x


def _mirrored(mode: str, length: int, before: int, after: int) -> Tensor:
    """Which elements stand at the places of a padded axis."""
    places = np.arange(-before, length + after)
    if mode == "edge":
        return torch.from_numpy(places.clip(0, length - 1))
    if mode == "wrap":
        return torch.from_numpy(places % length)
    if mode != "reflect" or length < 2:
        raise UnsupportedError(f"attribute mode: {mode} of an axis of {length}")
    period = 2 * (length - 1)
    places = places % period
    return torch.from_numpy(np.where(places < length, places, period - places))


@function("DepthToSpace")
def _depth_to_space(op: Operator, values: list[Value]) -> Tensor:
    x, block = first_tensor(values), op.attribute("blocksize")
    if op.text("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


@function("SpaceToDepth")
def _space_to_depth(op: Operator, values: list[Value]) -> Tensor:
    x, block = first_tensor(values), op.attribute("blocksize")
    n, c, h, w = x.shape
    if op.text("mode", "DCR") == "CRD":
        return functional.pixel_unshuffle(x, block)
    parts = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


@function("Trilu")
def _triangle(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values[:1])
    (diagonal,) = numbers(values[1], "k") if len(values) > 1 and values[1] is not None else [0]
    return x.triu(diagonal) if op.integer("upper", 1) else x.tril(diagonal)


@function("OneHot")
def _one_hot(op: Operator, values: list[Value]) -> Tensor:
    index, (depth,), (off, on) = first_tensor(values[:1]), numbers(values[1], "depth"), numbers(values[2], "values")
    depth = int(depth)
    axis = op.integer("axis", -1)
    axis = axis + index.dim() + 1 if axis < 0 else axis
    index = torch.where(index < 0, index + depth, index).long()
    hot = index.unsqueeze(axis) == torch.arange(depth, device=index.device).reshape(
        [-1 if place == axis else 1 for place in range(index.dim() + 1)]
    )
    dtype = torch.from_numpy(np.zeros(0, host(values[2]).dtype)).dtype
    return torch.where(
        hot, torch.tensor(on, dtype=dtype, device=index.device), torch.tensor(off, dtype=dtype, device=index.device)
    )


@function("ReverseSequence")
def _reverse_sequence(op: Operator, values: list[Value]) -> Tensor:
    x, lengths = tensors(values)
    time, batch = op.integer("time_axis", 0), op.integer("batch_axis", 1)
    moved = x.movedim((batch, time), (0, 1))
    steps = torch.arange(moved.shape[1], device=x.device)[None]
    index = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    index = index.reshape(*index.shape, *[1] * (moved.dim() - 2)).expand(moved.shape)
    return torch.gather(moved, 1, index).movedim((0, 1), (batch, time))


# The last input of these is one of the network's: their device is its.


@function("ConstantOfShape")
def _constant_of_shape(op: Operator, values: list[Value]) -> Any:
    sizes, (fill, dtype) = numbers(values[0], "input"), fill_of(op)
    like = first_tensor(values)
    if len(sizes) == 1 and dtype == torch.int64 and not isinstance(sizes[0], torch.SymInt):
        return np.full(int(sizes[0]), fill, dtype=np.int64)  # what becomes a shape
    return torch.full(sizes, fill, dtype=dtype, device=like.device)


def fill_of(op: Operator) -> tuple[Any, torch.dtype]:
    """The value and the type that a node fills with."""
    given = op.attribute("value")
    if given is None:
        return 0.0, torch.float32
    value = given if isinstance(given, np.ndarray) else host_of(given)
    return value.reshape(-1)[0].item(), torch.from_numpy(np.zeros(0, value.dtype)).dtype


@function("Range")
def _range(op: Operator, values: list[Value]) -> Tensor:
    (start,), (limit,), (step,) = (numbers(value, "range") for value in values[:3])
    like = first_tensor(values)
    dtype = torch.float32 if isinstance(step, float) else torch.int64
    return torch.arange(start, limit, step, device=like.device, dtype=dtype)


@function("EyeLike")
def _eye_like(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values)
    dtype = torch_dtype(op.attribute("dtype")) if "dtype" in op.attributes else x.dtype
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape)
    return (rows[:, None] + op.integer("k", 0) == columns[None]).to(dtype)
