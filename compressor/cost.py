"""What a network costs: parameters and multiply-adds.

One multiply-add counts 1 (MACs; FLOPs are twice that). Counted are convolutions and matrix products for one
image, as torch's own flop counter sees them; batch-norm, activations and additions are not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.architecture import Architecture
from compressor.models import build_meta, example_input, referenced
from compressor.widths import LayerSizes, WidthPlan, parameter_sides

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


class _LayerCosts:
    """Counts a resizable network at any widths without resizing it, layer by layer.

    A layer's multiply-adds are its weights times the positions it is applied at, which widths do not change.
    `exact` names the costs that this gives rightly at the network's own widths: attention multiplies activations too,
    and layers may share a parameter.
    """

    def __init__(self, model: nn.Module, plan: WidthPlan, example: torch.Tensor) -> None:
        self._sizes = LayerSizes(plan)
        # (module path, constant factor, sides that multiply it, positions) of every resizable parameter
        self._terms: list[tuple[str, int, tuple[tuple[str, int], ...], int]] = []
        positions = _positions(model, example)
        for path, module in model.named_modules():
            sides = parameter_sides(module)
            for name, parameter in module.named_parameters(recurse=False):
                grows = tuple((side, parameter.shape[dim]) for dim, side in sides.get(name, ()))
                factor = parameter.numel() // math.prod(length for _, length in grows)
                used = positions.get(path, 0) if name == "weight" else 0
                self._terms.append((path, factor, grows, used))
        counted = {"params": self.params(plan.widths), "macs": self.macs(plan.widths)}
        measured = {"params": count_params(model), "macs": count_macs(model, example)}
        self.exact = {name for name, value in counted.items() if value == measured[name]}

    def params(self, widths: Mapping[str, int]) -> int:
        return sum(size for size, _ in self._counted(widths))

    def macs(self, widths: Mapping[str, int]) -> int:
        return sum(size * used for size, used in self._counted(widths))

    def _counted(self, widths: Mapping[str, int]) -> Iterator[tuple[int, int]]:
        length = self._sizes.at(widths)
        for path, factor, grows, used in self._terms:
            yield factor * math.prod(length(path, side, present) for side, present in grows), used


@lru_cache(maxsize=8)
def _layer_costs_of(reference: str) -> _LayerCosts:
    architecture = Architecture.from_json(reference)
    model, plan = referenced(architecture)
    return _LayerCosts(copy.deepcopy(model), plan, example_input(architecture, 1).to("meta"))


def _layer_costs(architecture: Architecture) -> _LayerCosts:
    plan = referenced(architecture)[1]
    return _layer_costs_of(architecture.with_widths(plan.widths).to_json())  # one entry whatever the widths


def _positions(model: nn.Module, example: torch.Tensor) -> dict[str, int]:
    """{path of a convolution or linear layer: how many output positions it computes for one image}."""
    found: dict[str, int] = {}

    def note(path: str, channel_dim: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            applied = output.numel() // output.shape[channel_dim] // len(example)
            found[path] = found.get(path, 0) + applied

        return hook

    layers = [
        (path, m) for path, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    ]
    hooks = [m.register_forward_hook(note(path, -1 if isinstance(m, nn.Linear) else 1)) for path, m in layers]
    with torch.no_grad():
        model.eval()(example)
    for handle in hooks:
        handle.remove()
    return found


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
