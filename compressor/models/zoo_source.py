"""The zoo: families of width-configurable networks, our own and those of plug-ins (`compressor.models.zoo`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from torch import nn

from compressor.dependency import DependencyGraph, dependency_graph
from compressor.errors import ModelError, not_one_of
from compressor.models.architecture import Architecture
from compressor.models.source import ModelSource, check_names, long_enough
from compressor.models.unfilled import on_meta
from compressor.models.zoo import Family, Option, Shape, Unit
from compressor.plugins import built_in, with_plugins

ZOO: dict[str, Family] = dict(
    sorted(item for found in built_in("compressor.models.zoo", "FAMILIES") for item in found.items())
)


def families() -> dict[str, Family]:
    """All families by name, those of installed plug-ins included.

    Raises:
        ModelError: an entry point is no family
        CompressorError: an entry point cannot be imported, or its name is taken
    """
    found = with_plugins("compressor.models", ZOO)
    for name, family in found.items():
        if not isinstance(family, Family):
            raise ModelError(
                f"entry point compressor.models: {name!r} must be a compressor.models.Family, not a "
                f"{type(family).__name__}"
            )
    return found


class ZooSource(ModelSource):
    """A family of the zoo."""

    @property
    def family(self) -> Family:
        """What the zoo knows of it.

        Raises:
            ModelError: there is no such family
        """
        known = families()
        if self.model not in known:
            raise ModelError(
                f"model.name: {not_one_of(self.model, known)}, and no reference such as torchvision:NAME, timm:NAME or "
                "package.module:factory"
            )
        return known[self.model]

    def check(self, options: Mapping[str, Any]) -> None:
        """See `ModelSource`."""
        self._complete(options)

    def unscaled(self, options: Mapping[str, Any], classes: int, input_shape: Shape) -> Architecture:
        """See `ModelSource`; defaults of options are filled in."""
        complete = self._complete(options)
        self._check_inputs(input_shape)
        return Architecture(self.model, classes, input_shape, self.family.widths(complete), complete)

    def network(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """See `ModelSource`: there is none."""
        raise ModelError(f"model.weights: given: {self.model} is a network of the zoo and comes without weights")

    def build(self, architecture: Architecture) -> nn.Module:
        """See `ModelSource`."""
        family, options = self.family, self._complete(architecture.options)
        check_names(architecture, family.widths(options), family.follows(options))
        return family.build(architecture.widths, options, architecture.classes, architecture.input_shape)

    def build_meta(self, architecture: Architecture, seed: int | None = None) -> nn.Module:
        """See `ModelSource`."""
        with on_meta():
            return self.build(architecture)

    def graph(self, architecture: Architecture) -> DependencyGraph:
        """See `ModelSource`."""
        return _planned(architecture.to_json(), _Same(self.family))

    def takes_tokens(self, input_shape: Shape) -> bool:
        """See `ModelSource`."""
        return self.family.inputs == "tokens"

    def follows(self, architecture: Architecture) -> dict[str, tuple[str, int]]:
        """See `ModelSource`."""
        return self.family.follows(self._complete(architecture.options))

    def prunable(self, architecture: Architecture) -> Architecture:
        """See `ModelSource`."""
        return replace(architecture, options=self.family.prunable(self._complete(architecture.options)))

    def units(self, architecture: Architecture) -> dict[str, Unit]:
        """See `ModelSource`."""
        return self.family.units(self._complete(architecture.options))

    def stackable(
        self, architecture: Architecture, strategy: str
    ) -> tuple[dict[str, Any], dict[str, int], tuple[str, ...]] | None:
        """See `ModelSource`."""
        forms = self.family.stackable(self._complete(architecture.options), architecture.input_shape)
        return forms.get(strategy)

    def _complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options, defaults filled in."""
        family = self.family
        if unknown := set(options) - set(family.options):
            names = list(family.options) or ["(none)"]
            raise ModelError(f"model.options of {self.model}: {not_one_of(min(unknown), names)}")
        complete = {}
        for option, known in family.options.items():
            if isinstance(known, Option):
                complete[option] = known.complete(options.get(option, known.default))
                continue
            default, *valid = known
            complete[option] = options.get(option, default)
            if complete[option] not in valid:
                raise ModelError(f"model.options.{option}: {not_one_of(complete[option], valid)}")
        return complete

    def _check_inputs(self, input_shape: Shape) -> None:
        model, family, shown, sides = self.model, self.family, "×".join(map(str, input_shape)), input_shape[1:]
        if family.inputs == "tokens":
            if len(input_shape) != 1:
                raise ModelError(f"model.name: {model} needs sequences of tokens, these inputs are {shown} (see data)")
        elif len(input_shape) != 3:
            raise ModelError(
                f"model.name: {model} needs images, these inputs are sequences of {shown} tokens (see data)"
            )
        elif min(sides) < family.min_side:
            raise ModelError(
                f"model.name: {model} needs images of at least {family.min_side}×{family.min_side} pixels, "
                f"these have {sides[0]}×{sides[1]} (see data.image_size)"
            )


@dataclass(frozen=True, eq=False)
class _Same:
    """A family as a key: equal to itself only."""

    family: Family

    def __hash__(self) -> int:
        return id(self.family)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.family is self.family


@lru_cache(maxsize=32)
def _planned(text: str, same: _Same) -> DependencyGraph:
    """The graph of a network: tracing takes a second, and a run asks for the same graph several times."""
    architecture = Architecture.from_json(text)
    source = ZooSource(architecture.model)
    # One channel more everywhere keeps equal widths equal, and a single channel differs from none.
    wider = replace(
        architecture,
        widths={name: width + 1 for name, width in architecture.widths.items()},
        options=same.family.traced(source._complete(architecture.options)),
    )
    graph = dependency_graph(source.build_meta(wider), long_enough(source.example(architecture.input_shape, 2)))
    searched = {*architecture.widths, *source.follows(architecture)}
    others = [name for name in graph.groups if name not in searched]
    graph = graph.fixing({name: f"{name}: its width is part of {architecture.model}" for name in others})
    built = {name: parameter.shape for name, parameter in source.build_meta(architecture).named_parameters()}
    widths = {}
    for name, group in graph.groups.items():
        made = graph.producers(name)[0]
        widths[name] = built[made.tensor][made.dim] * group.channels // len(made.index)
    return graph.at(widths)
