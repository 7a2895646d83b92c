"""Learning rates as functions of the step, and the same training in less time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from compressor.training.trainer import Settings


def schedule(name: Literal["paper", "onecycle"], lr: float, epochs: int) -> Callable[[int, int], float]:
    """A named learning-rate schedule as a function of the step.

    paper: lr, divided by 10 after 1/3, 2/3 and 5/6 of the epochs (NeuralScale section 4: 100, 200, 250 of 300).
    onecycle: linear warm-up from lr/10 over the first fifth, then half a cosine down to 0 (after Smith 2018).
    """

    def paper(step: int, per_epoch: int) -> float:
        done = step / (epochs * per_epoch)
        return float(lr / 10 ** sum(done >= share for share in (1 / 3, 2 / 3, 5 / 6)))

    def onecycle(step: int, per_epoch: int) -> float:
        done, rise = (step + 1) / (epochs * per_epoch), 0.2
        if done < rise:
            return lr * (0.1 + 0.9 * done / rise)
        return lr * 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))

    return {"paper": paper, "onecycle": onecycle}[name]


def shortened(settings: Settings, epochs: int) -> Settings:
    """The same training in fewer epochs, with its whole learning-rate schedule."""
    whole = settings.epochs or epochs
    if whole <= epochs:
        return settings

    def lr_at(step: int, per_epoch: int) -> float:
        return settings.lr_at(step * whole // epochs, per_epoch)

    return replace(settings, epochs=epochs, lr_at=lr_at)
