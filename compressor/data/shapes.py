"""Circles, squares and triangles on noisy patterns, with the class of every pixel: images that are generated.

An image is a function of its part and its number: parts are disjoint draws, and every machine draws the same, as
nothing but whole numbers is calculated with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.data.config import SourceConfig
from compressor.data.dataset import DataSet, complete, divide
from compressor.data.draws import generator
from compressor.data.masks import MaskSplit
from compressor.data.pixels import with_channels
from compressor.errors import DataError

CLASSES = ("background", "circle", "square", "triangle")
TRAIN, TEST = 2000, 500  # images of the parts; data.limit asks for fewer or more to train on
DEFAULT_SIZE, LEAST_SIZE = 32, 16

_SHAPES = 3  # at most, per image
_NOISE = 20  # grey levels up or down
_CHUNK = 2**20  # pixels drawn at a time
# Lowest and highest of what is drawn once per image: two colours of the pattern, its slope (across, down, which
# way), its stripes' width in 1/32 of the side, and the number of shapes.
_SCENE = [(40, 150)] * 6 + [(0, 3), (1, 3), (0, 1), (3, 12), (1, _SHAPES)]
# And per shape: class, centre (down, right) and radius in 1/64 of the side, colour, its strong channel and how
# strong it is: there it is brighter than any background, so every shape can be seen.
_SHAPE = [(1, 3), (8, 56), (8, 56), (8, 16), (0, 255), (0, 255), (0, 255), (0, 2), (210, 255)]


def load(config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    """Draw `config.limit` images to train on (`TRAIN` by default) and `TEST` to test on.

    Raises:
        DataError: `config.image_size` is too small for shapes to differ.
    """
    side = config.image_size or DEFAULT_SIZE
    if side < LEAST_SIZE:
        raise DataError(f"data.image_size: {side} pixels are too few to distinguish shapes, {LEAST_SIZE} are enough")
    channels = config.channels or 3
    part = MaskSplit(draw("train", config.limit or TRAIN, side, channels).to(device))
    test = MaskSplit(draw("test", TEST, side, channels).to(device))
    return complete(config.name, (*divide(part, config, seed), test), CLASSES, seed)


def draw(part: str, count: int, side: int, channels: int = 3) -> Tensor:
    """Draw the first `count` images of a part.

    Args:
        part: its name; other names are other images.
        count: how many.
        side: of the images, in pixels.
        channels: 1 or 3.

    Returns:
        uint8 (`count`, `channels` + 1, `side`, `side`): the images' channels and the mask.
    """
    result = torch.empty(count, channels + 1, side, side, dtype=torch.uint8)
    chunk = max(1, _CHUNK // side**2)
    for first in range(0, count, chunk):
        numbers = range(first, min(first + chunk, count))
        images, masks = _render(*_draws(part, numbers, side), side)
        result[first : numbers.stop, :-1] = with_channels(images, channels)
        result[first : numbers.stop, -1] = masks
    return result


def _draws(part: str, numbers: range, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw scenes (B, ...), shapes (B, _SHAPES, ...) and noise (B, 3, side, side), all whole numbers."""
    lowest, highest = torch.tensor(_SCENE + _SHAPE * _SHAPES).unbind(1)
    found, noise = [], []
    for number in numbers:
        draws = generator("shapes", part, number)
        found.append(torch.randint(2**16, lowest.shape, generator=draws))
        noise.append(torch.randint(-_NOISE, _NOISE + 1, (3, side, side), generator=draws))
    values = lowest + (torch.stack(found) * (highest - lowest + 1) >> 16)
    scenes, shapes = torch.split(values, [len(_SCENE), len(_SHAPE) * _SHAPES], dim=1)
    return scenes, shapes.view(-1, _SHAPES, len(_SHAPE)), torch.stack(noise)


def _render(scenes: Tensor, shapes: Tensor, noise: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return uint8 images (B, 3, side, side) and masks (B, side, side)."""
    down, right = torch.arange(side)[:, None], torch.arange(side)[None, :]
    across, along, sign, stripe, count = scenes[:, 6:, None, None].unbind(1)
    place = across * right + along * down * (2 * sign - 1)
    second = (place * 32).div(stripe * side, rounding_mode="floor") % 2 == 1
    one, other = torch.split(scenes[:, :6, None, None], 3, dim=1)
    images = torch.where(second[:, None], other, one)
    masks = torch.zeros(len(scenes), side, side, dtype=torch.int64)
    for number, shape in enumerate(shapes.unbind(1)):  # later shapes lie on top
        kind, row, column, radius = shape[:, :4, None, None].unbind(1)
        inside = _inside(kind, down - row * side // 64, right - column * side // 64, radius * side // 64)
        inside &= number < count
        colour = shape[:, 4:7].scatter(1, shape[:, 7:8], shape[:, 8:9])[:, :, None, None]
        images = torch.where(inside[:, None], colour, images)
        masks = torch.where(inside, kind, masks)
    return (images + noise).clamp_(0, 255).to(torch.uint8), masks.to(torch.uint8)


def _inside(kind: Tensor, down: Tensor, right: Tensor, radius: Tensor) -> Tensor:
    """Return where a shape of the class `kind` covers the plane, bool (B, side, side); places from its centre."""
    circle = down.square() + right.square() <= radius.square()
    half = radius * 7 // 8
    square = (down.abs() <= half) & (right.abs() <= half)
    triangle = (down.abs() <= radius) & (2 * right.abs() <= down + radius)
    return torch.where(kind == 1, circle, torch.where(kind == 2, square, triangle))
