"""What training minimises, and its gradients of one batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from compressor.data import IGNORED
from compressor.training.distillation import Attention, Teacher
from compressor.training.tasks import Task


@dataclass
class Objective:
    """The loss of a task, with what a teacher adds.

    Attributes:
        task: of the data set
        device: type of it, such as cuda
        bf16: run the forward pass in bfloat16 (autocast)
        label_smoothing: share of the label spread over all classes
        accumulate: parts into which a batch is divided, whose gradients are added up
        teacher: a trained network that is learnt from beside the labels
    """

    task: Task
    device: str
    bf16: bool
    label_smoothing: float
    accumulate: int
    teacher: Teacher | None
    _attention: Attention | None = field(default=None, init=False)

    def watch(self, model: nn.Module) -> None:
        """Compare a network's maps with the teacher's from now on, where the recipe asks for that."""
        self._attention = None if self.teacher is None else self.teacher.watching(model)

    def close(self) -> None:
        """Stop watching."""
        if self._attention is not None:
            self._attention.close()

    def weight_of(self, y: torch.Tensor, whole: torch.Tensor) -> float:
        """What the mean loss of some samples counts in that of a batch: the share of its targets that count.

        Args:
            y: targets of the samples
            whole: of the batch
        """
        some, all_of_them = (len(one) if one.is_floating_point() else int((one != IGNORED).sum()) for one in (y, whole))
        return some / max(1, all_of_them)

    def backward(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, share: float, least: int) -> torch.Tensor:
        """Add up the gradients of a batch, part by part; its mean loss, times `share`, as its gradients are.

        Args:
            model: to train
            x: samples
            y: targets
            share: what these samples count in a larger batch, see `weight_of`
            least: samples that every process has of it: all of them divide theirs into as many parts
        """
        parts = max(1, min(self.accumulate, least // 2))  # batch-norm needs two images
        losses = []
        for some, targets in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
            weight = share * (self.weight_of(targets, y) if parts > 1 else 1.0)
            loss = self._loss(model, some, targets, counts=weight > 0) * weight
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return losses[0] if parts == 1 else torch.stack(losses).sum()

    def _loss(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, counts: bool) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            output = model(x)
            taught = None if self.teacher is None else self.teacher.outputs(x)
        if not counts:  # a mean over no targets is not a number
            every = [output] if isinstance(output, torch.Tensor) else [one for one in output if one is not None]
            loss = torch.stack([one.sum() * 0.0 for one in every]).sum()
        elif self.teacher is None or taught is None:
            loss = self.task.loss(output, y, self.label_smoothing)
        else:
            loss = self.teacher.loss(self.task, output, taught, y, self.label_smoothing)
        if self.teacher is None or self._attention is None:
            return loss
        return loss + self.teacher.attention * self._attention.loss()
