"""Training by a function of the user's.

    def train(model, data, epochs, device, on_step): ...      # in place; on_step(loss) after every step, if it likes

Methods that prune while a network trains take part in such training through torch's own hooks on optimizer steps: they
see the gradients before a step and may change the network behind it; the optimizer's parameters and state follow.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from compressor.errors import TrainingError
from compressor.training.checkpoint import Snapshot, load_snapshot, named, save_snapshot
from compressor.training.trainer import EpochRecord, Observer, Paused, Settings, Trainer
from compressor.user_functions import call, called

_SAID_EVERY = 50  # steps between two lines of progress


class _Ended(BaseException):
    """Leaves the user's loop from within a step; no `except Exception` of theirs holds it up."""


@dataclass(frozen=True)
class OwnTrainer(Trainer):
    """Trains networks by a function of the user's.

    A training that was interrupted begins anew; one that has ended is not repeated.

    Attributes:
        function: (model, data, epochs, device, on_step) → None
        given: what it is given as data
        source: what to call it in errors
    """

    function: Callable[..., Any] = lambda model: None
    given: Any = None
    source: str = "train.function"
    _steps: dict[str, int] = field(default_factory=dict, repr=False)

    def epoch_size(self, batch_size: int, model: nn.Module | None = None) -> tuple[int, int]:
        """How many steps an epoch has, for which a copy of the network is trained once; of samples nothing is known."""
        if not self._steps:
            assert model is not None
            steps = _Steps(self.prepare(copy.deepcopy(model)), None, self._pausing)
            self._call(steps, 1, "counting steps", seed=0)
            self._steps["epoch"] = steps.count
        return self._steps["epoch"], batch_size

    def fit(
        self,
        model: nn.Module,
        settings: Settings,
        *,
        seed: int,
        label: str = "train",
        observer: Observer | None = None,
        checkpoint: Path | None = None,
    ) -> list[EpochRecord]:
        """See `Trainer.fit`: of the settings the epochs count; without, the function is called until the observer ends.

        Raises:
            TrainingError: the function fails, takes no step, or leaves weights that are not finite
            Paused: `pause` asked for it
        """
        before = load_snapshot(checkpoint) if checkpoint is not None else None
        if before is not None:
            return _restored(model, observer, before)
        steps, history = _Steps(model, observer, self._pausing), list[EpochRecord]()
        while not steps.ended:
            begun = time.monotonic()
            self._call(steps, settings.epochs or 1, label, seed + len(history))
            history.append(steps.record(settings.epochs or len(history) + 1, time.monotonic() - begun))
            if settings.epochs is not None:
                break
        if settings.epochs is not None and observer is None:
            self._steps.setdefault("epoch", max(1, steps.count // settings.epochs))
        if settings.evaluate and self._judges_validation:
            found = self.evaluate(model, self.data.validation)
            history[-1] = replace(
                history[-1],
                validation_loss=found.loss,
                validation_accuracy=found.accuracy,
                validation_metric=found.value,
            )
        if checkpoint is not None:
            seen = Snapshot({}, {}) if observer is None else observer.state()
            tensors = {**named("model", model.state_dict()), **named("observer", seen.tensors)}
            values = {"history": [asdict(record) for record in history], "observer": seen.values}
            save_snapshot(checkpoint, Snapshot(tensors, values))
        return history

    @property
    def _judges_validation(self) -> bool:
        """Whether there is a validation split and something judges it; only functions of the user's know their own."""
        if self.metric is None:
            return len(self.data.validation) > 0
        return self.metric.by_split and (len(self.data.validation) > 0 or self.data.task == "own")

    def _pausing(self, count: int) -> bool:
        return self.pause(count / self._steps.get("epoch", count))

    def _call(self, steps: _Steps, epochs: int, label: str, seed: int) -> None:
        """Let the function train for some epochs, or until a step ends it.

        Raises:
            TrainingError: it fails, takes no step, or leaves weights that are not finite
            Paused: that was asked for
        """

        def on_step(loss: Any = None) -> None:
            steps.hear(loss)
            if steps.count % _SAID_EVERY == 1:
                self.progress(f"{label}: step {steps.count}{steps.text}", None)

        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        model, before = steps.model, steps.count
        model.train()
        given = {"model": model, "data": self.given, "epochs": epochs, "device": self.device, "on_step": on_step}
        self.progress(f"{label}: {self.source}", None)
        with steps.watched(), suppress(_Ended):
            called(f"{self.source} fails", lambda: call(self.function, given), TrainingError)
        if steps.pausing:
            raise Paused(steps.count / self._steps.get("epoch", steps.count))
        if steps.count == before:
            raise TrainingError(f"{self.source}: {label}: it has taken no optimizer step on the network's parameters")
        model.to(self.device)
        for name, value in model.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise TrainingError(f"{self.source}: {label}: {name} holds values that are not finite; lower its rate")


class _Steps:
    """Optimizer steps on a network, as torch's hooks see them, handed on to an observer.

    Args:
        model: the network
        observer: takes part; None: steps are counted only
        pause: asked after every step, with the number of steps done; True ends the training there

    Attributes:
        count: of steps
        ended: whether the observer has ended the training
        pausing: whether `pause` has
    """

    def __init__(self, model: nn.Module, observer: Observer | None, pause: Callable[[int], bool]) -> None:
        self.model, self.observer, self.pause = model, observer, pause
        self.count, self.ended, self.pausing = 0, False, False
        self.losses: list[torch.Tensor] = []
        self.optimizer: torch.optim.Optimizer | None = None
        self.lr = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Listen to the steps of one call of the function, which has its own optimizer."""
        self.optimizer = None
        handles = [register_optimizer_step_pre_hook(self._before), register_optimizer_step_post_hook(self._behind)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _ours(self, optimizer: torch.optim.Optimizer) -> bool:
        own = {id(parameter) for parameter in self.model.parameters()}
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        return any(id(parameter) in own for parameter in held)

    def _before(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._ours(optimizer):
            return
        if self.observer is not None and (len(args) > 1 or kwargs.get("closure") is not None):
            raise TrainingError(
                "train.function: a step with a closure computes gradients inside, where a method that prunes while it "
                "trains cannot see them; call backward() and then step()"
            )
        if optimizer is not self.optimizer:
            if self.observer is not None and self.optimizer is not None and self._ours(self.optimizer):
                raise TrainingError(
                    "train.function: two optimizers step on the network's parameters; a method that prunes while it "
                    "trains follows one"
                )
            self.optimizer = optimizer
            if self.observer is not None:
                self._start(optimizer)
        if self.observer is not None:
            self.observer.after_backward()

    def _start(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the observer begin, or go on with the optimizer of another call of the function."""
        assert self.observer is not None
        if self.count:
            state = self.observer.state()
            self.observer.start(self.model, optimizer, 1)
            self.observer.restore(state)
        else:
            self.observer.start(self.model, optimizer, 1)

    def _behind(self, optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        if optimizer is not self.optimizer:
            return
        self.count += 1
        self.lr = float(optimizer.param_groups[0]["lr"])
        if self.observer is not None and self.observer.after_step():
            self.ended = True
        self.pausing = not self.ended and self.pause(self.count)
        if self.ended or self.pausing:
            raise _Ended

    def hear(self, loss: Any) -> None:
        """Note a loss that the function tells of."""
        if loss is not None:
            self.losses.append(torch.as_tensor(loss).detach().float().mean())

    @property
    def text(self) -> str:
        """The last loss, for the progress line."""
        return f"  loss {float(self.losses[-1]):.3f}" if self.losses else ""

    def record(self, epoch: int, seconds: float) -> EpochRecord:
        """What is known of the epochs that one call has trained."""
        loss = float(torch.stack(self.losses).double().mean()) if self.losses else None
        self.losses.clear()
        return EpochRecord(epoch, loss, None, None, self.lr, seconds)


def _restored(model: nn.Module, observer: Observer | None, snapshot: Snapshot) -> list[EpochRecord]:
    if observer is not None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # of the network only; its steps are over
        observer.start(model, optimizer, 1)
        observer.restore(Snapshot(snapshot.part("observer"), snapshot.values["observer"]))
    model.load_state_dict(snapshot.part("model"))
    return [EpochRecord(**record) for record in snapshot.values["history"]]
