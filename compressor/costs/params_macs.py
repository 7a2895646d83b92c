"""What a network costs: parameters and multiply-adds.

One multiply-add counts 1 (MACs; FLOPs are twice that). Counted are convolutions and matrix products for one sample
(an image, or a sequence of tokens), as torch's own flop counter sees them; batch-norm, activations and additions are
not.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.dependency import DependencyGraph, LayerSizes
from compressor.dependency.inputs import AnyInputs, run, zeros_of
from compressor.models import (
    build_meta,
    example_input,
    follows,
    graph_of,
    prunable,
    reference_architecture,
    units,
    version_of,
)
from compressor.models.architecture import Architecture
from compressor.models.stacked.spec import Stack
from compressor.models.unfilled import filled

_NONE: Mapping[str, Stack] = {}


@dataclass(frozen=True)
class Load:
    """What a layer does for one sample.

    Attributes:
        name: of its weight
        kind: "convolution", "pointwise", "depthwise" or "linear"
        macs: multiply-adds
        values: activations that it makes
        weights: values that it is made of
    """

    name: str
    kind: str
    macs: float
    values: float
    weights: float = 0.0


def count_params(model: nn.Module) -> int:
    """Number of trained values (buffers such as running means are not counted)."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example: AnyInputs) -> int:
    """Multiply-adds of one sample.

    Args:
        model: on the device of `example`; best the meta device: elsewhere the counter does not see into recurrent
            layers
        example: (N, …); the count is divided by N
    """
    training = [module for module in model.modules() if module.training]
    try:
        return _counted(model.eval(), example)
    except Exception:
        if not example.is_meta:
            raise
        real = filled(model)  # it looks at values; or needs more samples than one, as norms over the batch do
        return _counted(real, zeros_of(example, max(2, len(example))))
    finally:
        for module in training:
            module.training = True


def _counted(model: nn.Module, example: AnyInputs) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(model, example.clone())  # it may change what it is given
    return int(counter.get_total_flops()) // 2 // len(example)


def params(architecture: Architecture) -> int:
    """Parameter count of an architecture, without building its weights."""
    if (costs := _layer_costs(architecture)) is not None and "params" in costs.exact:
        return costs.params(architecture.widths, architecture.stacks)
    return count_params(build_meta(architecture))


def macs(architecture: Architecture) -> int:
    """Multiply-adds of an architecture for one sample, without building its weights."""
    if (costs := _layer_costs(architecture)) is not None and "macs" in costs.exact:
        return costs.macs(architecture.widths, architecture.stacks)
    return count_macs(build_meta(architecture), example_input(architecture, 1).to("meta"))


def loads(architecture: Architecture, block: int = 1) -> Sequence[Load] | None:
    """What the layers of an architecture do, with widths rounded up to whole blocks of channels.

    Returns:
        a load for each weight that is multiplied with; None where the network's layers are not known one by one
    """
    costs = _layer_costs(architecture)
    return None if costs is None else costs.loads(architecture.widths, architecture.stacks, block)


def params_at(model: nn.Module, graph: DependencyGraph, widths: Mapping[str, int]) -> int:
    """Parameter count that a network would have at other widths, {group: channels}."""
    length = LayerSizes(graph).at(graph.widths | dict(widths))
    return sum(
        math.prod(length(name, dim, size) for dim, size in enumerate(parameter.shape))
        for name, parameter in model.named_parameters()
    )


# (parameter, values at fixed lengths, (dimension, present length) that may change, positions)
_Term = tuple[str, int, tuple[tuple[int, int], ...], int]


class _LayerCosts:
    """Counts a resizable network at any widths without resizing it, parameter by parameter.

    The multiply-adds of a weight are its values times the positions it is applied at, which widths do not change.
    `exact` names the costs that this gives rightly, at the network's own widths and at halves of them: a network may
    multiply activations, or compute its weights. In a stacked layer, of the pairs of channels only those within a unit
    have weights (TissueNet, equation 5).

    Args:
        model: at its own widths
        graph: of the model
        example: what to count its multiply-adds with
        follows: {group: (searched group, factor)}
        between: {parameter: weight} of layers that are left out where that weight has as many inputs as outputs: the
            network counted then lacks them, and `model` is the one that has them all
        built: widths → the network that is counted, to compare with
    """

    def __init__(
        self,
        model: nn.Module,
        graph: DependencyGraph,
        example: AnyInputs,
        follows: Mapping[str, tuple[str, int]],
        between: Mapping[str, str],
        built: Callable[[Mapping[str, int]], nn.Module],
    ) -> None:
        self._sizes, self._products, self._follows, self._between = LayerSizes(graph), graph.products, follows, between
        self._terms: list[_Term] = []
        for name, parameter in model.named_parameters():
            grows = tuple((dim, length) for dim, length in enumerate(parameter.shape) if (name, dim) in graph.owners)
            factor = parameter.numel() // math.prod(length for _, length in grows)
            self._terms.append((name, factor, grows, graph.uses.get(name, 0)))
        grouped = {f"{name}.weight" for name, module in model.named_modules() if getattr(module, "groups", 1) != 1}
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._kinds = {name: _kind(shape, name in grouped) for name, shape in self._shapes.items()}
        self._taps = {name: math.prod(parameter.shape[2:]) for name, parameter in model.named_parameters()}
        halves = {name: max(1, group.slices // 2) * group.step for name, group in graph.groups.items()}
        halves |= {name: factor * halves[source] for name, (source, factor) in follows.items()}
        checked = [graph.widths, halves]
        if between:  # layers come and go: among unlike widths too
            draw = random.Random(0)
            for _ in range(3):
                mixed = {name: max(1, draw.randint(1, 3)) * group.step for name, group in graph.groups.items()}
                checked.append(mixed | {name: factor * mixed[source] for name, (source, factor) in follows.items()})
        self.exact = set(COSTS)
        for widths in checked:
            network = built(widths)
            counted = {"params": self.params(widths), "macs": self.macs(widths)}
            measured = {"params": count_params(network), "macs": count_macs(network, example)}
            self.exact &= {name for name, value in counted.items() if value == measured[name]}

    def params(self, widths: Mapping[str, int], stacks: Mapping[str, Stack] = _NONE) -> int:
        return sum(size for size, _ in self._counted(widths, stacks))

    def macs(self, widths: Mapping[str, int], stacks: Mapping[str, Stack] = _NONE) -> int:
        return self._products + sum(size * used for size, used in self._counted(widths, stacks))

    def loads(self, widths: Mapping[str, int], stacks: Mapping[str, Stack], block: int) -> list[Load]:
        length = self._sizes.at({name: -(-width // block) * block for name, width in self._all(widths).items()})
        terms = [term for term in self._terms if term[-1]]  # layers, and no norms
        return [
            Load(name, self._kinds[name], size * used, length(name, 0, shape[0]) * used, size)
            for (name, *_), (size, used) in zip(terms, self._sized(length, stacks, terms, block), strict=True)
            if size and (shape := self._shapes[name])
        ]

    def _lengths(self, widths: Mapping[str, int]) -> Callable[[str, int, int], int]:
        return self._sizes.at(self._all(widths))

    def _all(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Widths of all groups, those that follow others included."""
        following = {name: factor * widths[source] for name, (source, factor) in self._follows.items()}
        return {**following, **widths}

    def _counted(self, widths: Mapping[str, int], stacks: Mapping[str, Stack]) -> Iterator[tuple[int, int]]:
        return ((size, used) for size, used in self._sized(self._lengths(widths), stacks, self._terms) if size)

    def _sized(
        self,
        length: Callable[[str, int, int], int],
        stacks: Mapping[str, Stack],
        terms: Sequence[_Term],
        block: int = 1,
    ) -> Iterator[tuple[int, int]]:
        """Of these parameters the values, 0 where the network lacks one, and the positions that it is applied at."""
        pairs = {}
        for first, stack in stacks.items():
            pairs[f"{first}.weight"], pairs[f"{stack.second}.weight"] = stack.products_in(block)
        for name, factor, grows, used in terms:
            if (weight := self._between.get(name)) and length(weight, 0, 0) == length(weight, 1, 0):
                yield 0, used
            elif name in pairs:
                yield self._taps[name] * pairs[name], used
            else:
                yield factor * math.prod(length(name, dim, present) for dim, present in grows), used


def _kind(shape: tuple[int, ...], grouped: bool) -> str:
    """Of the layer that has a weight of this shape, a grouped convolution or not."""
    if len(shape) < 3:
        return "linear"
    if grouped and shape[1] == 1:
        return "depthwise"
    return "pointwise" if math.prod(shape[2:]) == 1 else "convolution"


@lru_cache(maxsize=8)
def _layer_costs_of(
    model: str, options: str, classes: int, input_shape: tuple[int, ...], names: tuple[str, ...], version: str
) -> _LayerCosts | None:
    chosen: dict[str, Any] = json.loads(options)
    own = reference_architecture(model, chosen, classes, input_shape)
    following = follows(own)
    whole = prunable(own)
    if set(own.widths) != set(names) - set(following) or set(whole.widths) != set(own.widths) or units(own):
        return None  # its layers are not the same at all widths; or there are too many such networks to trace each
    network, graph = build_meta(whole), graph_of(whole)

    def at(architecture: Architecture, widths: Mapping[str, int]) -> nn.Module:
        return build_meta(architecture.with_widths({name: widths[name] for name in architecture.widths}))

    alike = dict.fromkeys(own.widths, math.lcm(*(group.step for group in graph.groups.values())))
    between = _left_out(at(whole, alike), at(own, alike)) if whole != own else {}
    if between is None:
        return None
    return _LayerCosts(
        network,
        graph,
        example=example_input(own, 1).to("meta"),
        follows=following,
        between=between,
        built=partial(at, own),
    )


def _left_out(whole: nn.Module, own: nn.Module) -> dict[str, str] | None:
    """Of layers that `own` has not: {parameter: the weight of its layers}; None if they have several, or none."""
    present = dict(own.named_parameters())
    missing = {name: parameter for name, parameter in whole.named_parameters() if name not in present}
    parts: dict[str, list[str]] = {}
    for name, parameter in missing.items():
        weights = parts.setdefault(_path(name), [])
        if parameter.dim() > 1:
            weights.append(name)
    if any(len(weights) != 1 for weights in parts.values()):
        return None
    return {name: parts[_path(name)][0] for name in missing}


def _path(parameter: str) -> str:
    """Module path of the layers that a parameter belongs to, such as a convolution and its norm."""
    return ".".join(parameter.split(".")[:-2])


def _layer_costs(architecture: Architecture) -> _LayerCosts | None:
    """Counts of the networks that differ from an architecture in their widths only, if these have the same layers."""
    options = json.dumps(dict(architecture.options), sort_keys=True)
    names = tuple(sorted(architecture.widths))
    version = version_of(architecture.model)
    return _layer_costs_of(architecture.model, options, architecture.classes, architecture.input_shape, names, version)


COSTS: Mapping[str, Callable[[Architecture], int]] = {"params": params, "macs": macs}
