"""Global first-order Taylor pruning with physical removal (NeuralScale Algorithm 1; Molchanov et al. 2019).

The importance of a channel is (∂L/∂z)² of a scale z = 1 (`compressor.search.channel_scale`), summed over the
mini-batches since the last event. No scale is computed with: where it scales a batch-norm, ∂L/∂z = γ·∂L/∂γ + β·∂L/∂β,
and where it scales the weights w that read a channel, Σ w·∂L/∂w over those.

A slice of several channels (the groups of a grouped convolution keep equal sizes) has one scale for all of them. Slices
of a group that no removal fits exactly (channel shuffles) are taken out by zeroing what makes them and what normalises
them, as the paper's authors do with all channels; the network keeps its size there.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from compressor.costs.params_macs import params_at
from compressor.dependency import ChannelRemover, DependencyGraph, Remove, remove_channels_
from compressor.search.channel_scale import ChannelScales, made_at
from compressor.search.prices import Prices
from compressor.training.checkpoint import Snapshot


@dataclass(frozen=True)
class PruneSettings:
    """When to remove how many channels.

    Attributes:
        every: mini-batches between two events
        channels: removed per event, over the whole network; channels that must go together count as one
        floor: stop below this share of the channels at the start
        minimum: {group: channels that it keeps}; a group that is not named keeps one slice
        stop_at_minimum: end pruning when a group would fall below its minimum, as the paper's authors do, instead of
            taking the next ones in the ranking from the other groups
    """

    every: int
    channels: int
    floor: float
    minimum: Mapping[str, int] = field(default_factory=dict)
    stop_at_minimum: bool = False


class _ZeroedSlices:
    """Units that are zeroed instead of removed, by group."""

    def __init__(self, graph: DependencyGraph) -> None:
        self.slices: dict[str, list[int]] = {name: [] for name, group in graph.groups.items() if not group.exact}
        self.masks: list[tuple[nn.Parameter, torch.Tensor]] = []

    def find(self, model: nn.Module, graph: DependencyGraph) -> None:
        """Find the parameters of the zeroed slices; a removal elsewhere replaces them."""
        self.masks = []
        parameters = dict(model.named_parameters()) if any(self.slices.values()) else {}
        for name, gone in self.slices.items():
            makers = [(made.tensor, made.dim) for made in graph.producers(name)] if gone else []
            for tensor, dim in dict.fromkeys([*makers, *(made_at(graph, name, parameters) if gone else [])]):
                owners, parameter = graph.owners[tensor, dim], parameters[tensor]
                alive = ~((owners.group == graph.order.index(name)) & np.isin(owners.slice, gone))
                shape = [-1 if axis == dim else 1 for axis in range(parameter.dim())]
                self.masks.append((parameter, torch.from_numpy(alive).to(parameter).view(shape)))

    @torch.no_grad()
    def zero(self) -> None:
        """Zero them, after a step may have moved them."""
        for parameter, mask in self.masks:
            parameter.mul_(mask)


class TaylorPruner:
    """Observer of a training loop that removes the least important channels every few steps.

    Args:
        graph: of the network at the start of pruning
        searched: groups that compete in the global ranking
        follows: {group: (searched group, factor)}; each loses its own least important channels until it has
            factor × the channels of the group it follows
        settings: when to remove how many
        remove: takes the channels out of the network
        prices: weigh importance against what a slice costs; None: importance alone counts, as in the paper

    Attributes:
        records: (parameters, {searched group: channels}) after every event
        early: how many of the records are from before every searched group had lost a channel
        events: number of events so far
        seconds: spent on pruning; survives a checkpoint, as does `pretrain_seconds`, which the caller sets
        reason: why pruning ended
    """

    def __init__(
        self,
        graph: DependencyGraph,
        searched: list[str],
        follows: Mapping[str, tuple[str, int]],
        settings: PruneSettings,
        remove: Remove = remove_channels_,
        prices: Prices | None = None,
    ) -> None:
        self.remove, self.prices = remove, prices
        self.graph, self.searched, self.follows, self.settings = graph, searched, dict(follows), settings
        self.initial = {name: graph.groups[name].channels for name in searched}
        steps = graph.steps
        self.least = {name: max(1, -(-settings.minimum.get(name, 1) // steps[name])) for name in searched}  # slices
        self._prunable = [name for name in searched if graph.groups[name].slices > self.least[name]]
        self.zeroed = _ZeroedSlices(graph)
        self.records: list[tuple[int, dict[str, int]]] = []
        self.early = 0
        self.events = 0
        self.batches = 0
        self.reason = ""
        self.seconds = 0.0
        self.pretrain_seconds = 0.0

    @property
    def widths(self) -> dict[str, int]:
        """{group: channels left}."""
        steps, zeroed = self.graph.steps, self.zeroed.slices
        return {name: width - steps[name] * len(zeroed.get(name, ())) for name, width in self.graph.widths.items()}

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> None:
        """Attach to a network about to be trained."""
        self.model, self.optimizer = model, optimizer
        self._clock = time.monotonic()
        self._attach()

    def _attach(self) -> None:
        self.scales = ChannelScales(self.model, self.graph, [*self.searched, *self.follows])
        self.criteria = torch.zeros(self.scales.total, device=self.scales.device, dtype=self.scales.dtype)
        self.batches = 0
        self.zeroed.find(self.model, self.graph)
        self.zeroed.zero()

    def after_backward(self) -> None:
        """Add the squared scale derivatives of one mini-batch."""
        self.criteria += self.scales.derivatives().square_()
        self.batches += 1
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now

    def after_step(self) -> bool:
        """Remove channels if an event is due; True when pruning is over."""
        self.zeroed.zero()
        if self.batches < self.settings.every:
            return False
        removed = self._choose()
        if removed is None:
            return True
        self._remove(removed)
        self.events += 1
        self._attach()
        widths = self.widths
        params = params_at(self.model, self.graph, widths)
        self.records.append((params, {name: widths[name] for name in self.searched}))
        if any(widths[name] == self.initial[name] for name in self._prunable):
            self.early = len(self.records)
        if sum(widths[name] for name in self.searched) < self.settings.floor * sum(self.initial.values()):
            self.reason = f"fewer than {self.settings.floor:.0%} of the channels remain"
            return True
        return False

    def _remove(self, removed: Mapping[str, list[int]]) -> None:
        for name, slices in removed.items():
            if name in self.zeroed.slices:
                self.zeroed.slices[name] += slices
        physical = {name: slices for name, slices in removed.items() if name not in self.zeroed.slices}
        self.graph = self.remove(self.model, self.graph, physical, self.optimizer)

    def _choose(self) -> dict[str, list[int]] | None:
        """The slices to remove, or None (and the reason) if there are none."""
        left = {
            name: self.graph.groups[name].slices - len(self.zeroed.slices.get(name, ())) - self.least[name]
            for name in self.searched
        }
        removed: dict[str, list[int]] = {}
        wanted = self.settings.channels
        for position in self._ranking():
            if not wanted:
                break
            name = self._owner(position)
            if left[name] > 0:
                removed.setdefault(name, []).append(position - self.scales.starts[name])
                left[name] -= 1
                wanted -= 1
            elif self.settings.stop_at_minimum:
                self.reason = f"{name} would have fallen below its minimum of {self._minimum(name)}"
                return None
        if not removed:
            self.reason = "every group is at its minimum"
            return None
        removed = {name: sorted(removed[name]) for name in self.searched if name in removed}
        return removed | self._followers(removed)

    def _ranking(self) -> list[int]:
        """Positions of the searched slices in the vector of scales that are not zeroed, the least important first."""
        slices = [self.graph.groups[name].slices for name in self.searched]
        zeroed = {
            self.scales.starts[name] + slice_ for name in self.searched for slice_ in self.zeroed.slices.get(name, ())
        }
        criteria = self.criteria[: sum(slices)]
        if self.prices is None:
            order = criteria.argsort(stable=True).tolist()
        else:
            widths = self.widths
            price = self.prices.per_slice(self.graph, {name: widths[name] for name in self.searched})
            importance = np.nan_to_num(criteria.double().cpu().numpy(), nan=0.0, posinf=np.inf)
            owners = np.repeat(np.arange(len(slices)), slices)
            order = self.prices.order(importance, owners, np.array([price[name] for name in self.searched]))
        return [position for position in order if position not in zeroed]

    def _minimum(self, name: str) -> str:
        channels = self.least[name] * self.graph.groups[name].step
        return f"{channels} channel" + ("s" if channels > 1 else "")

    def _owner(self, position: int) -> str:
        starts = [self.scales.starts[name] for name in self.searched]
        return self.searched[bisect_right(starts, position) - 1]

    def _followers(self, removed: Mapping[str, list[int]]) -> dict[str, list[int]]:
        extra = {}
        for name, (source, factor) in self.follows.items():
            size = self.graph.groups[name].channels
            surplus = size - factor * (self.graph.groups[source].channels - len(removed.get(source, ())))
            if surplus > 0:
                begin = self.scales.starts[name]
                order = self.criteria[begin : begin + size].argsort(stable=True)
                extra[name] = sorted(order[:surplus].tolist())
        return extra

    def state(self) -> Snapshot:
        """Widths, records and criteria so far."""
        values = {
            "widths": self.graph.widths,
            "silent": self.zeroed.slices,
            "records": self.records,
            "early": self.early,
            "events": self.events,
            "batches": self.batches,
            "reason": self.reason,
            "seconds": [self.pretrain_seconds, self.seconds],
            "removals": self.remove.events if isinstance(self.remove, ChannelRemover) else {},
        }
        return Snapshot({"criteria": self.criteria}, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Shrink the network to the widths of the snapshot and go on from its records and criteria."""
        values = snapshot.values
        gone = {
            name: range(width // group.step, group.slices)
            for name, width in values["widths"].items()
            if width < (group := self.graph.groups[name]).channels
        }
        # Which channels these are does not matter, since the weights come with the snapshot: no engine is asked.
        self.graph = remove_channels_(self.model, self.graph, gone, self.optimizer)
        if isinstance(self.remove, ChannelRemover):
            self.remove.events = dict(values["removals"])
        self.zeroed.slices = {name: list(slices) for name, slices in values["silent"].items()}
        self._attach()
        self.criteria = snapshot.tensors["criteria"].to(self.criteria)
        self.batches, self.events, self.reason = values["batches"], values["events"], values["reason"]
        self.pretrain_seconds, self.seconds = values["seconds"]
        self.records = [(params, dict(widths)) for params, widths in values["records"]]
        self.early = values["early"]
