"""The observer that makes a network grow and shrink while it trains (Algorithm 1 of the paper)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compressor.costs import params_macs
from compressor.costs.solver import Solution
from compressor.models import build, units
from compressor.models.architecture import Architecture
from compressor.search.channel_scale import ChannelScales
from compressor.search.methods.growing.indicators import Indicators, IndicatorSettings
from compressor.search.methods.growing.selection import Selection, select
from compressor.search.methods.growing.space import Drawn, Space, trained_form
from compressor.search.methods.growing.store import MOMENTUM, Store
from compressor.search.methods.growing.utility import Utility
from compressor.search.problem import Problem, agreed
from compressor.training.checkpoint import Snapshot, Tensors, named

_DENSITY = 0.05  # parameters of the paper's VGG-16 after growth (Table 1)
_WATCHED = 4  # rounds before utility counts: what it is a mean of must be known
_GROWN = 0.5  # of the budget: a network smaller than this has not grown long enough to say anything about widths
_LOOKS = 4  # at the size of the network that would be drawn, in every round
_PASSES = 3  # forward, and backward to weights and to activations: each takes the multiply-adds of one forward


@dataclass(frozen=True)
class GrowthSettings:
    """How a network grows.

    Attributes:
        indicators: how what is drawn is decided
        steps: of training in all
        settled: step from which on the network keeps the structure that meets the budget
        samples: in a step
        price: power of what a channel costs in the penalty; 0: all alike
        pad_to: the network that trains has a multiple of so many channels in every group
        restart: momentum begins at 0 when growth is over, as the schedule of the learning rate does
        renew: share of fresh values that is mixed into the weights when growth is over
    """

    indicators: IndicatorSettings
    steps: int
    settled: int
    samples: int
    price: float
    pad_to: int
    restart: bool = False
    renew: float = 0.0


@dataclass(frozen=True)
class _Training:
    """What the observer is attached to.

    Attributes:
        model: the network that trains; it is rebuilt in place
        optimizer: of its parameters
        per_epoch: steps
        indicators: of what may grow, on the network's device
        utility: of its channels
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    per_epoch: int
    indicators: Indicators
    utility: Utility


class Grower:
    """Draws a network every round, trains its indicators at every step, and settles on what meets the budget.

    Between two draws the network holds only what is drawn, its scaled parameters multiplied by σ(β·s).

    Args:
        problem: budget and costs
        space: what may grow
        settings: how
        prepare: moves a network to where it trains

    Attributes:
        epochs: what was trained in every epoch so far, as JSON values
        rounds: (step, {cost: value}, Δu) of every draw
        selection: what is kept in the end, once that is decided
        settled: channels that are kept then, and how many of them the last draw had not, and it had besides
    """

    def __init__(
        self, problem: Problem, space: Space, settings: GrowthSettings, prepare: Callable[[nn.Module], nn.Module]
    ) -> None:
        self.problem, self.space, self.settings, self.prepare = problem, space, settings, prepare
        self.store = Store(space, problem.seed)
        self.drawn = self.seed_network()
        self.own = {name: problem.costs[name](space.reference) for name in problem.budget.limits}
        self.step = 0
        self._look_every = max(1, settings.indicators.steps // _LOOKS)
        self.epochs: list[dict[str, Any]] = []
        self.rounds: list[tuple[int, dict[str, float], float]] = []
        self.selection: Selection | None = None
        self.settled: dict[str, int] = {}
        self._epoch: dict[str, float] = {"flops": 0.0, "added": 0, "removed": 0}
        self._training: _Training | None = None
        # Of the network of this round, see `_attach`.
        self.scales: ChannelScales | None = None
        self._where = torch.zeros(0, dtype=torch.int64)  # indicators of the scales
        self._factors = torch.zeros(0)  # … and what they are multiplied by
        self._raw: list[torch.Tensor] = []  # the scaled parameters without their scales
        self._held: list[nn.Parameter] = []  # parameters that the optimizer leaves alone
        self._macs = 0

    @property
    def training(self) -> _Training:
        """What it is attached to, once training has started."""
        assert self._training is not None
        return self._training

    @property
    def indicators(self) -> Indicators:
        """What decides what is drawn."""
        return self.training.indicators

    def seed_network(self) -> Drawn:
        """What the network starts with: one filter in every layer, one unit in every stage."""
        drawn = np.zeros(self.space.length, dtype=bool)
        drawn[[self.space.starts[name] for name in self.space.groups]] = True
        return self._padded(drawn, np.zeros(self.space.length))

    def first_network(self) -> nn.Module:
        """The network to begin training with."""
        return self.store.network(self.trained, self.drawn, 0)

    @property
    def architecture(self) -> Architecture:
        """The current network."""
        return self.space.architecture(self.drawn)

    @property
    def trained(self) -> Architecture:
        """The current network, in the form in which it trains."""
        return self.architecture if self.selection is not None else trained_form(self.architecture)

    # the training loop -------------------------------------------------------------------------------------------

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> None:
        """Attach to the seed network."""
        device = next(model.parameters()).device
        indicators = Indicators(self.space, self.settings.indicators, device, self._prices())
        utility = Utility(self.space, self._costs(), self.settings.indicators.returns, device)
        self._training = _Training(model, optimizer, steps_per_epoch, indicators, utility)
        self._begin_round()

    def after_backward(self) -> None:
        """Move the indicators, and hand the optimizer the weights and gradients without their scales."""
        if self.scales is None:
            return
        products = self.scales.derivatives()
        self.scales.scale_(self._factors, lambda parameter: parameter.grad)
        with torch.no_grad():
            for parameter, raw in zip(self.scales.parameters, self._raw, strict=True):
                parameter.copy_(raw)
        for parameter in self._held:
            parameter.grad = None
        if self.settings.indicators.fixed is None:
            self.training.utility.observe(self._where, products)
            if self.step % self._look_every == 0:
                self.indicators.force = self._excess()
                if self.indicators.round > _WATCHED:
                    self.indicators.worth = self._worth()
            self.indicators.step(self._where, products)

    def after_step(self) -> bool:
        """Count what the step took, draw anew if a round is over, put the scales on; never ends training."""
        self.step += 1
        self._epoch["flops"] += 2 * _PASSES * self._macs * self.settings.samples
        if self.selection is None and self.step == self.settings.steps:
            self.settle()
        if self.step % self.training.per_epoch == 0:
            self._end_epoch()
        if self.selection is None and self.step >= self.settings.settled:
            self.settle()
        elif self.selection is None and self.step % self.settings.indicators.steps == 0:
            self._redraw()
        elif self.scales is not None:
            self._put_scales_on()
        return False

    def _end_epoch(self) -> None:
        there = self.architecture.widths
        row = {
            "epoch": len(self.epochs) + 1,
            **self._epoch,
            **{name: int(count(self.architecture)) for name, count in params_macs.COSTS.items()},
            "channels": {name: there.get(name, 0) for name in self.space.reference.widths},
            "units": self._units(),
        }
        self.epochs.append(row)
        self._epoch = {"flops": 0.0, "added": 0, "removed": 0}

    def _units(self) -> dict[str, int] | None:
        """{stage: units that are there} of networks with layers that can be detached."""
        if not self.space.layers:
            return None
        counts: dict[str, int] = {}
        absent = set(self.space.layers) - set(self.space.present(self.drawn))
        for path, unit in units(self.space.reference).items():
            counts[unit.stage] = counts.get(unit.stage, 0) + (path not in absent)
        return counts

    # structure ---------------------------------------------------------------------------------------------------

    def _redraw(self) -> None:
        """Draw the network of the next round."""
        drawn = self.indicators.draw()
        self._become(self._padded(drawn, self.indicators.chances()))
        self._begin_round()

    def settle(self) -> None:
        """Select what meets the budget, and fold the scales into its weights."""
        scores, drawn = self.indicators.scores(), self.drawn
        if (
            max(
                float(self.problem.costs[name](self.architecture)) / limit
                for name, limit in self.problem.budget.limits.items()
            )
            < _GROWN
        ):
            drawn = drawn.copy()  # too few rounds to have grown: all groups alike
            drawn[: self.space.channels] = True
        selection = select(self.problem, self.space, drawn, scores)
        while not agreed(self.problem, self.space.architecture(selection.drawn)):
            selection = select(self.problem, self.space, drawn, scores)  # with what was learned of its cost
        before, after = self.space.effective(self.drawn), self.space.effective(selection.drawn)
        self.settled = {
            "channels": int(after[: self.space.channels].sum()),
            "added": int((after & ~before)[: self.space.channels].sum()),
            "removed": int((before & ~after)[: self.space.channels].sum()),
        }
        self._become(selection.drawn, selection)
        scales = self._attach()
        self._put_scales_on()
        scales.scale_(self._factors, self._momentum)
        self.scales = None
        if self.settings.restart:
            for parameter in self.training.model.parameters():
                if (momentum := self._momentum(parameter)) is not None:
                    momentum.zero_()
        if self.settings.renew and self.step < self.settings.steps:  # else nothing would train what is fresh
            self._renew()

    @torch.no_grad()
    def _renew(self) -> None:
        """Shrink the weights and add fresh ones ("On Warm-Starting Neural Network Training", 2020, section 4).

        Weights of a network that was far smaller for most of their training are a worse start than they look.
        """
        fresh = dict(self.prepare(build(self.architecture, self.problem.seed)).named_parameters())
        for name, parameter in self.training.model.named_parameters():
            if parameter.requires_grad:
                parameter.lerp_(fresh[name], self.settings.renew)
                if (momentum := self._momentum(parameter)) is not None:  # of what was kept
                    momentum.mul_(1 - self.settings.renew)

    def _momentum(self, parameter: nn.Parameter) -> torch.Tensor | None:
        momentum: torch.Tensor | None = self.training.optimizer.state[parameter].get(MOMENTUM)
        return momentum

    def _become(self, drawn: Drawn, selection: Selection | None = None) -> None:
        """Put what is drawn in place of the network that trained until now, whose weights are kept."""
        self.store.keep(self.training.model, self.training.optimizer, self.drawn)
        before, after = self.space.effective(self.drawn), self.space.effective(drawn)
        self.drawn, self.selection = drawn, selection
        self._epoch["added"] += int((after & ~before).sum())
        self._epoch["removed"] += int((before & ~after).sum())
        self._rebuild()
        self.store.hand_over(self.training.model, self.training.optimizer, drawn)

    def _rebuild(self) -> None:
        other = self.prepare(self.store.network(self.trained, self.drawn, self.indicators.round))
        become_(self.training.model, other.train())

    def _begin_round(self) -> None:
        costs = {name: float(self.problem.costs[name](self.architecture)) for name in self.own}
        self.rounds.append((self.step, costs, self.indicators.force))
        self.indicators.count_draw(self.space.effective(self.drawn))
        self._attach()
        self._put_scales_on()

    def _attach(self) -> ChannelScales:
        """Find the scales of the current network."""
        space, there = self.space, self.space.there(self.drawn)
        graph = space.graph.select({name: np.flatnonzero(mask) for name, mask in space.masks(self.drawn).items()})
        model = self.training.model
        parameters = dict(model.named_parameters())
        every = units(self.space.reference)
        whole = {
            path: [scale for scale in every[path].scales if scale in parameters] for path in space.present(self.drawn)
        }
        scales = ChannelScales(model, graph, there, whole)
        entries = [space.slices[name].start + np.flatnonzero(self.drawn[space.slices[name]]) for name in there]
        entries += [np.array([space.starts[path]]) for path in whole]
        self._where = torch.from_numpy(np.concatenate(entries)).to(scales.device)
        self.scales = scales
        # A plain unit's mixing weight is nothing but its scale.
        self._held = [parameters[scale] for path in whole for scale in every[path].scales if scale.endswith(".mix")]
        self._macs = params_macs.macs(self.architecture)
        return scales

    def _put_scales_on(self) -> None:
        assert self.scales is not None
        self._factors = self.indicators.scales()[self._where]
        self._raw = [parameter.detach().clone() for parameter in self.scales.parameters]
        self.scales.scale_(self._factors)

    def _excess(self) -> float:
        """Δu: by how much the network exceeds its budget, the nearest of several limits, in shares of the unscaled one.

        Growth is to take as many rounds whatever the budget is, so that share is taken as `_DENSITY`, what the paper
        grows VGG-16 to. A network far too large shrinks no faster than a seed grows.
        """
        limits, costs = self.problem.budget.limits, self.problem.costs
        expected = self.space.architecture(self._expected())
        over = max(float(costs[name](expected)) / limit for name, limit in limits.items()) - 1
        return _DENSITY * min(over, 1.0)

    def _worth(self) -> torch.Tensor:
        found = self.training.utility.of(self.space.effective(self.drawn))
        return torch.from_numpy(found).to(self.indicators.s)

    def _costs(self) -> NDArray[np.float64]:
        """(channels,) what a channel of the unscaled network costs, as a share of a limit; of several the largest."""
        space, limits = self.space, self.problem.budget.limits
        found, every = np.ones(space.channels), np.ones(space.length, dtype=bool)
        for own in space.slices.values():
            fewer = every.copy()
            fewer[own.start] = own.stop - own.start == 1
            costs = {name: self.problem.costs[name] for name in limits}
            saved = [self.own[limit] - costs[limit](space.architecture(fewer)) for limit in limits]
            found[own] = max(max(0.0, s) / limit for s, limit in zip(saved, limits.values(), strict=True))
        found[found == 0] = found[found > 0].min(initial=1.0)
        return found

    def _prices(self) -> NDArray[np.float64]:
        """(length,) what a channel costs in each layer that has it, to a power, over the geometric mean; layers: 1."""
        space, prices = self.space, np.ones(self.space.length)
        if self.settings.price == 0:
            return prices
        channels = self._costs()
        for name, own in space.slices.items():
            channels[own] /= len(space.graph.producers(name)) + len(space.graph.readers(name))
        prices[: space.channels] = channels / np.exp(np.log(channels).mean())
        return np.asarray(prices**self.settings.price)

    def _expected(self) -> Drawn:
        """A draw of the expected size: of every group as many as are drawn in the mean, of layers the likelier half."""
        chances = self.indicators.expected()
        drawn = chances > 0.5
        for name, count in self.indicators.counts(chances, self.space.there(drawn)).items():
            own = self.space.slices[name]
            drawn[own] = np.arange(len(drawn[own])) < count
        return drawn

    def _padded(self, drawn: Drawn, chances: NDArray[np.float64]) -> Drawn:
        """The draw with the likeliest of the others added, up to a multiple of `pad_to` channels in every group."""
        padded = drawn.copy()
        for name, own in self.space.slices.items():
            step, count = self.space.graph.groups[name].step, int(drawn[own].sum())
            pad = max(1, self.settings.pad_to // step)
            missing = min(-count % pad, len(drawn[own]) - count)
            others = np.argsort(np.where(drawn[own], np.inf, -chances[own]), kind="stable")
            padded[own.start + others[:missing]] = True
        return padded

    # checkpoints -------------------------------------------------------------------------------------------------

    def state(self) -> Snapshot:
        """Structure, indicators, and the weights of what is detached."""
        own, utility = self.indicators.state(), self.training.utility.state()
        values = {
            "drawn": np.flatnonzero(self.drawn).tolist(),
            "solution": None if self.selection is None else asdict(self.selection.solution),
            "step": self.step,
            "epochs": self.epochs,
            "rounds": self.rounds,
            "epoch": self._epoch,
            "settled": self.settled,
            "indicators": own.values,
            "utility": utility.values,
        }
        raw = {str(number): tensor for number, tensor in enumerate(self._raw)} if self.scales is not None else {}
        return Snapshot(
            {
                **named("indicators", own.tensors),
                **named("utility", utility.tensors),
                **named("store", self.store.state()),
                **named("raw", raw),
            },
            values,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Make the network what it was, but for its weights, which the training loop loads."""
        values, kept = snapshot.values, Snapshot(snapshot.part("store"), {})
        self.indicators.restore(Snapshot(snapshot.part("indicators"), values["indicators"]))
        self.training.utility.restore(Snapshot(snapshot.part("utility"), values["utility"]))
        self.store.restore(kept.part("weights"), kept.part("momentum"), kept.tensors["ever"])
        self.drawn = np.zeros(self.space.length, dtype=bool)
        self.drawn[values["drawn"]] = True
        self.step, self.epochs, self._epoch = values["step"], values["epochs"], values["epoch"]
        self.settled = values["settled"]
        self.rounds = [(step, dict(costs), force) for step, costs, force in values["rounds"]]
        if values["solution"] is not None:
            self.selection = Selection(self.drawn, Solution(**values["solution"]))
        self._rebuild()
        optimizer = self.training.optimizer
        optimizer.state.clear()
        optimizer.param_groups[0]["params"] = list(self.training.model.parameters())
        self._attach()
        if self.selection is not None:
            self.scales = None
            return
        raw: Tensors = snapshot.part("raw")
        assert self.scales is not None
        self._raw = [raw[str(number)].to(self.scales.device) for number in range(len(raw))]
        self._factors = self.indicators.scales()[self._where]


def become_(model: nn.Module, other: nn.Module) -> None:
    """Make a module another one of its class, so that whoever holds it holds the other."""
    model.__dict__.clear()
    model.__dict__.update(other.__dict__)
