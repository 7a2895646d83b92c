"""What several processes that train one network agree on. `compressor.training.distributed` is how they talk."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from compressor.training.objective import Objective


@dataclass(frozen=True)
class Work:
    """What a process must know to compute gradients along with the first, beside the network and the data.

    Attributes:
        objective: what is minimised
        seed: of data order and augmentation
        batch_size: of all processes together
        augment: random changes of training images
        channels_last: memory format of images
        sync_batch_norm: batch-norms see the samples of all processes
    """

    objective: Objective
    seed: int
    batch_size: int
    augment: tuple[str, ...]
    channels_last: bool
    sync_batch_norm: bool


class Lead(Protocol):
    """Process 0 of a training that others take part in."""

    def backward(self, model: nn.Module, step: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Have all processes compute the gradients of a batch; the mean loss of all its samples.

        Args:
            model: of any shape; the others get it as it is now
            step: number of the batch
            x: all samples of the batch
            y: their targets

        Raises:
            UnavailableError: another process has ended, or cannot do it
        """


class Sharing(Protocol):
    """Processes that train one network together."""

    def leading(self, work: Work, model: nn.Module) -> AbstractContextManager[Lead | str]:
        """Let the other processes take part in a training; gives why they cannot, if that is so."""
