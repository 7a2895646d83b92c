"""Global first-order Taylor pruning with physical removal (NeuralScale Algorithm 1; Molchanov et al. 2019).

The importance of a channel is (∂L/∂z)² of a gate z = 1 behind it, summed over the mini-batches since the last event.
No gate is computed with: behind an affine batch-norm ∂L/∂z = γ·∂L/∂γ + β·∂L/∂β, elsewhere (a residual sum, a layer
without batch-norm) it is Σ y·∂L/∂y over batch and positions of the layer's output y. The gate of a group of coupled
layers scales what all of them put out, so their derivatives add before they are squared.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from compressor.checkpoint import Snapshot
from compressor.cost import count_params
from compressor.widths import Gate, WidthPlan, remove_channels_


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
    """Derivatives of all gates of a network as one vector, one entry per channel of every searched group."""

    def __init__(self, model: nn.Module, plan: WidthPlan, names: list[str]) -> None:
        weight = next(model.parameters())
        device, self.dtype = weight.device, torch.promote_types(weight.dtype, torch.float32)
        self.names = names
        self.sizes = [plan.groups[name].channels for name in names]
        self.starts = dict(zip(names, torch.tensor([0, *self.sizes]).cumsum(0).tolist(), strict=False))
        self.total = sum(self.sizes)
        self.norms: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
        self.hooks: list[RemovableHandle] = []
        self.pending = torch.zeros(self.total, device=device, dtype=self.dtype)
        for name in names:
            for gate in plan.groups[name].gates:
                self._add(model, plan, gate, device)

    def _add(self, model: nn.Module, plan: WidthPlan, gate: Gate, device: torch.device) -> None:
        slots = plan.owners[gate.producer, "out"]
        mine = [
            (place, self.starts[slot[0]] + slot[1])
            for place, slot in enumerate(slots)
            if slot is not None and slot[0] in self.starts
        ]
        places, targets = torch.tensor(mine, device=device).T
        if gate.norm is not None:
            self.norms.append((model.get_submodule(gate.norm), places, targets))
            return
        self.hooks.append(model.get_submodule(gate.producer).register_forward_hook(self._watch(places, targets)))

    def _watch(self, places: torch.Tensor, targets: torch.Tensor) -> Any:
        def watch(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            if not output.requires_grad:
                return
            channel_dim = output.dim() - 1 if isinstance(module, nn.Linear) else 1
            others = [dim for dim in range(output.dim()) if dim != channel_dim]
            kept = output.detach()

            def add(gradient: torch.Tensor) -> None:
                slope = (kept.to(self.dtype) * gradient.to(self.dtype)).sum(others)
                self.pending.index_add_(0, targets, slope[places])

            output.register_hook(add)  # type: ignore[no-untyped-call]

        return watch

    def derivatives(self) -> torch.Tensor:
        """∂L/∂z of this mini-batch, (channels,); ready to be called for the next one."""
        for norm, places, targets in self.norms:
            slope = norm.weight * norm.weight.grad + norm.bias * norm.bias.grad  # type: ignore[operator]
            self.pending.index_add_(0, targets, slope.detach().to(self.dtype)[places])
        result = self.pending
        self.pending = torch.zeros_like(result)
        return result

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()


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

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Attach to a network about to be trained."""
        self.model, self.optimizer = model, optimizer
        self._attach()

    def _attach(self) -> None:
        self.gates = _Gates(self.model, self.plan, [*self.searched, *self.follows])
        self.criteria = torch.zeros_like(self.gates.pending)
        self.batches = 0

    def after_backward(self) -> None:
        """Add the squared gate derivatives of one mini-batch."""
        self.criteria += self.gates.derivatives().square_()
        self.batches += 1

    def after_step(self) -> bool:
        """Remove channels if an event is due; True when pruning is over."""
        if self.batches < self.settings.every:
            return False
        removed = self._choose()
        if removed is None:
            self.gates.close()
            return True
        self.gates.close()
        self.plan = remove_channels_(self.model, self.plan, removed, self.optimizer)
        self.events += 1
        self._attach()
        widths = self.plan.widths
        if all(widths[name] < self.initial[name] for name in self.searched):
            self.records.append((count_params(self.model), {name: widths[name] for name in self.searched}))
        if sum(widths[name] for name in self.searched) < self.settings.floor * sum(self.initial.values()):
            self.reason = f"fewer than {self.settings.floor:.0%} of the channels remain"
            self.gates.close()
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
        }
        return Snapshot({"criteria": self.criteria}, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Shrink the network to the widths of the snapshot and go on from its records and criteria."""
        values = snapshot.values
        self.gates.close()
        for name, width in values["widths"].items():
            gone = range(width, self.plan.groups[name].channels)
            if gone:
                self.plan = remove_channels_(self.model, self.plan, {name: gone}, self.optimizer)
        self._attach()
        self.criteria = snapshot.tensors["criteria"].to(self.criteria)
        self.batches, self.events, self.reason = values["batches"], values["events"], values["reason"]
        self.records = [(params, dict(widths)) for params, widths in values["records"]]
        if self.reason:
            self.gates.close()
