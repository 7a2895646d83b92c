"""Images with a class for every pixel.

Image and mask are stored as one block of planes, so that whatever moves the pixels of an image moves its mask.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from compressor.data.split import IGNORED, Split

UNLABELLED = 255  # in a stored mask: the pixel has no class (VOC's own number for it)


class MaskedSplit(Split):
    """Images (C, H, W) and their masks (H, W); what is fetched has the mask as its last channel.

    Args:
        shape: (C, H, W) of the images.
    """

    task = "segmentation"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def inputs(self, raw: Tensor) -> Tensor:
        """Return the images, uint8 (B, C, H, W)."""
        return raw[:, :-1]

    def targets(self, raw: Tensor, indices: Tensor) -> Tensor:
        """Return the class of every pixel, int64 (B, H, W), `IGNORED` where it has none."""
        mask = raw[:, -1].long()
        return mask.masked_fill_(mask == UNLABELLED, IGNORED)


class MaskSplit(MaskedSplit):
    """A split that is one uint8 tensor on the device.

    Args:
        planes: uint8 (N, C + 1, H, W): the images' channels, then the mask, `UNLABELLED` where it says nothing.
    """

    def __init__(self, planes: Tensor) -> None:
        if planes.dtype != torch.uint8 or planes.dim() != 4 or planes.shape[1] < 2:
            raise ValueError(f"planes must be uint8 (N, C + 1, H, W), not {planes.dtype} {tuple(planes.shape)}")
        _, channels, height, width = planes.shape
        super().__init__((channels - 1, height, width))
        self.planes = planes

    def __len__(self) -> int:
        return self.planes.shape[0]

    @property
    def device(self) -> torch.device:
        """Where `planes` are."""
        return self.planes.device

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the planes at `indices`, uint8 (B, C + 1, H, W) on the device."""
        return self.planes.index_select(0, indices.to(self.device))

    def target_range(self) -> tuple[int, int] | None:
        """Return the lowest and the highest class number; None if no pixel has a class."""
        present = torch.bincount(self.planes[:, -1].flatten(), minlength=256)[:UNLABELLED].nonzero()
        return (int(present.min()), int(present.max())) if len(present) else None

    def subset(self, indices: Tensor) -> Self:
        """Return a split with copies of the images and masks at `indices`."""
        return type(self)(self.planes.index_select(0, indices.to(self.device)))
