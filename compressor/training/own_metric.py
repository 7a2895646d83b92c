"""Judging networks by a function of the user's.

def evaluate(model, data, device) -> float: ...           # with `split`, it is told "validation" or "test"
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compressor.errors import TrainingError
from compressor.training.tasks import Evaluation
from compressor.user_functions import call, called

_ROUNDING = 1e-5  # of a mean in float32, which may be above 1
SHARES = ("accuracy", "agreement", "mIoU")  # metrics that reports show in per cent


class NoNumberError(TrainingError):
    """A function of the user's ran, and what it gave is no finite number, or none that its metric can be."""


@dataclass(frozen=True)
class OwnMetric:
    """How a function of the user's judges networks.

    Attributes:
        function: (model, data, device) → float
        given: what it is given as data
        device: where networks are
        name: of the metric
        source: what to call it in errors
    """

    function: Callable[..., Any]
    given: Any
    device: torch.device
    name: str
    source: str = "evaluate.function"

    @property
    def by_split(self) -> bool:
        """Whether the function tells validation from test data; if not, it is of test data."""
        try:
            return "split" in inspect.signature(self.function).parameters
        except ValueError:  # a function written in C may have no signature
            return False

    def __call__(self, model: nn.Module, split: str, samples: int) -> Evaluation:
        """The metric of a network in evaluation mode, without gradients.

        Args:
            model: on the device
            split: "validation" or "test"
            samples: of that split

        Raises:
            TrainingError: the function fails, or gives no number, or none from 0 to 1 where the metric is of `SHARES`
        """
        given = {"model": model, "data": self.given, "device": self.device, "split": split}
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                value = called(f"{self.source} fails", lambda: call(self.function, given), TrainingError)
        finally:
            model.train(training)
        try:
            found = float(value)
        except (TypeError, ValueError) as error:
            raise NoNumberError(f"{self.source}: it gives a {type(value).__name__}, not a number") from error
        if not math.isfinite(found):
            raise NoNumberError(f"{self.source}: it gives {found}, not a finite number")
        if self.name in SHARES:
            if not -_ROUNDING <= found <= 1 + _ROUNDING:
                raise NoNumberError(
                    f"{self.source}: it gives {found:g} as {self.name}, which is a share from 0 to 1; give a share, or "
                    "another evaluate.name"
                )
            found = min(1.0, max(0.0, found))
        return Evaluation(None, found if self.name == "accuracy" else None, samples, self.name, found)
