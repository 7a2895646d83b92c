"""The indicators of growing networks: trained vectors that decide what is drawn (section 3.2, equations 4 to 7)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.errors import TrainingError
from compressor.search.methods.growing.space import Drawn, Space
from compressor.training.checkpoint import Snapshot

_LEAST = 1e-9  # channels: a logarithm needs more than none
STEPS = 390  # in the paper's rounds: epochs of CIFAR-10 at batch 128


@dataclass(frozen=True)
class IndicatorSettings:
    """How indicators are trained and drawn.

    Attributes:
        rounds: number of draws, T
        steps: of training between two draws
        start: probability with which what is not part of the seed network is drawn at first
        beta_max: β of an indicator that was drawn in every round
        temperature: β rises with the draws of each indicator, or for all with every round
        penalty: λ₁ of channels at the start of growth
        layer_penalty: λ₂ of layers
        redraw: share of the channels and layers that are drawn anew in a round; the others keep theirs, and so their
            place unless their probability has crossed it, so that networks change less
        lr: learning rate of s, for rounds of 390 steps; shorter ones take larger steps
        momentum: of SGD on s
        seed: of the draws
        fixed: probability of everything, in place of σ(β·s): the paper's random baseline
        even: a draw has as many channels of every group as are drawn in the mean, so that the widths of narrow layers
            are not left to chance
        pull: κ: −κ·u, u the utility of a channel, takes the place of ∂L/∂m; 0: that derivative itself (the paper)
        returns: ρ, how fast further channels of a group are worth less in their utility
        floor: with `even`, the least share of a group that is drawn, as a multiple of the geometric mean of all groups'
    """

    rounds: int
    steps: int
    start: float
    beta_max: float
    temperature: Literal["structure", "global"]
    penalty: float
    layer_penalty: float
    redraw: float
    lr: float
    momentum: float
    seed: int
    fixed: float | None = None
    pull: float = 0.0
    returns: float = 0.0
    even: bool = False
    floor: float = 0.0


class Indicators:
    """s, β and q of everything in a space.

    Args:
        space: what may grow
        settings: how
        device: where s is trained
        prices: (length,) what an entry costs, as a multiple of others: a network too large loses the expensive ones
            first, one too small gains the cheap ones first

    Attributes:
        s: (length,) trained
        count: (length,) rounds in which each was drawn, t of equation 7
    """

    def __init__(
        self, space: Space, settings: IndicatorSettings, device: torch.device, prices: NDArray[np.float64]
    ) -> None:
        self.space, self.settings, self.device = space, settings, device
        low = float(np.log(settings.start / (1 - settings.start)))  # σ(β₀·s) = start, β₀ = 1
        self.s = torch.full((space.length,), low, device=device)
        self.s[[space.starts[name] for name in space.groups]] = -low
        self.velocity = torch.zeros_like(self.s)
        self.count = torch.zeros_like(self.s)
        base = [settings.penalty] * space.channels + [settings.layer_penalty] * len(space.layers)
        price = torch.tensor(prices, dtype=torch.float32, device=device)
        self.down = torch.tensor(base, device=device) * price
        self.up = torch.tensor(base, device=device) / price
        self.force = 0.0  # Δu of equation 4; negative while the network is below its budget
        self.worth = torch.zeros_like(self.s)  # u of channels, where that is the signal
        self.round = 0
        self.thresholds = np.zeros(space.length)

    def seed_network(self) -> Drawn:
        """One filter in every group and no layer that can be detached."""
        drawn = np.zeros(self.space.length, dtype=bool)
        drawn[[self.space.starts[name] for name in self.space.groups]] = True
        return drawn

    def beta(self) -> torch.Tensor:
        """(length,) temperatures, equation 7."""
        settings = self.settings
        rounds = self.count if settings.temperature == "structure" else torch.full_like(self.count, float(self.round))
        return settings.beta_max ** (rounds / settings.rounds)

    def scales(self) -> torch.Tensor:
        """(length,) σ(β·s), with which what is drawn takes part."""
        if self.settings.fixed is not None:
            return torch.ones_like(self.s)
        return torch.sigmoid(self.beta() * self.s)

    def chances(self) -> NDArray[np.float64]:
        """(length,) probabilities of being drawn.

        Raises:
            TrainingError: the indicators are not numbers any more
        """
        found: NDArray[np.float64] = self.scales().double().cpu().numpy()
        if not np.isfinite(found).all():
            raise TrainingError("growing: the indicators are not finite: training diverged; try a smaller train.lr")
        return found if self.settings.fixed is None else np.full_like(found, self.settings.fixed)

    def scores(self) -> NDArray[np.float64]:
        """(length,) what is worth keeping in the end: s; where all are drawn alike, minus the thresholds."""
        if self.settings.fixed is not None:
            return np.asarray(self.settings.fixed - self.thresholds)
        self.chances()  # raises if there are no such numbers
        return np.asarray(self.s.double().cpu().numpy())

    def draw(self) -> Drawn:
        """q ~ Bernoulli(σ(β·s)) for a round, with one filter in every group at least."""
        chance = self.chances()
        key = f"draw/{self.settings.seed}/{self.round}".encode()
        generator = np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little"))
        fresh = generator.random((2, len(chance)))
        again = fresh[0] < (self.settings.redraw if self.round > 1 else 1.0)
        self.thresholds = np.where(again, fresh[1], self.thresholds)
        drawn, margin = np.asarray(self.thresholds < chance), chance - self.thresholds
        counts = self.counts(chance, self.space.there(drawn)) if self.settings.even else {}
        for name, own in self.space.slices.items():  # a layer keeps one filter at least
            count = counts.get(name) or max(1, int(drawn[own].sum()))
            best = np.argsort(-margin[own], kind="stable")[:count]
            drawn[own] = np.isin(np.arange(len(margin[own])), best)
        return drawn

    def counts(self, chances: NDArray[np.float64], there: Collection[str]) -> dict[str, int]:
        """{group: channels in the mean, one at least}; no group is left far behind the others.

        Args:
            chances: (length,) probabilities of being drawn
            there: groups of layers that are there: the others say nothing of the size of the network
        """
        sums = {name: float(chances[own].sum()) for name, own in self.space.slices.items()}
        found = {name: max(1, round(total)) for name, total in sums.items()}
        sizes = {name: own.stop - own.start for name, own in self.space.slices.items()}
        # Of a group that holds less than the one channel that it must have, its share would be a matter of its size.
        shares = [sums[name] if sums[name] < 1 else found[name] for name in found]
        logs = [
            math.log(max(share, _LEAST) / sizes[name])
            for name, share in zip(found, shares, strict=True)
            if sizes[name] > 1 and name in there
        ]
        if not self.settings.even or not logs:
            return found
        level = math.exp(math.fsum(logs) / len(logs))
        least = {name: math.ceil(self.settings.floor * level * sizes[name]) for name in found}
        return {name: min(sizes[name], max(count, least[name])) for name, count in found.items()}

    def expected(self) -> NDArray[np.float64]:
        """(length,) probabilities of the next draw, of which the thresholds that are kept are known."""
        chance = self.chances()
        again = self.settings.redraw if self.round > 1 else 1.0
        known: NDArray[np.float64] = again * chance + (1 - again) * (self.thresholds < chance)
        if self.settings.even:  # as many are drawn as in the mean, whatever the thresholds are
            known[: self.space.channels] = chance[: self.space.channels]
        return known

    def count_draw(self, drawn: Drawn) -> None:
        """Note what a round trains with."""
        self.count += torch.from_numpy(drawn).to(self.count)
        self.round += 1

    @torch.no_grad()
    def step(self, where: torch.Tensor, products: torch.Tensor) -> None:
        """One step of SGD on s.

        Args:
            where: (P,) entries of the scales of the network
            products: (P,) m·∂L/∂m of each, m = σ(β·s)
        """
        beta = self.beta()
        m = torch.sigmoid(beta * self.s)
        slope = beta * (1 - m)  # ∂ ln m / ∂s
        gradient = self.force * (self.up if self.force < 0 else self.down) * slope * m
        if self.settings.pull:
            gradient -= self.settings.pull * self.worth * slope * m
            products = torch.where(where < self.space.channels, 0.0, products)  # those of layers stay
        gradient[where] += slope[where] * products
        self.velocity.mul_(self.settings.momentum).add_(gradient)
        self.s.sub_(self.velocity, alpha=self.settings.lr * STEPS / self.settings.steps)

    def state(self) -> Snapshot:
        """What to keep in a checkpoint."""
        values: dict[str, Any] = {"force": self.force, "round": self.round}
        tensors = {
            "s": self.s,
            "velocity": self.velocity,
            "worth": self.worth,
            "count": self.count,
            "lots": torch.from_numpy(self.thresholds),
        }
        return Snapshot(tensors, values)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from what `state` gave."""
        for name in ("s", "velocity", "worth", "count"):
            setattr(self, name, snapshot.tensors[name].to(self.device))
        self.thresholds = snapshot.tensors["lots"].numpy()
        self.force, self.round = snapshot.values["force"], snapshot.values["round"]
