"""Folders of images, `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`): torchvision's ImageFolder.

Small folders are decoded once, into memory; larger ones image by image, when they are asked for.
"""

from __future__ import annotations

import functools
import math
import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from compressor.data.config import SourceConfig, data_folder
from compressor.data.dataset import DataSet, complete, divide
from compressor.data.split import Split, TensorSplit
from compressor.errors import DataError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")
# What decoders are known to raise on files that are broken, or so large that they look like an attack.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


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


class FolderSplit(Split):
    """A split whose images stay in their files until they are asked for.

    Args:
        files: one per image.
        labels: int64 (N,); its device is the split's device.
        form: how to decode the files.
    """

    prefetch = 3

    def __init__(self, files: Sequence[str], labels: Tensor, form: ImageFormat) -> None:
        if labels.dtype != torch.int64 or labels.shape != (len(files),):
            raise ValueError(f"labels must be int64 ({len(files)},), not {labels.dtype} {tuple(labels.shape)}")
        self.files = tuple(files)
        self.labels = labels
        self.form = form
        self.shape = form.shape

    def fetch(self, indices: Tensor) -> Tensor:
        """Decode the images at `indices` to uint8 (B, C, H, W) in CPU memory."""
        files = [self.files[i] for i in indices.tolist()]
        # Pinned memory lets the copy to a GPU run beside its work.
        return decode(files, self.form, pin_memory=self.device.type == "cuda")

    def subset(self, indices: Tensor) -> Self:
        """Return a split of the files at `indices`; nothing is decoded."""
        files = [self.files[i] for i in indices.tolist()]
        return type(self)(files, self.labels.index_select(0, indices.to(self.device)), self.form)

    def in_memory(self) -> TensorSplit:
        """Decode every image, into one tensor on the device."""
        return TensorSplit(decode(self.files, self.form).to(self.device), self.labels)


def load(config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    """Load the image folder `config.path`.

    Raises:
        DataError: a folder is missing or empty, train and test differ in classes, an image is broken, or its
            size is not the first one's while `config.image_size` is None.
    """
    root = data_folder(config)
    train_folder, test_folder = _part_folder(root, "train"), _part_folder(root, "test", "val")
    class_names = _class_names(train_folder)
    _check_same_classes(class_names, train_folder, test_folder)
    files, labels = _list_images(train_folder, class_names)
    form = _image_format(files[0], config)
    part = FolderSplit(files, labels.to(device), form)
    files, labels = _list_images(test_folder, class_names)
    test = FolderSplit(files, labels.to(device), form)
    # Divided before anything is decoded: images that a limit leaves out cost nothing.
    train, validation, test_split = _settle([*divide(part, config, seed), test], config.memory_gib)
    return complete(config.name, (train, validation, test_split), class_names, seed)


def decode(files: Sequence[str], form: ImageFormat, *, pin_memory: bool = False) -> Tensor:
    """Decode image files on all cores.

    Returns:
        uint8 (N, C, H, W) in CPU memory.

    Raises:
        DataError: names the first file that is broken or not of the format.
    """
    result = torch.empty((len(files), *form.shape), dtype=torch.uint8, pin_memory=pin_memory)
    rows = result.numpy()
    # Some files per task: handing over each single small file would take as long as decoding it.
    step = max(1, min(64, len(files) // (4 * _cores())))

    def decode_some(first: int) -> None:
        for row in range(first, min(first + step, len(files))):
            rows[row] = _decode_one(files[row], form)

    for _ in _decoders().map(decode_some, range(0, len(files), step)):
        pass
    return result


def _decode_one(file: str, form: ImageFormat) -> NDArray[np.uint8]:
    """Decode one file to uint8 (C, H, W)."""
    channels, height, width = form.shape
    try:
        with Image.open(file) as opened:
            _check_image(opened, file, form)
            image = _with_channels(opened, channels)
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except _BROKEN as error:
        raise DataError(f"{file}: cannot be decoded as an image: {error}") from error
    return pixels[np.newaxis] if channels == 1 else pixels.transpose(2, 0, 1)


def _check_image(image: Image.Image, file: str, form: ImageFormat) -> None:
    channels, height, width = form.shape
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        raise DataError(f"{file}: its mode {image.mode!r} has more than 8 bits per channel or no known colours")
    if channels == 1 and not form.grey and image.mode not in _GREY_MODES:
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


def _image_format(file: str, config: SourceConfig) -> ImageFormat:
    """Find the format of a folder in its first image and the recipe."""
    try:
        with Image.open(file) as image:
            (width, height), native = image.size, 1 if image.mode in _GREY_MODES else 3
    except _BROKEN as error:
        raise DataError(f"{file}: cannot be decoded as an image: {error}") from error
    if config.image_size is not None:
        width = height = config.image_size
    shape = (config.channels or native, height, width)
    return ImageFormat(shape, resize=config.image_size is not None, grey=config.channels == 1)


def _settle(splits: Sequence[FolderSplit], memory_gib: float) -> list[Split]:
    """Decode the splits into memory if they fit together."""
    needed = sum(len(split) * math.prod(split.shape) for split in splits)
    if needed > memory_gib * 2**30:
        return list(splits)
    return [split.in_memory() for split in splits]


def _part_folder(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"data.path: {str(root)!r} has no folder {' or '.join(names)}")


def _class_names(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: has no class folders")
    return names


def _check_same_classes(names: list[str], train_folder: Path, test_folder: Path) -> None:
    test_names = _class_names(test_folder)
    for there, here, folder in ((names, test_names, test_folder), (test_names, names, train_folder)):
        missing = sorted(set(there) - set(here))
        if missing:
            raise DataError(f"{folder}: lacks the class folders {', '.join(missing)}, which its sibling has")


def _list_images(folder: Path, class_names: Sequence[str]) -> tuple[list[str], Tensor]:
    """List the image files of every class, sorted: file systems list in any order."""
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        with os.scandir(folder / name) as entries:
            found = sorted(entry.path for entry in entries if entry.name.lower().endswith(SUFFIXES))
        if not found:
            raise DataError(f"{folder / name}: holds no image ({', '.join(SUFFIXES)})")
        files += found
        labels += [label] * len(found)
    return files, torch.tensor(labels)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _decoders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="compressor-decode")
