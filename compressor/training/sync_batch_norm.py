"""Batch-norms that normalise by the moments of all processes' samples, as if one process had the whole batch.

torch's SyncBatchNorm is a layer of another class, which needs CUDA; networks that are pruned while they train keep
theirs. So what a layer calls is replaced, `torch.nn.functional.batch_norm`, while a batch is computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

AddUp = Callable[[Tensor], Tensor]


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, as each process's result depends on every summand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, add_up: AddUp) -> Tensor:
        ctx.add_up = add_up
        return add_up(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.add_up(gradients[0].clone(memory_format=torch.contiguous_format)), None


@contextmanager
def synchronized(add_up: AddUp) -> Iterator[None]:
    """Let every batch-norm in training mode see the samples of all processes, which compute the same graph.

    Args:
        add_up: adds up a tensor over all processes, in place
    """
    own = F.batch_norm
    signature = inspect.signature(own)

    def batch_norm(*values: Any, **named: Any) -> Tensor:
        given = signature.bind(*values, **named)
        given.apply_defaults()
        return _normalised(given.arguments, add_up) if given.arguments["training"] else own(*values, **named)

    F.batch_norm = batch_norm
    try:
        yield
    finally:
        F.batch_norm = own


def _normalised(given: dict[str, Any], add_up: AddUp) -> Tensor:
    """Batch-norm of (N, C, …) by the moments of all processes' samples; updates the running ones, if there are any."""
    x: Tensor = given["input"]
    full = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x  # sums in half precision would overflow
    others, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    sums: Tensor = _Sum.apply(torch.cat([full.sum(others), full.new_tensor([x.numel() / x.shape[1]])]), add_up)
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = full - mean.view(shape)
    squares: Tensor = _Sum.apply(centred.square().sum(others), add_up)
    moments = {"running_mean": mean, "running_var": squares / (count - 1).clamp_min(1)}
    for name, moment in moments.items():
        if given[name] is not None:
            given[name].lerp_(moment.detach().to(given[name]), given["momentum"])
    scale = torch.rsqrt(squares / count + given["eps"])
    if given["weight"] is not None:
        scale = scale * given["weight"].to(full)
    found = centred * scale.view(shape)
    return (found if given["bias"] is None else found + given["bias"].to(full).view(shape)).to(x.dtype)
