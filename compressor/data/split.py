"""One part of a data set: samples and their targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import torch
from torch import Tensor

IGNORED = -100  # a target that does not count: `ignore_index` of torch's cross-entropy


class Split(ABC):
    """Samples and targets of one part of a data set.

    Attributes:
        task: what networks learn of it: "classification", "segmentation" or "language".
        shape: of every input: (C, H, W) of images, (T,) of text.
        prefetch: how many batches a loader should fetch ahead on threads; 0 where fetching takes no time.
    """

    task: str = "classification"
    shape: tuple[int, ...]
    prefetch: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where `samples` are."""

    def samples(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs and targets at `indices`, int64 (B,), on the split's device."""
        raw = self.fetch(indices).to(self.device, non_blocking=True)
        return self.inputs(raw), self.targets(raw, indices.to(self.device))

    @abstractmethod
    def fetch(self, indices: Tensor) -> Tensor:
        """Return what is stored of the samples at `indices`, still wherever it was read to.

        Of images it is uint8 (B, C, H, W), with the mask as one channel more if there is one.
        Loaders call this on threads, and move the result in their own thread: a copy to a GPU belongs to the
        stream of the thread that goes on to use it.
        """

    @property
    def ahead(self) -> bool:
        """Whether a loader should ask for batches by `stream`, which works ahead."""
        return self.prefetch > 0

    def stream(self, picks: Sequence[Tensor], seeds: Sequence[int]) -> Iterator[Any]:
        """Fetch batches on threads, at most `prefetch` ahead of the one that is asked for.

        Args:
            picks: of each batch, int64 indices (B,) on the CPU.
            seeds: of each batch, where what loading it draws begins.
        """
        waiting: deque[Future[Any]] = deque()
        # Two threads: while the last images of one batch are read, the next batch has already begun.
        with ThreadPoolExecutor(2, thread_name_prefix="compressor-fetch") as pool:
            try:
                for pick in picks:
                    waiting.append(pool.submit(self.fetch, pick))
                    if len(waiting) > self.prefetch:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                # Whoever stops early must not wait for batches that nobody will see.
                for future in waiting:
                    future.cancel()

    @abstractmethod
    def inputs(self, raw: Tensor) -> Tensor:
        """Return the inputs in what `fetch` gave: uint8 images (B, C, H, W) or int64 tokens (B, T)."""

    @abstractmethod
    def targets(self, raw: Tensor, indices: Tensor) -> Tensor:
        """Return the int64 targets that belong to what `fetch` gave for `indices`; `IGNORED` ones do not count."""

    @abstractmethod
    def target_range(self) -> tuple[int, int] | None:
        """Return the lowest and the highest target that counts; None if there is none, or only files know."""

    @abstractmethod
    def subset(self, indices: Tensor) -> Self:
        """Return a split of the samples at `indices`, int64 (K,), in that order."""


class LabelledSplit(Split):
    """Images with one class each.

    Args:
        labels: int64 class numbers (N,); their device is the split's.
        count: how many images there are.

    Attributes:
        labels: as given.
    """

    def __init__(self, labels: Tensor, count: int) -> None:
        if labels.dtype != torch.int64 or labels.shape != (count,):
            raise ValueError(f"labels must be int64 ({count},), not {labels.dtype} {tuple(labels.shape)}")
        self.labels = labels

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def device(self) -> torch.device:
        """Where `labels` are, and images once they are fetched."""
        return self.labels.device

    def inputs(self, raw: Tensor) -> Tensor:
        """Return the images as they are."""
        return raw

    def targets(self, raw: Tensor, indices: Tensor) -> Tensor:
        """Return the labels (B,) at `indices`."""
        return self.labels.index_select(0, indices)

    def target_range(self) -> tuple[int, int] | None:
        """Return the lowest and the highest label; None if there is no image."""
        return (int(self.labels.min()), int(self.labels.max())) if len(self) else None


class TensorSplit(LabelledSplit):
    """A split that is one uint8 tensor on the device.

    Args:
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,) on the same device.
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.dim() != 4:
            raise ValueError(f"pixels must be uint8 (N, C, H, W), not {pixels.dtype} {tuple(pixels.shape)}")
        super().__init__(labels, len(pixels))
        if labels.device != pixels.device:
            raise ValueError(f"pixels are on {pixels.device}, labels on {labels.device}")
        self.pixels = pixels
        self.shape = tuple(pixels.shape[1:])

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` as uint8 (B, C, H, W) on the device."""
        return self.pixels.index_select(0, indices.to(self.device))

    def subset(self, indices: Tensor) -> Self:
        """Return a split with copies of the images at `indices`."""
        indices = indices.to(self.device)
        return type(self)(self.pixels.index_select(0, indices), self.labels.index_select(0, indices))
