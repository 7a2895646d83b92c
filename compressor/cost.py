"""What a network costs: parameters and multiply-adds.

One multiply-add counts 1 (MACs; FLOPs are twice that). Counted are convolutions and matrix products for one
image, as torch's own flop counter sees them; batch-norm, activations and additions are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.architecture import Architecture
from compressor.models import build_meta, example_input

Cost = Callable[[Sequence[int]], float]


def count_params(model: nn.Module) -> int:
    """Number of trained values (buffers such as running means are not counted)."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example: torch.Tensor) -> int:
    """Multiply-adds of one image.

    Args:
        model: on the device of `example`; the meta device will do
        example: (N, …); the count is divided by N
    """
    training = [module for module in model.modules() if module.training]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(example)
    for module in training:
        module.training = True
    return int(counter.get_total_flops()) // 2 // len(example)


def params(architecture: Architecture) -> int:
    """Parameter count of an architecture, without building its weights."""
    return count_params(build_meta(architecture))


def macs(architecture: Architecture) -> int:
    """Multiply-adds of an architecture for one image, without building its weights."""
    return count_macs(build_meta(architecture), example_input(architecture, 1).to("meta"))


COSTS: Mapping[str, Callable[[Architecture], int]] = {"params": params, "macs": macs}


def of_widths(reference: Architecture, cost: Callable[[Architecture], float]) -> Cost:
    """A cost of whole channel counts, in the order of `reference.widths`, remembered by its argument."""
    seen: dict[tuple[int, ...], float] = {}

    def of(widths: Sequence[int]) -> float:
        key = tuple(int(width) for width in widths)
        if key not in seen:
            seen[key] = float(cost(reference.with_widths(dict(zip(reference.widths, key, strict=True)))))
        return seen[key]

    return of
