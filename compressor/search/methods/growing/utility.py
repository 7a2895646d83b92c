"""What a channel is worth beside what it costs: a signal that compares channels of different layers (ours).

The loss cannot say how wide a layer should be: the batch-norm behind it divides a common scale away, so that the
derivatives m·∂L/∂m of its channels add up to 0, and that of a lone channel is 0. Their squares are free of that law,
and less noisy: the mean of a derivative over some steps has either sign, the mean of its square hardly changes. Where
no batch-norm follows, as in front of a classifier, the law does not hold, and squares are many times as large: such a
group is not compared with others, it becomes as wide as they are in the mean.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.search.methods.growing.space import Drawn, Space
from compressor.training.checkpoint import Snapshot

_MEMORY = 0.97  # of the running mean of squares, per step: some 30 steps
_LAW = 0.1  # |Σ m·∂L/∂m| of a group as a share of Σ |m·∂L/∂m|, up to which a batch-norm stands behind it
_PRICE = 1.5  # power of the cost, chosen on validation images: docs/growing.md
_WITHIN = 2.0  # largest |ln| of a channel's square against its group's
_ALL = 2.5  # largest |u|
_STATE = ("squares", "weight", "sums", "totals")


class Utility:
    """u of every channel: ln of its group's mean square, less that of its cost and of the share that is drawn.

    u_k = ln Ī − 1.5·ln c − ρ·ln(w/n) + clip(ln(I_k/Ī), ±2), less its mean over the drawn channels, clipped to ±2.5,
    where I_k is the running mean of (m·∂L/∂m)² over the steps in which k took part, Ī its mean over the w drawn
    channels of the group's n, corrected by w/(w − 1) for the derivatives that add up to 0, and c the cost of a channel
    of the unscaled network. Of a group whose derivatives do not add up to 0, ln Ī − 1.5·ln c counts as the mean of the
    others'. A group with a single channel has no such square: that of its last draw with two or more stays.

    Args:
        space: what may grow
        costs: (channels,) cost of each channel
        returns: ρ, how fast further channels of a group are worth less
        device: where s is trained
    """

    def __init__(self, space: Space, costs: NDArray[np.float64], returns: float, device: torch.device) -> None:
        self.space, self.returns, self.device = space, returns, device
        self.squares = torch.zeros(space.length, device=device)
        self.weight = torch.zeros_like(self.squares)  # of what the mean is of: less than 1 at first
        self.sums = torch.zeros_like(self.squares)  # of the squares of a group's sum, at its first entry; then …
        self.totals = torch.zeros_like(self.squares)  # … of those of the sum of its absolute values
        self.group_log: dict[str, float] = {}  # {group: ln Ī when it last had two channels}
        owner = np.arange(space.length)  # the first entry of its group, of layers itself
        for own in space.slices.values():
            owner[own] = own.start
        self.owner = torch.from_numpy(owner).to(device)
        self.log_cost = {name: float(np.log(costs[own].mean())) for name, own in space.slices.items()}

    @torch.no_grad()
    def observe(self, where: torch.Tensor, products: torch.Tensor) -> None:
        """Take in one step.

        Args:
            where: (P,) entries of the scales of the network
            products: (P,) m·∂L/∂m of each
        """
        owner, own = self.owner[where], products.to(self.squares)
        self.squares[where] = _MEMORY * self.squares[where] + (1 - _MEMORY) * own.square()
        self.weight[where] = _MEMORY * self.weight[where] + (1 - _MEMORY)
        for kept, values in ((self.sums, own), (self.totals, own.abs())):
            now = torch.zeros_like(kept).index_add_(0, owner, values)
            kept.mul_(_MEMORY).add_(now.square(), alpha=1 - _MEMORY)

    def of(self, drawn: Drawn) -> NDArray[np.float64]:
        """(length,) u of every entry by what is known of a drawn network; 0 of layers, and while nothing is known.

        Notes ln Ī of the groups with two channels and more, for when one of them has a single one.
        """
        squares, weight = self.squares.double().cpu().numpy(), self.weight.double().cpu().numpy()
        mean = np.divide(squares, weight, out=np.zeros_like(squares), where=weight > 0)
        sums, totals = self.sums.double().cpu().numpy(), self.totals.double().cpu().numpy()
        worth, known = np.zeros(self.space.length), np.zeros(self.space.length, dtype=bool)
        free, rare = np.zeros(self.space.length, dtype=bool), np.zeros(self.space.length)
        for name, own in self.space.slices.items():
            there = drawn[own]
            width = int(there.sum())
            total = float(mean[own][there].sum())
            if width > 1 and total > 0:
                self.group_log[name] = float(np.log(total / (width - 1)))
            if name not in self.group_log:
                continue
            within = np.zeros(len(there))
            seen = mean[own] > 0
            if width > 1 and total > 0:
                within[seen] = np.clip(np.log(mean[own][seen] / (total / width)), -_WITHIN, _WITHIN)
            rare[own] = self.returns * np.log(max(1, width) / len(there))
            worth[own] = within - rare[own]
            known[own] = True
            free[own] = sums[own.start] > _LAW**2 * totals[own.start]
            worth[own] += 0.0 if free[own.start] else self.group_log[name] - _PRICE * self.log_cost[name]
        bound = known & drawn & ~free
        if not bound.any():
            return np.zeros(self.space.length)
        # As wide as the others are in the mean, where the squares are not of the same kind.
        level = np.where(free, -rare[bound].mean(), worth[bound].mean())
        return np.where(known, np.clip(worth - level, -_ALL, _ALL), 0.0)

    def state(self) -> Snapshot:
        """What to keep in a checkpoint."""
        tensors = {name: getattr(self, name) for name in _STATE}
        return Snapshot(tensors, {"group_log": self.group_log})

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from what `state` gave."""
        for name in _STATE:
            setattr(self, name, snapshot.tensors[name].to(self.device))
        self.group_log = dict(snapshot.values["group_log"])
