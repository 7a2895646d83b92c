"""What every search method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from compressor.costs.budget import Budget
from compressor.costs.solver import Bounds
from compressor.models.architecture import Architecture

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compressor.dependency import Engine
    from compressor.training.trainer import EpochRecord, Observer, Settings


class ModelTrainer(Protocol):
    """The part of `compressor.training.trainer.Trainer` that searches use; tests hand in a trivial one."""

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which way the validation metric is good."""

    @property
    def validation_samples(self) -> int:
        """What that metric is measured on; 0: there is none."""

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move a network to where it trains."""

    def fit(
        self,
        model: nn.Module,
        settings: Settings,
        *,
        seed: int,
        label: str = ...,
        observer: Observer | None = ...,
        checkpoint: Path | None = ...,
    ) -> list[EpochRecord]:
        """Train a network in place."""

    def epoch_size(self, batch_size: int, model: nn.Module | None = None) -> tuple[int, int]:
        """How many batches of this size an epoch has, and how many samples there are in each.

        Args:
            batch_size: of the recipe
            model: a trainer that cannot know may have to train a copy of it for an epoch
        """


@dataclass(frozen=True)
class Problem:
    """One search problem.

    Attributes:
        reference: the unscaled network
        budget: limits that the result must meet
        costs: {cost name: cost of an architecture}; params is always among them
        trainer: trains networks on the training data, widths may fall meanwhile; searches never see test images
        seed: of weights and data order
        work: folder for checkpoints of the search, or None; searches for other budgets may share it
        bounds: channel counts that the groups may have, in the order of the reference's widths, arrays (L,);
            `bounds.frozen` says which groups keep their width
        final: how a network found is trained in the end, for methods that train the reference in the same way
        finetuning: how one that keeps trained weights is trained in the end: (what its search says of that) → settings
        width: multiplier of the default widths that the reference was made with
        given: state dict that the reference comes with; None: it is trained from scratch
        engine: what removes channels, see `compressor.dependency.ChannelRemover`
        trainer_for: (network whose widths stay) → what trains it in the end; None: `trainer`
        alone: whether fresh weights are trained by `trainer.fit` with `final` in the end too: no teacher takes
            part
        side_by_side: (networks) → milliseconds of each, untrained and exported quickly, measured in turns, of use
            beside each other only; None: nothing measures them
    """

    reference: Architecture
    budget: Budget
    costs: Mapping[str, Callable[[Architecture], float]]
    trainer: ModelTrainer
    seed: int = 0
    work: Path | None = None
    bounds: Bounds = field(default_factory=Bounds)
    final: Settings | None = None
    finetuning: Callable[[Finetuning | None], Settings] | None = None
    width: float = 1.0
    given: Mapping[str, torch.Tensor] | None = None
    engine: Engine = "auto"
    trainer_for: Callable[[Architecture], ModelTrainer] | None = None
    alone: bool = True
    side_by_side: Callable[[Sequence[Architecture]], Sequence[float]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", self.bounds.of(len(self.reference.widths)))

    def begin_with_given_(self, model: nn.Module, architecture: Architecture) -> bool:
        """Load the reference's own weights into a network, if there are any and it is the reference."""
        if self.given is None or architecture != self.reference:
            return False
        model.load_state_dict(dict(self.given))
        return True

    def checkpoint(self, name: str) -> Path | None:
        """Path of a checkpoint file, or None when nothing is kept."""
        return None if self.work is None else self.work / name


@runtime_checkable
class Calibrated(Protocol):
    """A cost that learns from networks really exported or measured."""

    def __call__(self, architecture: Architecture) -> float:
        """What is known of an architecture's cost."""

    def begin(self, least: Architecture) -> None:
        """Another search begins; its least network decides whether the budget can be met at all."""

    def measured(self, architecture: Architecture) -> float:
        """What `__call__` gives, of any network, measured unless that was done before."""

    def calibrate(self, architecture: Architecture) -> bool:
        """Measure an architecture; returns whether what was found with the estimate may stand."""


def calibrated_costs(problem: Problem) -> list[Calibrated]:
    """The limited costs that are estimates."""
    return [cost for name in problem.budget.limits if isinstance(cost := problem.costs[name], Calibrated)]


def block_of(problem: Problem) -> int:
    """Channels in whose steps a limited cost rises; 1 where every channel counts."""
    return max(getattr(problem.costs[name], "block", 1) for name in problem.budget.limits)


def agreed(problem: Problem, architecture: Architecture) -> bool:
    """Measure what was found with estimates; whether it may stand."""
    found = [cost.calibrate(architecture) for cost in calibrated_costs(problem)]  # all of them learn from it
    return all(found)


@dataclass(frozen=True)
class Finetuning:
    """How a network that keeps trained weights is trained on: for so many epochs, at a constant learning rate."""

    epochs: int
    lr: float


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        architecture: meets the budget
        trace: how it was found, as JSON values
        one_channel: {cost name: what one more channel of the cheapest group would add}
        binding: the limit that stops growth, see `compressor.costs.solver.Solution`; None where the method knows none
        weights: state dict to go on from; None: the method finds no more than the architecture
        finetuning: how to go on from `weights`; the recipe says the rest; 0 epochs: they are the result; None: as the
            recipe's `finetune` says
        history: of the training that `weights` had
        trained: whether `weights` were trained for this result, from fresh ones; else they are those of a network, cut
        finished: whether that was the final training of the recipe, so that `weights` are the result
    """

    architecture: Architecture
    trace: Mapping[str, Any]
    one_channel: Mapping[str, float] = field(default_factory=dict)
    binding: str | None = None
    weights: Mapping[str, torch.Tensor] | None = None
    finetuning: Finetuning | None = None
    history: Sequence[EpochRecord] = ()
    trained: bool = False
    finished: bool = False


class Unfinished(Exception):  # noqa: N818 - nothing went wrong
    """A search was paused that has a trained network at any time.

    Attributes:
        architecture: of the current network, which need not meet the budget
        weights: its state dict
        limits: of the budget
        epochs: trained so far
    """

    def __init__(
        self,
        architecture: Architecture,
        weights: Mapping[str, torch.Tensor],
        limits: Mapping[str, float],
        epochs: float,
        of: int,
    ) -> None:
        super().__init__(f"paused after {epochs:.2f} of {of} epochs")
        self.architecture, self.weights, self.limits, self.epochs = architecture, weights, limits, epochs
