"""Global first-order Taylor pruning with physical removal (NeuralScale Algorithm 1; Molchanov et al. 2019).

The importance of a channel is (∂L/∂z)² of a gate z = 1, summed over the mini-batches since the last event. No gate is
computed with. Where one layer makes the channels and an affine batch-norm alone reads it, the gate sits behind the
batch-norm and ∂L/∂z = γ·∂L/∂γ + β·∂L/∂β. Elsewhere (a residual stream, a layer without batch-norm) it scales the
channel wherever a layer's weights w read it, which is what removal takes away, and ∂L/∂z = Σ w·∂L/∂w over those
weights; behind a ReLU the two are the same. Gating what makes a residual stream would not do: where batch-norms read
it, as in pre-activation networks, scaling it changes nothing and every derivative is zero.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import nn

from compressor.checkpoint import Snapshot
from compressor.cost import count_params
from compressor.widths import WidthPlan, remove_channels_


@dataclass(frozen=True)
class PruneSettings:
    """When to remove how many channels.

    Attributes:
        every: mini-batches between two events
        channels: removed per event, over the whole network
        floor: stop below this share of the channels at the start
    """

    every: int
    channels: int
    floor: float


class _Gates:
    """Derivatives of all gates of a network as one vector, one entry per channel of every group named."""

    def __init__(self, model: nn.Module, plan: WidthPlan, names: list[str]) -> None:
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, torch.promote_types(weight.dtype, torch.float32)
        sizes = [plan.groups[name].channels for name in names]
        self.total = sum(sizes)
        self.starts = dict(zip(names, accumulate([0, *sizes]), strict=False))
        # (batch-norm, or layer that reads channels; positions in it; entries of the vector)
        self.norms: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
        self.readers: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
        normed = {norm: name for name in names if (norm := plan.groups[name].norm) is not None}
        read = set(names) - set(normed.values())
        for (path, side), slots in plan.owners.items():
            if side == "out" and path in normed:
                self.norms.append((model.get_submodule(path), *self._entries(slots, {normed[path]})))
            elif side == "in" and any(slot is not None and slot[0] in read for slot in slots):
                self.readers.append((model.get_submodule(path), *self._entries(slots, read)))

    def _entries(self, slots: Sequence[tuple[str, int] | None], names: Set[str]) -> tuple[torch.Tensor, torch.Tensor]:
        mine = [
            (position, self.starts[slot[0]] + slot[1])
            for position, slot in enumerate(slots)
            if slot is not None and slot[0] in names
        ]
        positions, entries = torch.tensor(mine, device=self.device).T
        return positions, entries

    @torch.no_grad()
    def derivatives(self) -> torch.Tensor:
        """∂L/∂z of the mini-batch whose gradients the network holds, (channels,)."""
        result = torch.zeros(self.total, device=self.device, dtype=self.dtype)
        for norm, positions, entries in self.norms:
            # A layer that this step did not reach, or that is frozen, has no gradient.
            terms = [p * p.grad for p in (norm.weight, norm.bias) if p.grad is not None]  # type: ignore[operator]
            if not terms:
                continue
            slope = torch.stack(terms).sum(0)
            result.index_add_(0, entries, slope.to(self.dtype)[positions])
        for layer, positions, entries in self.readers:
            if layer.weight.grad is None:
                continue
            product = (layer.weight * layer.weight.grad).to(self.dtype)  # type: ignore[operator]
            slope = product.transpose(0, 1).flatten(1).sum(1)
            result.index_add_(0, entries, slope[positions])
        return result


class TaylorPruner:
    """Observer of a training loop that removes the least important channels every few steps.

    Args:
        plan: of the network at the start of pruning
        searched: groups that compete in the global ranking
        follows: {group: (searched group, factor)}; each loses its own least important channels until it has
            factor × the channels of the group it follows
        settings: when to remove how many

    Attributes:
        records: (parameters, {searched group: channels}) after every event from the first on in which every
            searched group has lost a channel
        events: number of events so far
        seconds: spent on pruning; survives a checkpoint, as does `pretrain_seconds`, which the caller sets
        reason: why pruning ended
    """

    def __init__(
        self,
        plan: WidthPlan,
        searched: list[str],
        follows: Mapping[str, tuple[str, int]],
        settings: PruneSettings,
    ) -> None:
        self.plan, self.searched, self.follows, self.settings = plan, searched, dict(follows), settings
        self.initial = {name: plan.groups[name].channels for name in searched}
        self.records: list[tuple[int, dict[str, int]]] = []
        self.events = 0
        self.batches = 0
        self.reason = ""
        self.seconds = 0.0
        self.pretrain_seconds = 0.0

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Attach to a network about to be trained."""
        self.model, self.optimizer = model, optimizer
        self._clock = time.monotonic()
        self._attach()

    def _attach(self) -> None:
        self.gates = _Gates(self.model, self.plan, [*self.searched, *self.follows])
        self.criteria = torch.zeros(self.gates.total, device=self.gates.device, dtype=self.gates.dtype)
        self.batches = 0

    def after_backward(self) -> None:
        """Add the squared gate derivatives of one mini-batch."""
        self.criteria += self.gates.derivatives().square_()
        self.batches += 1
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now

    def after_step(self) -> bool:
        """Remove channels if an event is due; True when pruning is over."""
        if self.batches < self.settings.every:
            return False
        removed = self._choose()
        if removed is None:
            return True
        self.plan = remove_channels_(self.model, self.plan, removed, self.optimizer)
        self.events += 1
        self._attach()
        widths = self.plan.widths
        if all(widths[name] < self.initial[name] for name in self.searched):
            self.records.append((count_params(self.model), {name: widths[name] for name in self.searched}))
        if sum(widths[name] for name in self.searched) < self.settings.floor * sum(self.initial.values()):
            self.reason = f"fewer than {self.settings.floor:.0%} of the channels remain"
            return True
        return False

    def _choose(self) -> dict[str, list[int]] | None:
        """The channels to remove, or None (and the reason) if a group would lose its last one."""
        ranked = sum(self.plan.groups[name].channels for name in self.searched)
        count = min(self.settings.channels, ranked)
        worst = self.criteria[:ranked].argsort(stable=True)[:count].tolist()
        removed: dict[str, list[int]] = {}
        for position in sorted(worst):
            name = self._owner(position)
            removed.setdefault(name, []).append(position - self.gates.starts[name])
        for name, channels in removed.items():
            if len(channels) >= self.plan.groups[name].channels:
                self.reason = f"{name} would have lost its last channel"
                return None
        return removed | self._followers(removed)

    def _owner(self, position: int) -> str:
        starts = [self.gates.starts[name] for name in self.searched]
        return self.searched[bisect_right(starts, position) - 1]

    def _followers(self, removed: Mapping[str, list[int]]) -> dict[str, list[int]]:
        extra = {}
        for name, (source, factor) in self.follows.items():
            size = self.plan.groups[name].channels
            surplus = size - factor * (self.plan.groups[source].channels - len(removed.get(source, ())))
            if surplus > 0:
                begin = self.gates.starts[name]
                order = self.criteria[begin : begin + size].argsort(stable=True)
                extra[name] = sorted(order[:surplus].tolist())
        return extra

    def state(self) -> Snapshot:
        """Widths, records and criteria so far."""
        values = {
            "widths": self.plan.widths,
            "records": self.records,
            "events": self.events,
            "batches": self.batches,
            "reason": self.reason,
            "seconds": [self.pretrain_seconds, self.seconds],
        }
        return Snapshot({"criteria": self.criteria}, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Shrink the network to the widths of the snapshot and go on from its records and criteria."""
        values = snapshot.values
        for name, width in values["widths"].items():
            gone = range(width, self.plan.groups[name].channels)
            if gone:
                self.plan = remove_channels_(self.model, self.plan, {name: gone}, self.optimizer)
        self._attach()
        self.criteria = snapshot.tensors["criteria"].to(self.criteria)
        self.batches, self.events, self.reason = values["batches"], values["events"], values["reason"]
        self.pretrain_seconds, self.seconds = values["seconds"]
        self.records = [(params, dict(widths)) for params, widths in values["records"]]
