"""Which engine removes the channels of which group: torch-pruning where its graph agrees with the dependency graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from compressor.dependency.graph import DependencyGraph, Indices, Owners
from compressor.dependency.inputs import AnyInputs
from compressor.dependency.surgery import kept_slices, remove_channels_
from compressor.dependency.trace import Axis
from compressor.errors import ModelError

if TYPE_CHECKING:
    from compressor.dependency.torch_pruning_engine import Cuts, TorchPruningGraph

Engine = Literal["auto", "torch_pruning", "tracer"]
Changes = Mapping[Axis, tuple[Indices, Owners]]


class Remove(Protocol):
    """What removes channels from a network: `remove_channels_`, or a `ChannelRemover`."""

    def __call__(
        self,
        model: nn.Module,
        graph: DependencyGraph,
        removed: Mapping[str, Iterable[int]],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> DependencyGraph:
        """Remove slices, {group: slices}; the graph of the smaller network."""


class ChannelRemover:
    """Removes channels of one network, through torch-pruning where that cuts what the dependency graph says.

    At first the first, the middle and the last slice of every group are asked for; a group of which torch-pruning would
    cut something else goes to our own removal, `remove_channels_`. In every event what torch-pruning would cut is
    compared once more, as a whole, before it touches anything; should it fail all the same, the network is put back.

    Args:
        model: the network
        graph: of it as it is now
        example: one batch of inputs (N, …)
        groups: the groups that may lose channels
        engine: `torch_pruning`: where it cannot remove a group's channels, that is an error; `tracer`: it is not used

    Raises:
        ModelError: engine is torch_pruning, and it cannot remove the channels of a group
    """

    def __init__(
        self,
        model: nn.Module,
        graph: DependencyGraph,
        example: AnyInputs,
        groups: Sequence[str],
        engine: Engine = "auto",
    ) -> None:
        self.example, self.engine, self.groups = example, engine, list(groups)
        self.events = {"torch_pruning": 0, "tracer": 0}
        self.refused: dict[str, str] = {}
        self._pruner: TorchPruningGraph | None = None
        if engine == "tracer":
            self.refused = dict.fromkeys(self.groups, "the recipe asks for it (widths.engine)")
        else:
            self._choose(model, graph)

    def _choose(self, model: nn.Module, graph: DependencyGraph) -> None:
        try:
            pruner = self._pruner_of(model)
        except Exception as error:  # torch-pruning does not say what it raises
            self.refused = dict.fromkeys(self.groups, f"torch-pruning cannot trace the network: {_line(error)}")
        else:
            for name in self.groups:
                slices = graph.groups[name].slices
                for slice_ in sorted({0, slices // 2, slices - 1}) if slices > 1 else ():
                    if (reason := _difference(pruner, graph, {name: [slice_]})) is not None:
                        self.refused[name] = reason
                        break
        if self.refused and self.engine == "torch_pruning":
            name, reason = next(iter(self.refused.items()))
            raise ModelError(f"widths.engine: torch_pruning cannot remove the channels of {name}: {reason}")

    def _pruner_of(self, model: nn.Module) -> TorchPruningGraph:
        from compressor.dependency.torch_pruning_engine import TorchPruningGraph  # takes seconds

        return TorchPruningGraph(model, self.example)

    def __call__(
        self,
        model: nn.Module,
        graph: DependencyGraph,
        removed: Mapping[str, Iterable[int]],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> DependencyGraph:
        """Remove slices, {group: slices}, as `remove_channels_` does.

        Raises:
            ModelError: an unknown group, a group that would lose its last channel, or the engine cannot do it
        """
        wanted = {name: sorted(slices) for name, slices in removed.items()}
        kept_slices(graph, wanted)
        by_graph = {name: slices for name, slices in wanted.items() if slices and name not in self.refused}
        by_tracer = {name: slices for name, slices in wanted.items() if slices and name not in by_graph}
        if by_tracer:
            graph = self._by_tracer(model, graph, by_tracer, optimizer)
        if by_graph:
            graph = self._by_graph(model, graph, by_graph, optimizer)
        return graph

    def _by_tracer(
        self,
        model: nn.Module,
        graph: DependencyGraph,
        removed: Mapping[str, Sequence[int]],
        optimizer: torch.optim.Optimizer | None,
    ) -> DependencyGraph:
        self._pruner = None  # it does not see what happens here
        self.events["tracer"] += 1
        return remove_channels_(model, graph, removed, optimizer)

    def _by_graph(
        self,
        model: nn.Module,
        graph: DependencyGraph,
        removed: Mapping[str, Sequence[int]],
        optimizer: torch.optim.Optimizer | None,
    ) -> DependencyGraph:
        select = kept_slices(graph, removed)
        changes = graph.changes(select)
        reason: str | None = None
        for pruner in (
            self._pruner,
            None,
        ):  # its notes of concatenations may have drifted: then a new one
            if pruner is not None and pruner.model is not model:
                continue
            try:
                self._pruner = pruner = pruner or self._pruner_of(model)
                group = pruner.query(graph, removed)
                if (reason := _unequal(pruner.cuts(group), changes, graph)) is None:
                    pruner.remove(group, optimizer, {axis: len(index) for axis, (index, _) in changes.items()})
                    self.events["torch_pruning"] += 1
                    return graph.after(select, changes)
            except Exception as error:  # torch-pruning does not say what it raises; nothing has changed
                reason = _line(error)
        if self.engine == "torch_pruning":
            raise ModelError(f"widths.engine: torch_pruning cannot remove channels of {min(removed)}: {reason}")
        return self._by_tracer(model, graph, removed, optimizer)

    def record(self) -> dict[str, Any]:
        """Which engine removes which groups, as JSON values."""
        return {
            "engine": self.engine,
            "version": version("torch-pruning"),
            "groups": len(self.groups),
            "torch_pruning": [name for name in self.groups if name not in self.refused],
            "tracer": dict(self.refused),
            "events": dict(self.events),
        }


def _difference(pruner: TorchPruningGraph, graph: DependencyGraph, removed: Mapping[str, Sequence[int]]) -> str | None:
    """How what torch-pruning would cut differs from the graph, or None if it does not."""
    try:
        return _unequal(pruner.cuts(pruner.query(graph, removed)), graph.changes(kept_slices(graph, removed)), graph)
    except Exception as error:  # torch-pruning does not say what it raises
        return _line(error)


def _unequal(cuts: Cuts, changes: Changes, graph: DependencyGraph) -> str | None:
    expected = {}
    for axis, (kept, _) in changes.items():
        removed = np.setdiff1d(np.arange(len(graph.owners[axis].group)), kept)
        if len(removed):
            expected[axis] = removed
    for (tensor, dim), removed in expected.items():
        if (tensor, dim) not in cuts:
            return f"torch-pruning would leave dimension {dim} of {tensor} as it is"
        if not np.array_equal(cuts[tensor, dim], removed):
            return f"torch-pruning would cut other channels of {tensor}, dimension {dim}"
    if more := sorted(set(cuts) - set(expected)):
        return f"torch-pruning would cut dimension {more[0][1]} of {more[0][0]}, too"
    return None


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    text = (str(error).strip().splitlines() or ["without a message"])[0]
    return text if type(error) is LookupError else f"{type(error).__name__}: {text}"
