"""Training and evaluation: one loop for pre-training, pruning and final training.

Batches, learning rates and augmentations are functions of the step, so a run that was interrupted goes on from its
checkpoint to the same weights (same machine, same number of threads).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from compressor.data import DataSet, Split, ordered, training_batches
from compressor.errors import TrainingError, UnavailableError
from compressor.models import channels_last_
from compressor.training.checkpoint import Snapshot, Tensors, load_snapshot, named, save_snapshot
from compressor.training.distillation import Teacher
from compressor.training.objective import Objective
from compressor.training.optimization import Optimizer, averaged, make_optimizer, restore_state, state_tensors
from compressor.training.own_metric import OwnMetric
from compressor.training.sharing import Lead, Sharing, Work
from compressor.training.tasks import Evaluation, Task, task_of

_CHECK_EVERY = 50  # steps between two looks at the loss: a look waits for the GPU
_EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Settings:
    """How one phase trains.

    Attributes:
        epochs: how long; None: until the observer stops it
        batch_size: images per step
        lr_at: (step, steps per epoch) → learning rate
        momentum: of SGD
        nesterov: SGD's variant
        weight_decay: of SGD, on every parameter
        label_smoothing: share of the label spread over all classes
        keep: weights to end with: of the last epoch, or of the epoch with the best validation metric
        evaluate: measure validation loss, accuracy and metric after every epoch
        optimizer: momentum and Nesterov's variant are SGD's
        average: decay of the running average of weights that is evaluated and kept in place of them; 0: none
        clip: largest norm of all gradients together; None: any
        accumulate: parts into which a step's images are divided, whose gradients are added up
    """

    epochs: int | None
    batch_size: int
    lr_at: Callable[[int, int], float]
    momentum: float
    weight_decay: float
    nesterov: bool = False
    label_smoothing: float = 0.0
    keep: Literal["last", "best"] = "last"
    evaluate: bool = True
    optimizer: Optimizer = "sgd"
    average: float = 0.0
    clip: float | None = None
    accumulate: int = 1


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of training: mean training loss, validation loss and accuracy (0 to 1), last learning rate, time.

    `validation_metric` is the task's headline metric, see `compressor.training.tasks`.
    """

    epoch: int
    loss: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float
    seconds: float
    validation_metric: float | None = None


class Paused(Exception):  # noqa: N818 - nothing went wrong
    """Training was asked to pause and has written its checkpoint; `epochs` were trained."""

    def __init__(self, epochs: float) -> None:
        super().__init__(f"paused after {epochs:.2f} epochs")
        self.epochs = epochs


class Observer(Protocol):
    """Takes part in training: sees gradients, may change the network, may stop the loop."""

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> None:
        """Called once before the first step, also when training resumes."""

    def after_backward(self) -> None:
        """Called when the gradients of a step are there, before the weights change."""

    def after_step(self) -> bool:
        """Called when the weights have changed; True ends training."""

    def state(self) -> Snapshot:
        """What to keep in a checkpoint."""

    def restore(self, snapshot: Snapshot) -> None:
        """Called after `start` with what `state` gave; the network must then have its shape of that moment."""


def pick_device(name: str) -> torch.device:
    """The device to train on.

    Raises:
        UnavailableError: cuda was asked for and torch has none
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("device: cuda was asked for, but torch finds no CUDA device here; valid: auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Trainer:
    """Trains networks on one data set and one device.

    Attributes:
        data: train, validation and test images, on the device
        device: where to train
        augment: random changes of training images, see `compressor.data.Batches`
        bf16: run the forward pass in bfloat16 (autocast)
        channels_last: memory format of 4-d weights and images
        checkpoint_seconds: least time between two checkpoints
        progress: called with one line of text and the share done (None: unknown) as training goes on
        pause: called after every step with the epochs done; True writes a checkpoint and raises `Paused`
        team: processes that share out every batch, see `compressor.training.distributed`; None: this one trains alone
        sync_batch_norm: whether batch-norms see the samples of all of them
        teacher: a trained network that is learnt from beside the labels
        metric: judges networks in place of the task's own
        on_epoch: called with the label of a training and each of its epochs that ends
    """

    data: DataSet
    device: torch.device
    augment: Sequence[str] = ()
    bf16: bool = False
    channels_last: bool = False
    checkpoint_seconds: float = 30.0
    progress: Callable[[str, float | None], None] = lambda text, share: None
    pause: Callable[[float], bool] = lambda epochs: False
    team: Sharing | None = None
    sync_batch_norm: bool = False
    teacher: Teacher | None = None
    metric: OwnMetric | None = None
    on_epoch: Callable[[str, EpochRecord], None] = lambda label, record: None

    def epoch_size(self, batch_size: int, model: nn.Module | None = None) -> tuple[int, int]:
        """How many batches of this size an epoch of the training split has, and how many samples are in each."""
        batches = training_batches(self.data, batch_size, seed=0, augment=(), channels_last=False)
        return len(batches), min(batch_size, len(self.data.train))

    @property
    def task(self) -> Task:
        """What the data set asks for."""
        return task_of(self.data)

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which way the validation metric is good."""
        return self.task.better

    @property
    def validation_samples(self) -> int:
        """What the validation metric is measured on."""
        return len(self.data.validation)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move a network to the device, in the memory format of training."""
        if self.channels_last:
            model = channels_last_(model)
        return model.to(self.device)

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
        """Train a network in place.

        Args:
            model: prepared; if the observer reshapes it, still the same object
            settings: how
            seed: of data order and augmentation
            label: what the progress line calls this
            observer: sees every step
            checkpoint: file to resume from if it exists, and to write now and then

        Returns:
            one record per whole epoch

        Raises:
            TrainingError: the loss is not finite; names step and learning rate
            Paused: `pause` asked for it
        """
        return _Fit(
            self, model=model, settings=settings, seed=seed, label=label, observer=observer, checkpoint=checkpoint
        ).run()

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """Cross-entropy, accuracy and the task's metric of a network on a split; or a metric of the user's alone."""
        if self.metric is not None:
            name = "validation" if split is self.data.validation else "test"
            return self.metric(model, name, len(split))
        training = model.training
        model.eval()
        tally = self.task.tally()
        batch = self.task.batch(self.data.classes, self.data.input_shape, _EVALUATION_BATCH)
        with torch.inference_mode():
            for x, y in ordered(split, self.data, batch, channels_last=self.channels_last):
                tally.add(model(x), y)
        model.train(training)
        return tally.evaluation()


class _Fit:
    """One call of `Trainer.fit`."""

    def __init__(
        self,
        trainer: Trainer,
        *,
        model: nn.Module,
        settings: Settings,
        seed: int,
        label: str,
        observer: Observer | None,
        checkpoint: Path | None,
    ) -> None:
        self.trainer, self.model, self.settings, self.label = trainer, model, settings, label
        self.observer, self.checkpoint = observer, checkpoint
        self.batches = training_batches(
            trainer.data,
            settings.batch_size,
            seed=seed,
            augment=trainer.augment,
            channels_last=trainer.channels_last,
        )
        self.seed = seed
        self.optimizer = make_optimizer(
            settings.optimizer,
            model,
            lr=settings.lr_at(0, len(self.batches)),
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
        self.objective = Objective(
            trainer.task,
            trainer.device.type,
            trainer.bf16,
            settings.label_smoothing,
            settings.accumulate,
            trainer.teacher,
        )
        self.lead: Lead | None = None
        self.average = averaged(model, settings.average) if settings.average else None
        self.step = 0
        self.history: list[EpochRecord] = []
        self.losses: list[torch.Tensor] = []  # of the epoch in progress, up to the last look
        self.loss_sum = 0.0
        self.best: Tensors = {}
        self.seconds = 0.0  # spent in the epoch in progress before the last checkpoint
        self.saved_at = time.monotonic()

    def run(self) -> list[EpochRecord]:
        with self._led():
            self.objective.watch(self.model)
            try:
                return self._trained()
            finally:
                self.objective.close()

    @contextmanager
    def _led(self) -> Iterator[None]:
        """Let other processes take part, if there are any and they can."""
        trainer = self.trainer
        if trainer.team is None:
            yield
            return
        sizes = self.seed, self.settings.batch_size, tuple(trainer.augment), trainer.channels_last
        with trainer.team.leading(Work(self.objective, *sizes, trainer.sync_batch_norm), self.model) as lead:
            if isinstance(lead, str):
                trainer.progress(f"{self.label}: in one process, since {lead}", None)
            else:
                self.lead = lead
            yield

    def _trained(self) -> list[EpochRecord]:
        if self.observer is not None:
            self.observer.start(self.model, self.optimizer, len(self.batches))
        torch.manual_seed(self.seed)  # dropout and the like; a resumed run restores it below
        stopped = self._resume()
        self.model.train()
        while not stopped and (self.settings.epochs is None or len(self.history) < self.settings.epochs):
            stopped = self._epoch()
        if self.settings.keep == "best" and self.best:
            self.model.load_state_dict(self.best)
        elif self.average is not None:
            self.model.load_state_dict(self._judged.state_dict())
        return self.history

    @property
    def _judged(self) -> nn.Module:
        """The network that is evaluated: that of the averaged weights, where they are averaged."""
        return self.model if self.average is None else self.average.module

    def _epoch(self) -> bool:
        per_epoch = len(self.batches)
        epoch, first = divmod(self.step, per_epoch)
        begun = time.monotonic()
        for x, y in self.batches.epoch(epoch, first):
            stop = self._step(x, y)
            if stop:
                self._look()
                self._save(stopped=True)
                return True
            if self.step % _CHECK_EVERY == 0:
                self._look()
                self._report(begun)
            pausing = self.step % per_epoch and self.trainer.pause(self.step / per_epoch)
            if self.step % per_epoch and (pausing or self._due()):
                now = time.monotonic()
                self.seconds += now - begun
                begun = now
                self._save()
            if pausing:
                raise Paused(self.step / per_epoch)
        self._look()
        self._end_epoch(begun)
        if len(self.history) != self.settings.epochs and self.trainer.pause(float(len(self.history))):
            self._save()
            raise Paused(float(len(self.history)))
        return False

    def _step(self, x: torch.Tensor, y: torch.Tensor) -> bool:
        lr = self.settings.lr_at(self.step, len(self.batches))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        if self.lead is None:
            loss = self.objective.backward(self.model, x, y, share=1.0, least=len(x))
        else:
            loss = self.lead.backward(self.model, self.step, x, y)
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        if self.observer is not None:
            self.observer.after_backward()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.losses.append(loss)
        self.step += 1
        return self.observer.after_step() if self.observer is not None else False

    def _look(self) -> None:
        """Add the losses since the last look to the epoch's sum; stop if one is not a number."""
        if not self.losses:
            return
        values = torch.stack(self.losses).double().cpu()
        if not bool(values.isfinite().all()):
            bad = int((~values.isfinite()).nonzero()[0])
            step = self.step - len(values) + bad
            lr = self.settings.lr_at(step, len(self.batches))
            raise TrainingError(
                f"{self.label}: the loss is {float(values[bad])} at step {step + 1} (epoch "
                f"{step // len(self.batches) + 1}) with learning rate {lr:.4g}; try a smaller one"
            )
        for value in values.tolist():  # one by one: the sum must not depend on when checkpoints are written
            self.loss_sum += value
        self.losses.clear()

    def _end_epoch(self, begun: float) -> None:
        settings, validation = self.settings, self.trainer.data.validation
        measured = None
        if settings.evaluate and len(validation) > 0 and (self.trainer.metric is None or self.trainer.metric.by_split):
            measured = self.trainer.evaluate(self._judged, validation)
            task = self.trainer.task
            before = [value for record in self.history if (value := record.validation_metric) is not None]
            if settings.keep == "best" and task.improves(measured.value, on=task.best(before)):
                self.best = {name: value.clone() for name, value in self._judged.state_dict().items()}
        self.history.append(
            EpochRecord(
                epoch=len(self.history) + 1,
                loss=self.loss_sum / len(self.batches),
                validation_loss=measured.loss if measured else None,
                validation_accuracy=measured.accuracy if measured else None,
                lr=settings.lr_at(self.step - 1, len(self.batches)),
                seconds=self.seconds + time.monotonic() - begun,
                validation_metric=measured.value if measured else None,
            )
        )
        self.loss_sum, self.seconds = 0.0, 0.0
        self.trainer.on_epoch(self.label, self.history[-1])
        self._report(begun)
        if self._due() or len(self.history) == settings.epochs:
            self._save()

    def _report(self, begun: float) -> None:
        total = self.settings.epochs
        share = None if total is None else self.step / (total * len(self.batches))
        text = f"{self.label}: epoch {self.step / len(self.batches):.1f}" + (f"/{total}" if total else "")
        if self.history:
            last = self.history[-1]
            text += "" if last.loss is None else f"  loss {last.loss:.3f}"
            if last.validation_metric is not None:
                text += f"  validation {self.trainer.task.text(last.validation_metric)}"
        self.trainer.progress(text, share)

    def _due(self) -> bool:
        return self.checkpoint is not None and time.monotonic() - self.saved_at >= self.trainer.checkpoint_seconds

    def _save(self, stopped: bool = False) -> None:
        if self.checkpoint is None:
            return
        self._look()
        seen = Snapshot({}, {}) if self.observer is None else self.observer.state()
        tensors = {
            **named("model", self.model.state_dict()),
            **named("optimizer", state_tensors(self.optimizer, self.model)),
            **named("average", {} if self.average is None else self.average.state_dict()),
            **named("best", self.best),
            **named("observer", seen.tensors),
            "rng": torch.get_rng_state(),
        }
        if self.trainer.device.type == "cuda":
            tensors["rng_cuda"] = torch.cuda.get_rng_state(self.trainer.device)
        values = {
            "seed": self.seed,
            "step": self.step,
            "stopped": stopped,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
            "history": [asdict(record) for record in self.history],
            "observer": seen.values,
        }
        save_snapshot(self.checkpoint, Snapshot(tensors, values))
        self.saved_at = time.monotonic()

    def _resume(self) -> bool:
        """Load the checkpoint, if any; whether the observer had already ended training."""
        snapshot = load_snapshot(self.checkpoint) if self.checkpoint is not None else None
        if snapshot is None:
            return False
        values: dict[str, Any] = snapshot.values
        if self.observer is not None:
            self.observer.restore(Snapshot(snapshot.part("observer"), values["observer"]))
        self.model.load_state_dict(snapshot.part("model"))
        restore_state(self.optimizer, self.model, snapshot.part("optimizer"))
        if self.average is not None:
            self.average.load_state_dict(snapshot.part("average"))
        self.best = snapshot.part("best")
        self.step, self.loss_sum, self.seconds = values["step"], values["loss_sum"], values["seconds"]
        self.history = [EpochRecord(**record) for record in values["history"]]
        torch.set_rng_state(snapshot.tensors["rng"])
        if "rng_cuda" in snapshot.tensors and self.trainer.device.type == "cuda":
            torch.cuda.set_rng_state(snapshot.tensors["rng_cuda"], self.trainer.device)
        return bool(values["stopped"])
