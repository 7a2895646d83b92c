"""Image files to pixels: on all cores, at once if the result fits into memory, else when they are asked for."""

from __future__ import annotations

import functools
import math
import os
import struct
import zlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from compressor.data.split import Split
from compressor.errors import DataError

GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")
# What decoders are known to raise on files that are broken, or so large that they look like an attack.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

_MOST_PIXELS = 89_478_485  # of one image: Pillow warns beyond, and 0.3 GB are decoded


@dataclass(frozen=True)
class ImageFormat:
    """How the images of a folder are decoded.

    Attributes:
        shape: (C, H, W) of the result.
        resize: bring images of another size to this one, stretching them if their sides differ in proportion;
            otherwise such images are refused.
        grey: bring colour images to grey if C is 1; otherwise such images are refused.
    """

    shape: tuple[int, int, int]
    resize: bool
    grey: bool


class FileSplit(Split):
    """A split whose samples stay in their files until they are asked for."""

    prefetch = 3

    @property
    @abstractmethod
    def sample_bytes(self) -> int:
        """Size of one decoded sample."""

    @abstractmethod
    def in_memory(self) -> Split:
        """Decode every sample, into one tensor on the device."""


def settle(splits: Sequence[FileSplit], memory_gib: float) -> list[Split]:
    """Decode the splits into memory if they fit together; otherwise return them as they are."""
    needed = sum(len(split) * split.sample_bytes for split in splits)
    return [split.in_memory() if needed <= memory_gib * 2**30 else split for split in splits]


def decode(files: Sequence[str], form: ImageFormat, *, pin_memory: bool = False) -> Tensor:
    """Decode image files on all cores.

    Returns:
        uint8 (N, C, H, W) in CPU memory.

    Raises:
        DataError: names the first file that is broken or not of the format.
    """
    return decode_rows(len(files), form.shape, lambda row: decode_image(files[row], form), pin_memory=pin_memory)


def decode_rows(
    count: int, shape: tuple[int, ...], decode_row: Callable[[int], NDArray[np.uint8]], *, pin_memory: bool = False
) -> Tensor:
    """Decode `count` samples on all cores.

    Args:
        count: how many.
        shape: of each.
        decode_row: gives the sample of a number, uint8 `shape`.
        pin_memory: lets the copy to a GPU run beside its work.

    Returns:
        uint8 (`count`, *`shape`) in CPU memory.
    """
    result = torch.empty((count, *shape), dtype=torch.uint8, pin_memory=pin_memory)
    rows = result.numpy()
    # Some files per task: handing over each single small file would take as long as decoding it.
    step = max(1, min(64, count // (4 * _cores())))

    def decode_some(first: int) -> None:
        for row in range(first, min(first + step, count)):
            rows[row] = decode_row(row)

    for _ in _decoders().map(decode_some, range(0, count, step)):
        pass
    return result


def decode_image(file: str, form: ImageFormat) -> NDArray[np.uint8]:
    """Decode one file to uint8 (C, H, W).

    Raises:
        DataError: the file is broken or not of the format.
    """
    channels, height, width = form.shape
    try:
        with Image.open(file) as opened:
            _check_image(opened, file, form)
            image = _with_channels(opened, channels)
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except BROKEN as error:
        raise DataError(f"{file}: cannot be decoded as an image: {error}") from error
    return pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1)


def _check_image(image: Image.Image, file: str, form: ImageFormat) -> None:
    channels, height, width = form.shape
    if math.prod(image.size) > _MOST_PIXELS:
        raise DataError(
            f"{file}: has {image.size[0]}x{image.size[1]} pixels, more than {_MOST_PIXELS:,}; make it smaller"
        )
    if image.mode not in GREY_MODES + _COLOUR_MODES:
        raise DataError(f"{file}: its mode {image.mode!r} has more than 8 bits per channel or no known colours")
    if channels == 1 and not form.grey and image.mode not in GREY_MODES:
        raise DataError(f"{file}: is in colour, the first image is grey; set `data.channels` to 1 or 3")
    if not form.resize and image.size != (width, height):
        raise DataError(
            f"{file}: has {image.size[0]}x{image.size[1]} pixels, the first image {width}x{height}; "
            "set `data.image_size` to resize all"
        )


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # on the direct way PIL warns
    return image if image.mode == mode else image.convert(mode)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _decoders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="compressor-decode")
