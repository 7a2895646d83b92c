"""What every search method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from compressor.architecture import Architecture
from compressor.budget import Budget
from compressor.train import EpochRecord, Observer, Settings


class ModelTrainer(Protocol):
    """The part of `compressor.train.Trainer` that searches use; tests hand in a trivial one."""

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


@dataclass(frozen=True)
class Problem:
    """One search problem.

    Attributes:
        reference: the unscaled network
        budget: limits that the result must meet
        costs: {cost name: cost of an architecture}; params is always among them
        trainer: trains networks on the training data; searches never see test images
        seed: of weights and data order
        work: folder for checkpoints of the search, or None
    """

    reference: Architecture
    budget: Budget
    costs: Mapping[str, Callable[[Architecture], float]]
    trainer: ModelTrainer
    seed: int = 0
    work: Path | None = None

    def checkpoint(self, name: str) -> Path | None:
        """Path of a checkpoint file, or None when nothing is kept."""
        return None if self.work is None else self.work / name


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        architecture: meets the budget
        trace: how it was found, as JSON values
        one_channel: {cost name: what one more channel of the cheapest group would add}
    """

    architecture: Architecture
    trace: Mapping[str, Any]
    one_channel: Mapping[str, float] = field(default_factory=dict)
