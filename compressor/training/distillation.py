"""Knowledge distillation: a network learns from the outputs of a trained one.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.data import IGNORED
from compressor.training.tasks import Task


@dataclass(frozen=True)
class Teacher:
    """A trained network that another one learns from.

    Attributes:
        model: gives logits of the same shape; in evaluation mode, on the device of training
        temperature: T, by which the logits of both are divided
        weight: share of the soft targets in the loss; the labels have the rest
    """

    model: nn.Module
    temperature: float
    weight: float

    def outputs(self, x: Tensor) -> Tensor:
        """The teacher's logits of a batch, without gradients."""
        with torch.no_grad():
            logits: Tensor = self.model(x)
        return logits

    def loss(
        self, task: Task, output: Tensor | tuple[Tensor | None, ...], taught: Tensor, y: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """(1 - w)·(the task's loss) + w·T²·KL(teacher ‖ network) at temperature T (Hinton et al. 2015, section 2).

        T² keeps the gradients of the soft targets at the size of those of the labels. Samples, pixels or tokens whose
        target does not count do not count here either; auxiliary heads learn from the labels alone.

        Args:
            task: of the network
            output: of the network in training
            taught: the teacher's logits
            y: targets
            smoothing: of the labels
        """
        own = task.loss(output, y, smoothing)
        head = output if isinstance(output, Tensor) else output[0]
        assert head is not None
        logits, targets = task.pair(head, y)
        soft, _ = task.pair(taught.to(head.device), y)
        mixed = targets.is_floating_point()  # shares of classes: all samples count
        counts = torch.ones_like(targets[:, 0]) if mixed else (targets != IGNORED).to(logits.dtype)
        log_p, log_q = (nn.functional.log_softmax(one / self.temperature, dim=1) for one in (soft, logits))
        divergence = (log_p.exp() * (log_p - log_q)).sum(1)
        mean = (divergence * counts).sum() / counts.sum().clamp_min(1)
        return (1 - self.weight) * own + self.weight * self.temperature**2 * mean
