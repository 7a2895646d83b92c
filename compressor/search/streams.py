"""Which widths of an architecture go together in its network, and whether that still is the one that was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compressor.costs.solver import Bounds, Cost
from compressor.dependency import DependencyGraph
from compressor.errors import ModelError
from compressor.models import build_meta, follows
from compressor.models.architecture import Architecture


@dataclass(frozen=True)
class Streams:
    """Which widths of an architecture a trained network ties together.

    With `shortcut: conv` and equal widths the shortcuts of the reference are identities, so the widths of a residual
    stream, which the architecture names one by one, lose the same channels.

    Attributes:
        names: (G,) groups of the network's graph
        members: (L,) index of its group for every width of the architecture
        reference: (L,) names of those widths
    """

    names: tuple[str, ...]
    members: tuple[int, ...]
    reference: tuple[str, ...]

    @classmethod
    def of(cls, architecture: Architecture, graph: DependencyGraph) -> Streams:
        """Find the group of every width.

        Raises:
            ModelError: a width has none
        """
        makers = {f"{name}.weight": name for name in architecture.widths}
        found: dict[str, str] = {}
        for group in graph.groups:
            for made in graph.producers(group):
                if made.tensor in makers:
                    found[makers[made.tensor]] = group
        found |= {name: name for name in architecture.widths if name in graph.groups}
        if missing := set(architecture.widths) - set(found):
            reason = "; ".join(graph.fixed.values()) or "no layer makes it"
            raise ModelError(f"model {architecture.model}: the width of {min(missing)} cannot be pruned: {reason}")
        names = tuple(dict.fromkeys(found[name] for name in architecture.widths))
        return cls(names, tuple(names.index(found[name]) for name in architecture.widths), tuple(architecture.widths))

    def expand(self, widths: Sequence[int]) -> dict[str, int]:
        """Widths of the groups (G,) as {width name: channels}."""
        return {name: int(widths[member]) for name, member in zip(self.reference, self.members, strict=True)}

    def group_widths(self, architecture: Architecture) -> dict[str, int]:
        """{group: channels} of all groups of the network for an architecture, those that follow others included.

        Raises:
            ModelError: widths that the network ties together differ
        """
        found: dict[str, int] = {}
        for name, member in zip(self.reference, self.members, strict=True):
            width = architecture.widths[name]
            if found.setdefault(self.names[member], width) != width:
                raise ModelError(
                    f"model {architecture.model}: the trained network ties {name} to other layers of the same residual "
                    "stream, which this method gives other widths; take model.options.shortcut: identity, or "
                    "search.weights: fresh"
                )
        for name, (source, factor) in follows(architecture).items():
            found[name] = factor * architecture.widths[source]
        return found

    def gather(self, values: Sequence[int]) -> list[list[int]]:
        """Values of the architecture's widths (L,), those of one group together."""
        gathered: list[list[int]] = [[] for _ in self.names]
        for member, value in zip(self.members, values, strict=True):
            gathered[member].append(int(value))
        return gathered

    def cost(self, cost: Cost) -> Cost:
        """A cost of the architecture's widths (L,) as one of the groups' widths (G,)."""
        return lambda widths: cost([widths[member] for member in self.members])

    def bounds(self, given: Bounds, present: NDArray[np.int64]) -> Bounds:
        """Bounds of the architecture's widths as those of the groups (G,), none wider than `present` (G,)."""
        given = given.of(len(self.members))
        multiple = np.array([math.lcm(*values) for values in self.gather(given.multiple.tolist())])
        minimum = np.array([max(values) for values in self.gather(given.minimum.tolist())])
        maximum = np.array([min(values) for values in self.gather(given.maximum.tolist())])
        maximum = np.minimum(maximum, present)
        # A group that is narrower than its least width keeps the width that it has.
        narrow = -(-minimum // multiple) * multiple > maximum
        return Bounds(np.where(narrow, present, minimum), np.where(narrow, present, maximum), multiple)


def check_same_network(architecture: Architecture, model: nn.Module) -> None:
    """Refuse widths at which the network is built otherwise, since two that became equal drop a shortcut's layer."""
    shapes: list[Mapping[str, torch.Size]] = [
        {name: tensor.shape for name, tensor in network.state_dict().items()}
        for network in (build_meta(architecture), model)
    ]
    if shapes[0] != shapes[1]:
        changed = min(name for name in {*shapes[0], *shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
        raise ModelError(
            f"model {architecture.model}: at the widths of this budget it has other layers ({changed}) than the "
            "trained network, whose weights do not fit; take another budget or model.options.shortcut: identity"
        )
