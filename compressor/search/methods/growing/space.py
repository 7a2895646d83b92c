"""What may grow: the channels of every width group, and the units of networks that can do without some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from compressor.costs.solver import Bounds
from compressor.dependency import DependencyGraph
from compressor.models import follows, graph_of, units, with_units
from compressor.models.architecture import Architecture
from compressor.models.zoo import Unit
from compressor.search.problem import Problem
from compressor.search.streams import Streams

Drawn = NDArray[np.bool_]
_MIX = "mix"  # the option with which plain units can be partly there


@dataclass(frozen=True, eq=False)
class Space:
    """Everything that an indicator decides on, as one vector: the slices of every free group, then the layers.

    Attributes:
        reference: the unscaled network
        graph: its dependency graph
        streams: which of its widths go together
        bounds: of the groups (G,), in the order of `streams.names`
        layers: {path: layer} of those that can be detached
    """

    reference: Architecture
    graph: DependencyGraph
    streams: Streams
    bounds: Bounds
    layers: Mapping[str, Unit]

    @classmethod
    def of(cls, problem: Problem) -> Space:
        """The space of a problem.

        Raises:
            ModelError: a width of the network is not that of a group that can be resized
        """
        reference = problem.reference
        graph = graph_of(trained_form(reference))
        streams = Streams.of(reference, graph)
        present = np.array([graph.groups[name].channels for name in streams.names])
        layers = {path: unit for path, unit in units(reference).items() if unit.detachable}
        return cls(reference, graph, streams, streams.bounds(problem.bounds, present), layers)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The groups whose channels have indicators: all but the frozen ones."""
        frozen = self.bounds.frozen
        return tuple(name for name, keep in zip(self.streams.names, frozen, strict=True) if not keep)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Slices of every group in `groups`."""
        return tuple(self.graph.groups[name].slices for name in self.groups)

    @cached_property
    def starts(self) -> dict[str, int]:
        """{group or layer: its first entry}."""
        ends = np.cumsum([*self.sizes, *(1 for _ in self.layers)]).tolist()
        return dict(zip([*self.groups, *self.layers], [0, *ends], strict=False))

    @property
    def channels(self) -> int:
        """Entries that are slices of groups; those behind them are layers."""
        return sum(self.sizes)

    @property
    def length(self) -> int:
        """Entries of the vector."""
        return self.channels + len(self.layers)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """{group: its entries}."""
        return {
            name: slice(self.starts[name], self.starts[name] + n)
            for name, n in zip(self.groups, self.sizes, strict=True)
        }

    def holder(self, group: str) -> str | None:
        """The layer that a group goes with, if it can be detached."""
        return next((path for path in self.layers if group.startswith(f"{path}.")), None)

    @cached_property
    def held(self) -> dict[str, tuple[str, ...]]:
        """{layer: groups that go with it}."""
        return {path: tuple(g for g in self.groups if self.holder(g) == path) for path in self.layers}

    def present(self, drawn: Drawn) -> list[str]:
        """The layers that a draw (length,) leaves in the network."""
        return [path for path in self.layers if drawn[self.starts[path]]]

    def there(self, drawn: Drawn) -> list[str]:
        """The groups that a draw leaves in the network: those of an absent layer are detached with it."""
        absent = {group for path in self.layers if not drawn[self.starts[path]] for group in self.held[path]}
        return [name for name in self.groups if name not in absent]

    @cached_property
    def follows(self) -> dict[str, tuple[str, int]]:
        """Groups that are a multiple of another one, see `compressor.models.follows`."""
        return follows(self.reference)

    def effective(self, drawn: Drawn) -> Drawn:
        """A draw without the channels of the layers that it leaves out."""
        there, found = set(self.there(drawn)), drawn.copy()
        for name, own in self.slices.items():
            found[own] &= name in there
        return found

    def masks(self, drawn: Drawn) -> dict[str, Drawn]:
        """{group of the graph: which of its slices (S,) a draw has}; frozen groups have all."""
        there, found = set(self.there(drawn)), dict[str, Drawn]()
        for name, group in self.graph.groups.items():
            if name in self.slices:
                own = drawn[self.slices[name]]
                found[name] = own if name in there else np.zeros_like(own)
            else:
                found[name] = np.ones(group.slices, dtype=bool)
        for name, (source, factor) in self.follows.items():
            if name in found and source in found:
                found[name] = np.repeat(found[source], factor)
        return found

    def architecture(self, drawn: Drawn) -> Architecture:
        """The network of a draw."""
        masks, steps = self.masks(drawn), self.graph.steps
        counts = self.streams.expand([int(masks[name].sum()) * steps[name] for name in self.streams.names])
        kept = self.of_layers(drawn)
        return kept.with_widths({name: counts[name] for name in kept.widths})

    def of_layers(self, drawn: Drawn) -> Architecture:
        """The unscaled network with the layers of a draw."""
        if not self.layers:
            return self.reference
        fixed = [path for path in units(self.reference) if path not in self.layers]
        return with_units(self.reference, [*fixed, *self.present(drawn)])


def trained_form(architecture: Architecture) -> Architecture:
    """The network as it trains while layers come and go: plain ones are mixed with what they are given."""
    if _MIX not in architecture.options or not units(architecture):
        return architecture
    return replace(architecture, options={**architecture.options, _MIX: True})
