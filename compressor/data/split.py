"""One part of a data set: images and their labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor


class Split(ABC):
    """Images and labels of one part of a data set.

    Attributes:
        labels: int64 class numbers (N,), on the split's device.
        shape: (C, H, W) of every image.
        prefetch: how many batches a loader should fetch ahead on threads; 0 where fetching takes no time.
    """

    labels: Tensor
    shape: tuple[int, int, int]
    prefetch: int = 0

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def device(self) -> torch.device:
        """Where `images` and `labels` are."""
        return self.labels.device

    def images(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, int64 (B,), as uint8 (B, C, H, W) on the split's device."""
        return self.fetch(indices).to(self.device, non_blocking=True)

    @abstractmethod
    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` as uint8 (B, C, H, W), still wherever they were read to.

        Loaders call this on threads, and move the result in their own thread: a copy to a GPU belongs to the
        stream of the thread that goes on to use it.
        """

    @abstractmethod
    def subset(self, indices: Tensor) -> Self:
        """Return a split of the images at `indices`, int64 (K,), in that order."""


class TensorSplit(Split):
    """A split that is one uint8 tensor on the device.

    Args:
        pixels: uint8 (N, C, H, W).
        labels: int64 (N,) on the same device.
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.dim() != 4:
            raise ValueError(f"pixels must be uint8 (N, C, H, W), not {pixels.dtype} {tuple(pixels.shape)}")
        if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
            raise ValueError(f"labels must be int64 ({len(pixels)},), not {labels.dtype} {tuple(labels.shape)}")
        if labels.device != pixels.device:
            raise ValueError(f"pixels are on {pixels.device}, labels on {labels.device}")
        self.pixels = pixels
        self.labels = labels
        _, channels, height, width = pixels.shape
        self.shape = (channels, height, width)

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` as uint8 (B, C, H, W) on the device."""
        return self.pixels.index_select(0, indices.to(self.device))

    def subset(self, indices: Tensor) -> Self:
        """Return a split with copies of the images at `indices`."""
        indices = indices.to(self.device)
        return type(self)(self.pixels.index_select(0, indices), self.labels.index_select(0, indices))
