"""Pooling, resizing and sampling in torch, where ONNX's forms of them and torch's differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from compressor.models.from_onnx.operator import Operator, first_tensor, function
from compressor.models.from_onnx.values import UnsupportedError, Value, tensor_of

Tensor = torch.Tensor
_CUBIC = -0.75  # the coefficient that torch's cubic interpolation has


def padding_of(op: Any, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """What a convolution or a pooling pads before and behind each spatial axis.

    Args:
        op: has the attributes auto_pad, pads, strides and dilations
        sizes: of the spatial axes
        kernel: likewise
    """
    dims = len(kernel)
    strides, dilations = op.attribute("strides") or [1] * dims, op.attribute("dilations") or [1] * dims
    mode = op.text("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = list(op.attribute("pads") or [0] * (2 * dims))
        return pads[:dims], pads[dims:]
    if mode == "VALID":
        return [0] * dims, [0] * dims
    before, behind = [], []
    for size, length, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-int(size) // stride) - 1) * stride + (length - 1) * dilation + 1 - int(size), 0)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        behind.append(large if mode == "SAME_UPPER" else small)
    return before, behind


def _flat(before: Sequence[int], behind: Sequence[int]) -> list[int]:
    """Pads as torch takes them."""
    return [item for pair in zip(reversed(before), reversed(behind), strict=True) for item in pair]


def _overhang(
    op: Operator, sizes: Sequence[int], kernel: Sequence[int], pads: tuple[list[int], list[int]]
) -> list[int]:
    """What windows that begin inside reach beyond the padded axes, with ceil_mode."""
    if not op.integer("ceil_mode", 0):
        return [0] * len(kernel)
    dims = len(kernel)
    strides, dilations = op.attribute("strides") or [1] * dims, op.attribute("dilations") or [1] * dims
    more = []
    for axis in range(dims):
        span = (kernel[axis] - 1) * dilations[axis] + 1
        padded = int(sizes[axis]) + pads[0][axis] + pads[1][axis]
        count = -(-(padded - span) // strides[axis]) + 1
        if (count - 1) * strides[axis] >= int(sizes[axis]) + pads[0][axis]:
            count -= 1  # it would begin in the padding
        more.append(max(0, (count - 1) * strides[axis] + span - padded))
    return more


@function("MaxPool")
def _max_pool(op: Operator, values: list[Value]) -> Tensor:
    x, kernel = first_tensor(values), list(op.attribute("kernel_shape"))
    dims = len(kernel)
    before, behind = padding_of(op, x.shape[2:], kernel)
    strides, dilations = op.attribute("strides") or [1] * dims, op.attribute("dilations") or [1] * dims
    pool: Callable[..., Tensor] = _pools("max_pool", dims)
    over = _overhang(op, x.shape[2:], kernel, (before, behind))
    if not any(over) and before == behind and all(2 * pad <= size for pad, size in zip(before, kernel, strict=True)):
        return pool(x, kernel, strides, before, dilations)
    behind = [pad + more for pad, more in zip(behind, over, strict=True)]
    lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    return pool(functional.pad(x, _flat(before, behind), value=lowest), kernel, strides, 0, dilations)


def _pools(name: str, dims: int) -> Any:
    if not 1 <= dims <= 3:
        raise UnsupportedError(f"pooling over {dims} axes")
    return getattr(functional, f"{name}{dims}d")


@function("AveragePool")
def _average_pool(op: Operator, values: list[Value]) -> Tensor:
    x, kernel = first_tensor(values), list(op.attribute("kernel_shape"))
    dims = len(kernel)
    before, behind = padding_of(op, x.shape[2:], kernel)
    strides, dilations = op.attribute("strides") or [1] * dims, op.attribute("dilations") or [1] * dims
    counts = bool(op.integer("count_include_pad", 0))
    over = _overhang(op, x.shape[2:], kernel, (before, behind))
    pool = _pools("avg_pool", dims)
    plain = not any(over) and all(one == 1 for one in dilations)
    if plain and before == behind and all(2 * pad <= size for pad, size in zip(before, kernel, strict=True)):
        pooled: Tensor = pool(x, kernel, strides, before, count_include_pad=counts)
        return pooled
    ones = torch.ones_like(x[:1, :1])
    inner = functional.pad(ones, _flat(before, behind), value=1.0 if counts else 0.0)
    reached = _flat([0] * dims, over)
    share = _windows(functional.pad(inner, reached), kernel, strides, dilations)
    summed = _windows(functional.pad(functional.pad(x, _flat(before, behind)), reached), kernel, strides, dilations)
    return summed / share


def _windows(x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> Tensor:
    """Means over windows, with dilation, which torch's pooling lacks."""
    dims = len(kernel)
    if all(one == 1 for one in dilations):
        found: Tensor = _pools("avg_pool", dims)(x, kernel, strides)
        return found
    flat = x.reshape(-1, 1, *x.shape[2:])
    weight = torch.full((1, 1, *kernel), 1.0 / math.prod(kernel), dtype=x.dtype, device=x.device)
    convolve = getattr(functional, f"conv{dims}d")
    made: Tensor = convolve(flat, weight, None, strides, 0, dilations)
    return made.reshape(*x.shape[:2], *made.shape[2:])


@function("LpPool")
def _lp_pool(op: Operator, values: list[Value]) -> Tensor:
    x, kernel, p = first_tensor(values), list(op.attribute("kernel_shape")), op.integer("p", 2)
    dims = len(kernel)
    before, behind = padding_of(op, x.shape[2:], kernel)
    over = _overhang(op, x.shape[2:], kernel, (before, behind))
    behind = [pad + more for pad, more in zip(behind, over, strict=True)]
    strides, dilations = op.attribute("strides") or [1] * dims, op.attribute("dilations") or [1] * dims
    powers = functional.pad(x.abs() ** p, _flat(before, behind))
    return torch.pow(_windows(powers, kernel, strides, dilations) * math.prod(kernel), 1.0 / p)


@function("GlobalAveragePool")
def _global_average(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values)
    return x.mean(list(range(2, x.dim())), True)


@function("GlobalMaxPool")
def _global_max(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values)
    return x.amax(list(range(2, x.dim())), True)


@function("GlobalLpPool")
def _global_lp(op: Operator, values: list[Value]) -> Tensor:
    x, p = first_tensor(values), op.integer("p", 2)
    return (x.abs() ** p).sum(list(range(2, x.dim())), True) ** (1.0 / p)


@function("Resize", "Upsample")
def _resize(op: Operator, values: list[Value]) -> Tensor:
    x, mode = first_tensor(values[:1]), op.text("mode", "nearest")
    sizes, scales, transform, axes = _resized(op, values, x)
    if op.integer("exclude_outside", 0) and mode == "cubic":
        raise UnsupportedError("attribute exclude_outside: 1")
    if not axes:
        return x
    spatial = list(range(2, x.dim()))
    exact = all(size == scale * x.shape[axis] for axis, size, scale in zip(axes, sizes, scales, strict=True))
    if set(axes) <= set(spatial) and exact and x.is_floating_point():
        size = [dict(zip(axes, sizes, strict=True)).get(axis, x.shape[axis]) for axis in spatial]
        found = _interpolated(op, x, size, mode, transform)
        if found is not None:
            return found
    if op.integer("antialias", 0):
        raise UnsupportedError(f"attribute antialias with mode {mode} and coordinate_transformation_mode {transform}")
    for axis, length, scale in zip(axes, sizes, scales, strict=True):
        x = _along(op, x, axis, length, scale)
    return x


def _interpolated(op: Operator, x: Tensor, size: list[int], mode: str, transform: str) -> Tensor | None:
    """By torch's own function, where it is the same one; None: it is not."""
    smooth = {"linear": {3: "linear", 4: "bilinear", 5: "trilinear"}, "cubic": {4: "bicubic"}}.get(mode, {}).get(
        x.dim()
    )
    antialias = bool(op.integer("antialias", 0))
    if smooth and op.number("cubic_coeff_a", _CUBIC) == _CUBIC:
        if antialias and smooth in ("bilinear", "bicubic") and transform == "half_pixel":
            return functional.interpolate(x, size, mode=smooth, align_corners=False, antialias=True)
        if not antialias and (transform == "half_pixel" or (transform == "pytorch_half_pixel" and min(size) > 1)):
            return functional.interpolate(x, size, mode=smooth, align_corners=False)
        if not antialias and transform == "align_corners" and min(size) > 1:
            return functional.interpolate(x, size, mode=smooth, align_corners=True)
    floors = op.text("nearest_mode", "round_prefer_floor") == "floor"
    if mode == "nearest" and transform == "asymmetric" and (floors or op.version < 11):
        return functional.interpolate(x, size, mode="nearest")
    whole = all(new % int(old) == 0 for new, old in zip(size, x.shape[2:], strict=True))
    if mode == "nearest" and transform in ("asymmetric", "half_pixel") and whole:
        rounding = op.text("nearest_mode", "round_prefer_floor")
        if transform == "half_pixel" and rounding.startswith("round"):  # no ties, and the same at whole factors
            return functional.interpolate(x, size, mode="nearest")
    return None


def _resized(op: Operator, values: list[Value], x: Tensor) -> tuple[list[int], list[float], str, list[int]]:
    """New sizes, factors, the transformation of coordinates, and the axes that change."""
    later = op.version >= 11
    places = (2, 3) if later else (1, 9)
    axes = list(op.attribute("axes") or range(x.dim()))
    axes = [axis % x.dim() for axis in axes]
    scales = op.parameter(values, places[0], "scales") if len(values) > places[0] else op.attribute("scales")
    sizes = op.parameter(values, places[1], "sizes") if len(values) > places[1] else None
    old = [x.shape[axis] for axis in axes]
    if sizes:
        policy = op.text("keep_aspect_ratio_policy", "stretch")
        scales = [float(new) / float(size) if new != size else 1.0 for new, size in zip(sizes, old, strict=True)]
        if policy != "stretch":
            factor = min(scales) if policy == "not_larger" else max(scales)
            scales = [factor] * len(axes)
            sizes = [math.floor(int(size) * factor + 0.5) for size in old]
    elif scales:
        sizes = [size if scale == 1 else math.floor(int(size) * scale) for size, scale in zip(old, scales, strict=True)]
    else:
        raise UnsupportedError("neither sizes nor scales that are constant")
    transform = _transform(op)
    if transform == "tf_crop_and_resize":
        raise UnsupportedError(f"attribute coordinate_transformation_mode: {transform}")
    changed = [place for place, scale in enumerate(scales) if scale != 1]
    return (
        [sizes[place] for place in changed],
        [scales[place] for place in changed],
        transform,
        [axes[place] for place in changed],
    )


def _transform(op: Operator) -> str:
    return op.text("coordinate_transformation_mode", "half_pixel") if op.version >= 11 else "asymmetric"


def _along(op: Operator, x: Tensor, axis: int, size: int, scale: float) -> Tensor:
    """Resize one axis as ONNX defines it, by a matrix or by picking elements."""
    mode, transform = op.text("mode", "nearest"), _transform(op)
    length = int(x.shape[axis])
    size = int(size)
    places = np.arange(size, dtype=np.float64)
    wanted = scale * length
    if transform == "align_corners":
        at = places * (length - 1) / (wanted - 1) if wanted != 1 else np.zeros(size)
    elif transform == "asymmetric":
        at = places / scale
    elif transform == "pytorch_half_pixel":
        at = (places + 0.5) / scale - 0.5 if wanted > 1 else np.zeros(size)
    elif transform == "half_pixel_symmetric":
        centre = length / 2 * (1 - size / wanted)
        at = centre + (places + 0.5) / scale - 0.5
    elif transform == "half_pixel":
        at = (places + 0.5) / scale - 0.5
    else:
        raise UnsupportedError(f"attribute coordinate_transformation_mode: {transform}")
    if mode == "nearest":
        rounding = op.text("nearest_mode", "round_prefer_floor") if op.version >= 11 else "floor"
        index = {
            "floor": np.floor(at),
            "ceil": np.ceil(at),
            "round_prefer_floor": np.ceil(at - 0.5),
            "round_prefer_ceil": np.floor(at + 0.5),
        }[rounding]
        return x.index_select(axis, torch.from_numpy(index.clip(0, length - 1).astype(np.int64)).to(x.device))
    matrix = np.zeros((size, length))
    base = np.floor(at)
    part = at - base
    if mode == "linear":
        taps = {0: 1 - part, 1: part}
    elif mode == "cubic":
        a = op.number("cubic_coeff_a", _CUBIC)
        taps = {shift: _cubic(np.abs(part - shift), a) for shift in (-1, 0, 1, 2)}
    else:
        raise UnsupportedError(f"attribute mode: {mode}")
    for shift, weight in taps.items():
        np.add.at(matrix, (np.arange(size), (base + shift).clip(0, length - 1).astype(int)), weight)
    weights = torch.from_numpy(matrix).to(x)
    return (x.movedim(axis, -1) @ weights.t()).movedim(-1, axis)


def _cubic(distance: Any, a: float) -> Any:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


@function("GridSample")
def _grid_sample(op: Operator, values: list[Value]) -> Tensor:
    x = first_tensor(values[:1])
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(m := op.text("mode", "linear"), m)
    padding = op.text("padding_mode", "zeros")
    corners = bool(op.integer("align_corners", 0))
    return functional.grid_sample(x, tensor_of(values[1], x), mode, padding, corners)
