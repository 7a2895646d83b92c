"""What a network costs: parameters and multiply-adds.

One multiply-add counts 1 (MACs; FLOPs are twice that). Counted are convolutions and matrix products for one
image, as torch's own flop counter sees them; batch-norm, activations and additions are not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.architecture import Architecture
from compressor.models import build_meta, example_input, referenced
from compressor.widths import LayerSizes, WidthPlan, resize_

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
    if ":" in architecture.model and "params" in (costs := _layer_costs(architecture)).exact:
        return costs.params(architecture.widths)
    return count_params(build_meta(architecture))


def macs(architecture: Architecture) -> int:
    """Multiply-adds of an architecture for one image, without building its weights."""
    if ":" in architecture.model and "macs" in (costs := _layer_costs(architecture)).exact:
        return costs.macs(architecture.widths)
    return count_macs(build_meta(architecture), example_input(architecture, 1).to("meta"))


def params_at(model: nn.Module, plan: WidthPlan, widths: Mapping[str, int]) -> int:
    """Parameter count that a network would have at other widths, {group: channels}."""
    length = LayerSizes(plan).at(plan.widths | dict(widths))
    return sum(
        math.prod(length(name, dim, size) for dim, size in enumerate(parameter.shape))
        for name, parameter in model.named_parameters()
    )


class _LayerCosts:
    """Counts a resizable network at any widths without resizing it, parameter by parameter.

    The multiply-adds of a weight are its values times the positions it is applied at, which widths do not change.
    `exact` names the costs that this gives rightly, at the network's own widths and at halves of them: a network may
    multiply activations, or compute its weights.
    """

    def __init__(self, model: nn.Module, plan: WidthPlan, example: torch.Tensor) -> None:
        self._sizes, self._products = LayerSizes(plan), plan.products
        # (parameter, values at fixed lengths, (dimension, present length) that may change, positions)
        self._terms: list[tuple[str, int, tuple[tuple[int, int], ...], int]] = []
        for name, parameter in model.named_parameters():
            grows = tuple((dim, length) for dim, length in enumerate(parameter.shape) if (name, dim) in plan.owners)
            factor = parameter.numel() // math.prod(length for _, length in grows)
            self._terms.append((name, factor, grows, plan.uses.get(name, 0)))
        halves = {name: max(1, group.units // 2) * group.step for name, group in plan.groups.items()}
        smaller = copy.deepcopy(model)
        resize_(smaller, plan, halves)
        self.exact = set(COSTS)
        for network, widths in ((model, plan.widths), (smaller, halves)):
            counted = {"params": self.params(widths), "macs": self.macs(widths)}
            measured = {"params": count_params(network), "macs": count_macs(network, example)}
            self.exact &= {name for name, value in counted.items() if value == measured[name]}

    def params(self, widths: Mapping[str, int]) -> int:
        return sum(size for size, _ in self._counted(widths))

    def macs(self, widths: Mapping[str, int]) -> int:
        return self._products + sum(size * used for size, used in self._counted(widths))

    def _counted(self, widths: Mapping[str, int]) -> Iterator[tuple[int, int]]:
        length = self._sizes.at(widths)
        for name, factor, grows, used in self._terms:
            yield factor * math.prod(length(name, dim, present) for dim, present in grows), used


@lru_cache(maxsize=8)
def _layer_costs_of(reference: str) -> _LayerCosts:
    architecture = Architecture.from_json(reference)
    model, plan = referenced(architecture)
    return _LayerCosts(copy.deepcopy(model), plan, example_input(architecture, 1).to("meta"))


def _layer_costs(architecture: Architecture) -> _LayerCosts:
    plan = referenced(architecture)[1]
    return _layer_costs_of(architecture.with_widths(plan.widths).to_json())  # one entry whatever the widths


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
