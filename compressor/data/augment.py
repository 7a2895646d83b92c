"""Random changes to a batch of images, every image its own draw.

    flip      the mirror image (left and right), for half of the images
    crop      a window of the image's own size, anywhere in the image padded by reflection by 1/8 of each side
    cutout    a square of a quarter of the shorter side, around a random pixel, set to the mean colour
    randaugment  two of torchvision's RandAugment operations at its default strength (Cubuk et al. 2020)
    mixup     the batch blended with itself in another order, and so the labels (Zhang et al. 2018; α 0.2)
    cutmix    likewise, a rectangle in place of a blend (Yun et al. 2019; α 1); with mixup, one of the two each time

Draws come from a CPU generator, so they are the same on every device; they are moved there in one copy.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Generator, Tensor

from compressor.data.draws import drawing_from
from compressor.data.masks import UNLABELLED

MIXED = ("mixup", "cutmix")
AUGMENTATIONS = ("crop", "cutout", "flip", "randaugment", *MIXED)
LABELLED_ONLY = ("randaugment", *MIXED)  # those that do not go with a class for each pixel


def move(images: Tensor, names: Collection[str], generator: Generator, *, masked: bool = False) -> Tensor:
    """Crop and flip, as far as `names` asks for it.

    Args:
        images: (B, C, H, W) of any type.
        names: augmentations; others than "crop" and "flip" are not looked at.
        generator: on the CPU.
        masked: the last channel is a mask; it is `UNLABELLED` where a pixel comes from outside of the image.

    Returns:
        (B, C, H, W) of the same type; every pixel is one of the same image's.
    """
    if not {"crop", "flip"} & set(names):
        return images
    batch, channels, height, width = images.shape
    down, right, mirrored = _draw(batch, height, width, names, generator).to(images.device, non_blocking=True)
    rows = torch.arange(height, device=images.device) + down
    columns = torch.arange(width, device=images.device) + right
    columns = torch.where(mirrored == 1, columns.flip(1), columns)
    # Padding is never built: where a pixel comes from is arithmetic, and one gather fetches it.
    sources = (_reflect(rows, height)[:, :, None] * width + _reflect(columns, width)[:, None, :]).view(batch, 1, -1)
    moved = images.flatten(2).gather(2, sources.expand(-1, channels, -1)).view(images.shape)
    if masked:
        inside = _within(rows, 0, height)[:, :, None] & _within(columns, 0, width)[:, None, :]
        moved[:, -1].masked_fill_(~inside, UNLABELLED)
    return moved


def cut_out(images: Tensor, generator: Generator) -> Tensor:
    """Set a square of each normalised image to 0, which is the mean colour.

    The square is centred on any pixel and reaches over the border there: borders are hidden nearly as often.

    Args:
        images: float (B, C, H, W).
        generator: on the CPU.
    """
    batch, _, height, width = images.shape
    side = max(1, min(height, width) // 4)
    centres = torch.rand(batch, 2, generator=generator) * torch.tensor([height, width])
    first = (centres.long() - side // 2).to(images.device, non_blocking=True)
    hidden_rows = _within(torch.arange(height, device=images.device), first[:, :1], side)
    hidden_columns = _within(torch.arange(width, device=images.device), first[:, 1:], side)
    return images.masked_fill(hidden_rows[:, None, :, None] & hidden_columns[:, None, None, :], 0)


def rand_augment(images: Tensor, generator: Generator) -> Tensor:
    """Two random operations of torchvision's RandAugment on every image, uint8 (B, C, H, W)."""
    from torchvision.transforms.v2 import RandAugment

    change = RandAugment()
    with drawing_from(generator):
        return torch.stack([change(image) for image in images])


def mix(
    images: Tensor, labels: Tensor, names: Collection[str], classes: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix a batch with itself, if `names` asks for it.

    Args:
        images: float (B, C, H, W).
        labels: int64 (B,).
        names: augmentations; others than "mixup" and "cutmix" are not looked at.
        classes: how many there are.
        generator: on the CPU.

    Returns:
        images, and shares of the classes (B, classes); both as they were if nothing is mixed.
    """
    asked = [name for name in MIXED if name in names]
    if not asked:
        return images, labels
    from torchvision.transforms.v2 import CutMix, MixUp

    with drawing_from(generator):
        chosen = asked[int(torch.randint(len(asked), ()))]
        mixing = MixUp(alpha=0.2, num_classes=classes) if chosen == "mixup" else CutMix(num_classes=classes)
        mixed, shares = mixing(images, labels)
    return mixed, shares


def _draw(batch: int, height: int, width: int, names: Collection[str], generator: Generator) -> Tensor:
    """Draw each image's shift down, shift right and whether it is mirrored, (3, B, 1)."""
    draws = torch.zeros(3, batch, 1, dtype=torch.int64)
    if "crop" in names:
        for draw, side in ((draws[0], height), (draws[1], width)):
            draw.random_(-(side // 8), side // 8 + 1, generator=generator)
    if "flip" in names:
        draws[2].random_(0, 2, generator=generator)
    return draws


def _reflect(places: Tensor, size: int) -> Tensor:
    # ... 2 1 | 0 1 2 ... n-1 | n-2 n-3 ...: the edge itself is not repeated.
    last = size - 1
    return last - (last - places.abs()).abs()


def _within(places: Tensor, first: Tensor | int, size: int) -> Tensor:
    return (places >= first) & (places < first + size)
