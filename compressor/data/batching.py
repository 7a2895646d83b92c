"""What walks through a split in batches have in common: the order of an epoch, and fetching ahead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from compressor.data.draws import generator, number_of
from compressor.data.split import Split
from compressor.errors import DataError


class TrainingBatches(ABC):
    """Batches of a split for training, without state: batch i of epoch e depends on (seed, e, i) alone.

    So training resumes anywhere with the data it would have seen, and two runs of one seed see the same.

    Args:
        split: samples to walk.
        batch_size: samples per batch.
        seed: of the order and of whatever else is drawn.
        drop_last: leave out the last batch of an epoch if it is smaller than the others. A split smaller than
            one batch is still given, as one smaller batch.

    Raises:
        DataError: the split is empty, or the batch size below 1.
    """

    def __init__(self, split: Split, batch_size: int, *, seed: int, drop_last: bool = True) -> None:
        if batch_size < 1:
            raise DataError(f"batch size: {batch_size!r} is not a number of at least 1")
        if len(split) == 0:
            raise DataError("there is nothing to make batches of: the split is empty")
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self._samples = len(split)

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(self._samples, self.batch_size)
        return max(1, whole if self.drop_last else whole + (rest > 0))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over one epoch, from batch `start` on.

        Returns:
            iterator over (inputs, int64 targets) on the split's device; see the task's class for their shapes.

        Raises:
            DataError: `start` is not in 0..len(self).
        """
        if not 0 <= start <= len(self):
            raise DataError(f"batch {start} of epoch {epoch} is not in 0..{len(self)}")
        order = torch.randperm(self._samples, generator=generator("order", self.seed, epoch))
        return self._walk(order, epoch, range(start, len(self)))

    @abstractmethod
    def _walk(self, order: Tensor, epoch: int, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches `numbers` of an epoch that sees the samples in `order`, int64 (N,)."""


def batches_of(
    split: Split, order: Tensor, batch_size: int, numbers: range, key: tuple[object, ...] = ()
) -> Iterator[tuple[Any, Tensor]]:
    """Iterate over what is stored of some batches, and its int64 indices (B,), on the split's device.

    Args:
        split: samples to fetch.
        order: int64 (N,) on the CPU.
        batch_size: indices per batch.
        numbers: of the batches.
        key: with the number of a batch it decides what loading it draws.
    """
    placed = order.to(split.device)  # once for all batches: each such copy waits for the device to be idle
    picks = [slice(i * batch_size, (i + 1) * batch_size) for i in numbers]
    if split.ahead:
        seeds = [number_of("loading", *key, number) for number in numbers]
        found = split.stream([order[pick] for pick in picks], seeds)
    else:
        found = (split.fetch(placed[pick]) for pick in picks)
    for pick, raw in zip(picks, found, strict=True):
        yield raw.to(split.device, non_blocking=True), placed[pick]
