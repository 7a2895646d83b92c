"""Networks from outside the zoo: built once at their own widths, planned by following them, resized for others."""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from compressor.dependency import DependencyGraph, dependency_graph, resize_
from compressor.dependency.constants import STATISTICAL, following
from compressor.errors import ModelError
from compressor.models.architecture import Architecture
from compressor.models.initialise import fresh_values, reinitialise_
from compressor.models.source import ModelSource, check_names
from compressor.models.tasks import check_logits
from compressor.models.unfilled import on_meta
from compressor.models.user_code import constant_tensors, contained, copied, take_constants_
from compressor.models.wrappers import unwrapped
from compressor.models.zoo import Shape
from compressor.recipe.model_name import ModelName

_MOSTLY = 0.5  # of the weights: a trained backbone has a head that is drawn anew, a fresh network a table of positions


class ReferencedSource(ModelSource):
    """A network that someone else's code makes; its children say how."""

    @abstractmethod
    def made(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """The network as that code gives it.

        Raises:
            ModelError: it is not known, cannot be built, or comes without weights
            UnavailableError: a library is not installed
        """

    def network(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """See `ModelSource`."""
        with contained():
            return self._made(classes, options)[0]

    def drawn(self, classes: int, options: Mapping[str, Any], seed: int = 0) -> nn.Module:
        """The network of which torch's generator draws the weights, whatever seed the code sets; see `contained`."""
        with contained(seed, seeds_heard=False):
            return self._made(classes, options)[0]

    def network_and_wrappers(self, classes: int, options: Mapping[str, Any]) -> tuple[nn.Module, list[str]]:
        """The network, and the names of the wrappers that it was taken out of."""
        with contained():
            return self._made(classes, options)

    def _made(self, classes: int, options: Mapping[str, Any]) -> tuple[nn.Module, list[str]]:
        model, wrappers = unwrapped(self.made(classes, options))
        # A copy: code that keeps what it makes would give what we have changed when it is called again.
        return copied(self.model, model), wrappers

    def has_weights(self, architecture: Architecture) -> bool:
        """See `ModelSource`."""
        return self._plan(architecture).has_weights

    def remarks(self, architecture: Architecture) -> list[str]:
        """See `ModelSource`."""
        return list(self._plan(architecture).remarks)

    def unscaled(self, options: Mapping[str, Any], classes: int, input_shape: Shape) -> Architecture:
        """See `ModelSource`; the options are those that were given."""
        text = json.dumps(dict(options), sort_keys=True)
        widths = _planned(type(self), self.model, text, classes, input_shape, self.version()).graph.widths
        return Architecture(self.model, classes, input_shape, widths, dict(options))

    def referenced(self, architecture: Architecture) -> tuple[nn.Module, DependencyGraph]:
        """The network at its own widths on the meta device, and its graph; not to be changed.

        Raises:
            ModelError: a width name of the architecture is unknown or missing
        """
        plan = self._plan(architecture)
        check_names(architecture, plan.graph.widths)
        return plan.model, plan.graph

    def _plan(self, architecture: Architecture) -> _Planned:
        options = json.dumps(dict(architecture.options), sort_keys=True)
        return _planned(type(self), self.model, options, architecture.classes, architecture.input_shape, self.version())

    def build(self, architecture: Architecture) -> nn.Module:
        """See `ModelSource`."""
        graph = self.referenced(architecture)[1]
        fresh = self.drawn(architecture.classes, architecture.options)
        take_constants_(fresh, self._plan(architecture).constants)  # whatever draws them: the same for every seed
        if self._plan(architecture).has_weights:  # they are not asked for here
            _redraw_(fresh)
        if graph.widths == dict(architecture.widths):
            return fresh
        resized = copy.deepcopy(fresh)
        resize_(resized, graph, architecture.widths)
        check_logits(self.model, resized, architecture.classes, self.example(architecture.input_shape, 2))
        reinitialise_(resized, fresh)
        return resized

    def build_meta(self, architecture: Architecture) -> nn.Module:
        """See `ModelSource`."""
        model, graph = self.referenced(architecture)  # to be watched as it runs, it needs weights
        with on_meta():
            built = copy.deepcopy(model)
            resize_(built, graph, architecture.widths)
            return built

    def graph(self, architecture: Architecture) -> DependencyGraph:
        """See `ModelSource`; planned at its own widths, since narrower ones may hide what goes together."""
        return self.referenced(architecture)[1].at(architecture.widths)

    def steps(self, architecture: Architecture) -> dict[str, int]:
        """See `ModelSource`."""
        return self.referenced(architecture)[1].steps


@dataclass(frozen=True)
class _Planned:
    """What is known of a network at its own widths.

    Attributes:
        model: on the meta device
        graph: of the model
        has_weights: whether it comes with weights, which no seed changes
        remarks: see `ModelSource.remarks`
        constants: tensors that do not train, see `constant_tensors`; the same in every network that is built
    """

    model: nn.Module
    graph: DependencyGraph
    has_weights: bool
    remarks: tuple[str, ...]
    constants: dict[str, torch.Tensor]


@lru_cache(maxsize=16)
def _planned(
    kind: type[ReferencedSource], model: str, options: str, classes: int, input_shape: Shape, version: str
) -> _Planned:
    """What is known of a network at its own widths."""
    source = kind(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        built, taken_off = source.network_and_wrappers(classes, json.loads(options))
        torch.default_generator.manual_seed(1)
        has_weights = ModelName.of(model).carries_weights or _comes_with_weights(source, built, classes, options)
    remarks = [f"{model} is taken out of {wrapper}" for wrapper in taken_off]
    constants, example = constant_tensors(built), source.example(input_shape, 2)
    graph = dependency_graph(built, example)
    if not graph.groups:
        reasons = "; ".join(graph.fixed.values()) or "it has no layers with a width"
        raise ModelError(f"model.name: {model} cannot be resized: {reasons}")
    check_logits(model, built, classes, example)
    return _Planned(built.to("meta"), graph, has_weights, tuple(remarks), constants)


def _comes_with_weights(source: ReferencedSource, built: nn.Module, classes: int, options: str) -> bool:
    """Whether a second build, at another seed, has the same weights, which therefore come from elsewhere."""
    try:
        other = source.drawn(classes, json.loads(options), seed=1)
    except ModelError:  # code that works only once
        return False
    pairs = [
        (a, b)
        for a, b in zip(built.parameters(), other.parameters(), strict=False)
        if not (is_lazy(a) or is_lazy(b)) and a.requires_grad and a.numel() > 1
    ]
    drawn = [(a, b) for a, b in pairs if not bool((a == a.flatten()[0]).all())]
    same = sum(a.numel() for a, b in drawn if torch.equal(a, b))
    return same > _MOSTLY * sum(a.numel() for a, _ in drawn)


def _redraw_(model: nn.Module) -> None:
    """Give layers fresh weights in torch's own manner; what does not train keeps its values."""
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    follow = set(following(model))
    for module in model.modules():
        if isinstance(module, STATISTICAL) and module not in follow:
            continue
        for name in ("reset_parameters", "_reset_parameters"):  # the latter is nn.MultiheadAttention's
            if callable(reset := getattr(module, name, None)):
                reset()
                break
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])
            elif torch.equal(parameter, before[name]):  # nothing has drawn it: as others are, from its own values
                parameter.copy_(fresh_values(before[name], parameter))
