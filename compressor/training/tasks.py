"""What networks are trained and judged by: classification, segmentation (mean IoU), language (perplexity)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from compressor.data import IGNORED, DataSet
from compressor.errors import DataError, not_one_of

_AUXILIARY = 0.3  # weight of an auxiliary head's loss
_MOST_LOGITS = 2**26  # of a batch of evaluation: 256 MiB of float32
_MOST_LOSS = 700.0  # whose exponential is still a float


@dataclass(frozen=True)
class Evaluation:
    """How good a network is on a split.

    Attributes:
        loss: mean cross-entropy (nats) of the targets that count
        accuracy: share of right classes, pixels or next tokens among those that count, 0 to 1
        samples: images, or sequences
        metric: name of the task's headline metric
        value: of that metric; accuracy and mIoU 0 to 1

    A function of the user's gives the value alone.
    """

    loss: float | None
    accuracy: float | None
    samples: int
    metric: str
    value: float


@dataclass(frozen=True)
class Task:
    """One kind of task; targets of `IGNORED` never count.

    Attributes:
        name: classification: logits (N, classes), targets (N,). segmentation: logits (N, classes, H, W), targets
            (N, H, W). language: logits (N, T, classes), targets (N, T), the next tokens. own: known to functions of the
            user's alone
        metric: the number that networks are compared by: accuracy, mIoU, perplexity, or the user's own
        better: which way is good
    """

    name: Literal["classification", "segmentation", "language", "own"]
    metric: str
    better: Literal["higher", "lower"]

    def loss(self, output: Tensor | tuple[Tensor | None, ...], y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy of a network's output in training.

        Args:
            output: logits; those of auxiliary heads behind them count 0.3 (Szegedy et al. 2015, section 5)
            y: targets
            smoothing: share of the label spread over all classes
        """
        if self.name == "own":
            raise DataError("data: no loss is known for a network with inputs of its own; give train.function")
        heads = [output] if isinstance(output, Tensor) else [head for head in output if head is not None]
        pairs = [self.pair(head, y) for head in heads]
        losses = [nn.functional.cross_entropy(*pair, label_smoothing=smoothing) for pair in pairs]
        return losses[0] + _AUXILIARY * torch.stack(losses[1:]).sum() if losses[1:] else losses[0]

    def tally(self) -> Tally:
        """An empty count."""
        return Tally(self)

    def improves(self, value: float, on: float | None) -> bool:
        """Whether a value of the metric is better than another one; any number is better than None."""
        if not math.isfinite(value):
            return False
        return on is None or (value > on if self.better == "higher" else value < on)

    def best(self, values: list[float]) -> float | None:
        """The best of some values of the metric; None if there are none."""
        found = [value for value in values if math.isfinite(value)]
        return (max if self.better == "higher" else min)(found, default=None)

    def text(self, value: float) -> str:
        """A value of the metric in words, such as "93.1 %", "mIoU 61.0 %" or "perplexity 98.4"."""
        if self.metric == "perplexity":
            return f"perplexity {value:.1f}"
        if self.metric not in ("accuracy", "agreement", "mIoU"):
            return f"{self.metric} {value:.4g}"
        return f"{'' if self.metric == 'accuracy' else self.metric + ' '}{100 * value:.1f} %"

    def batch(self, classes: int, input_shape: tuple[int, ...], most: int) -> int:
        """Samples of a batch of evaluation: as many as 256 MiB hold the logits of, at least 1 and at most `most`."""
        if self.name == "own":
            return most
        places = {"classification": 1, "segmentation": math.prod(input_shape[1:]), "language": math.prod(input_shape)}
        return max(1, min(most, _MOST_LOGITS // (classes * places[self.name])))

    def pair(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, classes, ...) in float32 and targets (N, ...), as torch's cross-entropy takes them."""
        if self.name == "language":
            return logits.float().flatten(0, 1), y.flatten()
        return logits.float(), y


class Tally:
    """Counts over the batches of a split, for torch's logits and ONNX Runtime's alike.

    mIoU is that of Long et al. 2015 ("Fully Convolutional Networks for Semantic Segmentation", section 5): of each
    class the intersection over the union of all pixels of the split together, then the mean over classes. A class
    that occurs neither among the targets that count nor among their predictions has no IoU and is left out.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._loss: Tensor | float = 0.0
        self._right: Tensor | int = 0
        self._counted: Tensor | int = 0
        self._confusion: Tensor | int = 0  # (targets, predictions) of pixels
        self._samples = 0

    def add(self, logits: Tensor, y: Tensor) -> None:
        """Count a batch: logits and targets of the shapes that `Task` names, on the logits' device."""
        scores, targets = self._task.pair(logits, y.to(logits.device))
        found, counts = scores.argmax(1), targets != IGNORED
        self._loss += nn.functional.cross_entropy(scores, targets, reduction="sum").double()
        self._right += (found == targets).sum()
        self._counted += counts.sum()
        self._samples += len(y)
        if self._task.metric == "mIoU":
            classes = scores.shape[1]
            cells = targets[counts] * classes + found[counts]
            self._confusion += torch.bincount(cells, minlength=classes**2).view(classes, classes)

    def evaluation(self) -> Evaluation:
        """What was counted.

        Raises:
            DataError: no target counted
        """
        counted = int(self._counted)
        if not counted:
            raise DataError(f"data: of {self._samples} samples to score no target counts")
        loss, accuracy = float(self._loss) / counted, int(self._right) / counted
        value: dict[str, float] = {
            "accuracy": accuracy,
            "agreement": accuracy,  # the labels are another network's
            "mIoU": self._mean_iou(),
            "perplexity": math.exp(min(loss, _MOST_LOSS)),
        }
        return Evaluation(loss, accuracy, self._samples, self._task.metric, value[self._task.metric])

    def _mean_iou(self) -> float:
        if not isinstance(self._confusion, Tensor):
            return 0.0
        both = self._confusion.diag().double()
        either = self._confusion.sum(0) + self._confusion.sum(1) - both
        return float((both[either > 0] / either[either > 0]).mean())


TASKS: dict[str, Task] = {
    "classification": Task("classification", "accuracy", "higher"),
    "segmentation": Task("segmentation", "mIoU", "higher"),
    "language": Task("language", "perplexity", "lower"),
    "own": Task("own", "metric", "higher"),
}


def task_of(data: DataSet) -> Task:
    """The task of a data set, with the metric of the user's if there is one.

    Raises:
        DataError: there is none of that name
    """
    if data.task not in TASKS:
        raise DataError(f"data: task {not_one_of(data.task, TASKS)}")
    task = TASKS[data.task]
    return task if data.metric is None else replace(task, metric=data.metric[0], better=data.metric[1])
