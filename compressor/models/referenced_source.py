"""Networks from outside the zoo: built once at their own widths, planned by following them, resized for others."""

from __future__ import annotations

import copy
import json
import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from compressor.dependency import DependencyGraph, dependency_graph, resize_
from compressor.dependency.constants import Norm, following
from compressor.dependency.inputs import AnyInputs
from compressor.errors import ModelError
from compressor.models.architecture import Architecture
from compressor.models.examples import example_version, given_example
from compressor.models.initialise import fresh_values, reinitialise_
from compressor.models.source import ModelSource, check_names
from compressor.models.tasks import check_logits, check_runs
from compressor.models.unfilled import on_meta
from compressor.models.user_code import contained
from compressor.models.wrappers import unwrapped
from compressor.models.zoo import Shape
from compressor.recipe.model_name import ModelName
from compressor.user_functions import called

_GIVEN: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # what code has made so far; the first is only looked at


class ReferencedSource(ModelSource):
    """A network that someone else's code makes; its children say how."""

    def version(self) -> str:
        """See `ModelSource`: the user may give another example of its inputs."""
        return example_version(self.model)

    def example(self, input_shape: Shape, batch: int) -> AnyInputs:
        """See `ModelSource`."""
        given = given_example(self.model)
        return super().example(input_shape, batch) if given is None else given.of_batch(batch)

    def check_outputs(self, model: nn.Module, classes: int, example: AnyInputs) -> None:
        """Refuse what no task has; anything goes where the user gave the inputs, with training and metric of their own.

        Raises:
            ModelError: it gives something else, or does not run
        """
        if given_example(self.model) is None:
            check_logits(self.model, model, classes, example)
        else:
            check_runs(self.model, model, example)

    def expect(self, input_shape: Shape) -> None:
        """Be told what the network will be used on, before it is made."""

    @abstractmethod
    def made(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """The network as that code gives it.

        Raises:
            ModelError: it is not known, cannot be built, or comes without weights
            UnavailableError: a library is not installed
        """

    def network(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """See `ModelSource`."""
        return self.made_with(classes, options, torch.initial_seed())[0]

    def made_with(
        self, classes: int, options: Mapping[str, Any], seed: int, *, seeds_effective: bool = True
    ) -> tuple[nn.Module, list[str], bool]:
        """The network that the code makes; see `contained` for the arguments.

        Returns:
            the network, the names of the wrappers that it was taken out of, and whether the code seeds torch
        """
        with contained(seed, seeds_effective=seeds_effective) as heard:
            model, wrappers = unwrapped(self.made(classes, options))
        if model in _GIVEN:  # code that keeps what it makes: what we change would be given to us again
            model = copy.deepcopy(model)
        _GIVEN.add(model)
        return model, wrappers, heard.seeded

    def has_weights(self, architecture: Architecture) -> bool:
        """See `ModelSource`."""
        return self._plan(architecture).has_weights

    def drawn(self, architecture: Architecture) -> tuple[str, ...]:
        """See `ModelSource`."""
        return self._plan(architecture).drawn

    def remarks(self, architecture: Architecture) -> list[str]:
        """See `ModelSource`."""
        return list(self._plan(architecture).remarks)

    def unscaled(self, options: Mapping[str, Any], classes: int, input_shape: Shape) -> Architecture:
        """See `ModelSource`; the options are those that were given."""
        self.expect(input_shape)
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
        self.expect(architecture.input_shape)
        options = json.dumps(dict(architecture.options), sort_keys=True)
        return _planned(type(self), self.model, options, architecture.classes, architecture.input_shape, self.version())

    def build(self, architecture: Architecture) -> nn.Module:
        """See `ModelSource`."""
        graph = self.referenced(architecture)[1]
        fresh = self.made_with(architecture.classes, architecture.options, torch.initial_seed())[0]
        if self._plan(architecture).has_weights:  # they are not asked for here
            _redraw_(fresh)
        if graph.widths == dict(architecture.widths):
            return fresh
        resized = copy.deepcopy(fresh)
        resize_(resized, graph, architecture.widths)
        self.check_outputs(resized, architecture.classes, self.example(architecture.input_shape, 2))
        reinitialise_(resized, fresh)
        return resized

    def build_meta(self, architecture: Architecture, seed: int | None = None) -> nn.Module:
        """See `ModelSource`."""
        model, graph = self.referenced(architecture)  # to be watched as it runs, it needs weights
        if seed is not None:
            options = json.dumps(dict(architecture.options), sort_keys=True)
            model = _without_values(type(self), self.model, options, architecture.classes, self.version(), seed)
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
        drawn: module paths of its layers whose weights a seed changes all the same
        remarks: see `ModelSource.remarks`
    """

    model: nn.Module
    graph: DependencyGraph
    has_weights: bool
    drawn: tuple[str, ...]
    remarks: tuple[str, ...]


@lru_cache(maxsize=16)
def _planned(
    kind: type[ReferencedSource], model: str, options: str, classes: int, input_shape: Shape, version: str
) -> _Planned:
    """What is known of a network at its own widths."""
    source = kind(model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        built, taken_off, seeded = source.made_with(classes, json.loads(options), 0)
        torch.default_generator.manual_seed(1)
        kept, drawn = [""], list[str]()  # of a file, or an object that this process holds, all is kept
        if not ModelName.of(model).carries_weights:
            kept, drawn = _kept_and_drawn(source, built, classes, options)
        has_weights = bool(kept) and len(kept) >= len(drawn)  # a trained backbone may have a head that is new
    remarks = [f"{model} is taken out of {wrapper}" for wrapper in taken_off]
    if seeded and not has_weights:
        remarks.append(f"the code of {model} seeds torch, so every seed of the recipe begins with the same weights")
    example = source.example(input_shape, 2)
    graph = dependency_graph(built, example)
    if not graph.groups:
        reasons = "; ".join(graph.fixed.values()) or "it has no layers with a width"
        raise ModelError(f"model.name: {model} cannot be resized: {reasons}")
    source.check_outputs(built, classes, example)
    return _Planned(copy.deepcopy(built).to("meta"), graph, has_weights, tuple(drawn), tuple(remarks))


@lru_cache(maxsize=2)
def _without_values(
    kind: type[ReferencedSource], model: str, options: str, classes: int, version: str, seed: int
) -> nn.Module:
    """The network that code makes at a seed, on the meta device: with what it has drawn beside its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return kind(model).made_with(classes, json.loads(options), seed)[0].to("meta")


def _kept_and_drawn(
    source: ReferencedSource, built: nn.Module, classes: int, options: str
) -> tuple[list[str], list[str]]:
    """Layers with the same weights in a second build at other seeds, and those with other ones; only what torch draws.

    A fresh network may have a table of positions that is computed, which counts for neither.
    """
    kept: list[str] = []
    drawn: list[str] = []
    try:
        other = source.made_with(classes, json.loads(options), 1, seeds_effective=False)[0]
    except ModelError:  # code that works only once
        return kept, drawn
    for (path, one), two in zip(built.named_modules(), other.modules(), strict=False):
        pairs = list(zip(one.parameters(False), two.parameters(False), strict=False))
        pairs = [(a, b) for a, b in pairs if not (is_lazy(a) or is_lazy(b)) and a.requires_grad and a.dim() > 1]
        pairs = [(a, b) for a, b in pairs if a.numel() and not bool((a == a.flatten()[0]).all())]
        if pairs and hasattr(one, "reset_parameters"):
            (kept if all(torch.equal(a, b) for a, b in pairs) else drawn).append(path)
    return kept, drawn


def _try_(module: nn.Module, reset: Callable[[], object]) -> None:
    """Let a layer's own code draw its weights; if that fails, as where it needs arguments, they stay as they are."""
    before = [parameter.detach().clone() for parameter in module.parameters()]
    try:
        called("reset_parameters", reset, ModelError)
    except ModelError:
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), before, strict=False):
                parameter.copy_(value)


def _redraw_(model: nn.Module) -> None:
    """Give layers fresh weights in torch's own manner; what does not train keeps its values."""
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    follow = set(following(model))
    for module in model.modules():
        if isinstance(module, Norm) and module not in follow:
            continue
        for name in ("reset_parameters", "_reset_parameters"):  # the latter is nn.MultiheadAttention's
            if callable(reset := getattr(module, name, None)):
                _try_(module, reset)
                break
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])
            elif torch.equal(parameter, before[name]):  # nothing has drawn it: as others are, from its own values
                parameter.copy_(fresh_values(before[name], parameter))
