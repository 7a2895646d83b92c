"""Slots of a tensor: an int64 tensor of its shape, with stride 0 along dimensions where they do not differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch


def living(slots: torch.Tensor) -> list[int]:
    """Dimensions along which the slots of a tensor differ."""
    return [dim for dim, size in enumerate(slots.shape) if size > 1 and slots.stride(dim) != 0]


def spread_out(slots: torch.Tensor) -> torch.Tensor:
    """The same slots with stride 0 along dimensions where they do not differ."""
    core = slots
    for dim in range(slots.dim()):
        if slots.shape[dim] > 1 and slots.stride(dim) == 0:
            core = core.narrow(dim, 0, 1)
    for dim in range(slots.dim()):
        if core.shape[dim] > 1 and bool((core == core.narrow(dim, 0, 1)).all()):
            core = core.narrow(dim, 0, 1)
    return core.expand(slots.shape)


def core_of(slots: torch.Tensor) -> torch.Tensor:
    """Slots without the dimensions along which they do not differ, as dimensions of length 1."""
    for dim in range(slots.dim()):
        if slots.shape[dim] > 1 and slots.stride(dim) == 0:
            slots = slots.narrow(dim, 0, 1)
    return slots


def along_dim(vector: torch.Tensor, dim: int, shape: Sequence[int]) -> torch.Tensor:
    """A vector of slots as the slots of a tensor of that shape, along one dimension."""
    view = [1] * len(shape)
    view[dim] = -1
    return vector.view(view).expand(tuple(shape))


def tensors_in(values: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from tensors_in(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors_in(value)
