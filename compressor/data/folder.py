"""Folders of images, `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`): torchvision's ImageFolder.

Small folders are decoded once, into memory; larger ones image by image, when they are asked for.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from compressor.data.config import SourceConfig, data_folder
from compressor.data.dataset import DataSet, complete, divide
from compressor.data.decoding import BROKEN, GREY_MODES, FileSplit, ImageFormat, decode, settle
from compressor.data.split import LabelledSplit, TensorSplit
from compressor.errors import DataError

_TEST = ("test", "val")
_LEAST, _HELD_OUT = 10, 0.1  # images of a folder without parts, and their share for the test
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class FolderSplit(LabelledSplit, FileSplit):
    """A split whose images stay in their files until they are asked for.

    Args:
        files: one per image.
        labels: int64 (N,); its device is the split's device.
        form: how to decode the files.
    """

    def __init__(self, files: Sequence[str], labels: Tensor, form: ImageFormat) -> None:
        super().__init__(labels, len(files))
        self.files = tuple(files)
        self.form = form
        self.shape = form.shape

    @property
    def sample_bytes(self) -> int:
        """Size of one decoded image."""
        return math.prod(self.shape)

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
    if not getattr(config, "labels", True):  # earlier configs have no such field
        return _unlabelled(root, config, seed, device)
    train_folder, test_folder = _part_folder(root, "train"), _part_folder(root, *_TEST)
    class_names = _class_names(train_folder)
    _check_same_classes(class_names, train_folder, test_folder)
    files, labels, others = _list_images(train_folder, class_names)
    form = _image_format(files[0], config)
    part = FolderSplit(files, labels.to(device), form)
    files, labels, more = _list_images(test_folder, class_names)
    test = FolderSplit(files, labels.to(device), form)
    # Divided before anything is decoded: images that a limit leaves out cost nothing.
    train, validation, test_split = settle([*divide(part, config, seed), test], config.memory_gib)
    found = complete(config.name, (train, validation, test_split), class_names, seed)
    return replace(found, remarks=(*found.remarks, *_unused(others + more)))


def _unlabelled(root: Path, config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    """Images in any folders; those in train and test (or val) are these parts, else a tenth is for the test."""
    parts = [next((root / name for name in names if (root / name).is_dir()), None) for names in (("train",), _TEST)]
    train_folder, test_folder = parts
    if train_folder is None or test_folder is None:
        files, others = _images_below(root)
        if len(files) < _LEAST:
            raise DataError(f"{root}: holds {len(files)} images ({', '.join(SUFFIXES)}); at least {_LEAST} are needed")
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
        held = max(1, round(len(files) * _HELD_OUT))
        chosen = [sorted(order[held:]), sorted(order[:held])]
        train_files, test_files = ([files[place] for place in places] for places in chosen)
    else:
        (train_files, others), (test_files, more) = _images_below(train_folder), _images_below(test_folder)
        others = others + more
        for folder, files in ((train_folder, train_files), (test_folder, test_files)):
            if not files:
                raise DataError(f"{folder}: holds no image ({', '.join(SUFFIXES)})")
    form = _image_format(train_files[0], config)
    part, test = (
        FolderSplit(files, torch.zeros(len(files), dtype=torch.int64, device=device), form)
        for files in (train_files, test_files)
    )
    splits = settle([*divide(part, config, seed), test], config.memory_gib)
    found = complete(config.name, (splits[0], splits[1], splits[2]), ("unlabelled",), seed)
    return replace(found, remarks=(*found.remarks, *_unused(others)))


def _image_format(file: str, config: SourceConfig) -> ImageFormat:
    """Find the format of a folder in its first image and the recipe."""
    try:
        with Image.open(file) as image:
            (width, height), native = image.size, 1 if image.mode in GREY_MODES else 3
    except BROKEN as error:
        raise DataError(f"{file}: cannot be decoded as an image: {error}") from error
    if config.image_size is not None:
        width = height = config.image_size
    shape = (config.channels or native, height, width)
    return ImageFormat(shape, resize=config.image_size is not None, grey=config.channels == 1)


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


def _images_below(folder: Path) -> tuple[list[str], Counter[str]]:
    """The image files of a folder and of those in it, sorted, and how many files of each suffix are none of images."""
    found: list[str] = []
    others: Counter[str] = Counter()
    for file, whole in _files_below(folder):
        suffix = os.path.splitext(file)[1].lower()  # noqa: PTH122 - a Path for each of a million files is slow
        if suffix not in SUFFIXES:
            others[suffix.encode(errors="replace").decode() or "no suffix"] += 1
        elif not whole:  # a pipe would be waited for
            raise DataError(f"{file}: is not a file, or a link to none")
        else:
            found.append(file)
    return sorted(found), others


def _list_images(folder: Path, class_names: Sequence[str]) -> tuple[list[str], Tensor, Counter[str]]:
    """List the image files of every class and of its sub-folders, sorted: file systems list in any order.

    Returns:
        the files, their labels, and how many files of each suffix are none of images
    """
    files: list[str] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for label, name in enumerate(class_names):
        found, more = _images_below(folder / name)
        others += more
        if not found:
            raise DataError(f"{folder / name}: holds no image ({', '.join(SUFFIXES)})")
        files += found
        labels += [label] * len(found)
    return files, torch.tensor(labels), others


def _files_below(folder: Path) -> Iterator[tuple[str, bool]]:
    """What lies in a folder and in those in it, by links too, each folder once; hidden ones are left out.

    Yields:
        a path, and whether it is a regular file
    """
    seen, waiting = set[str](), [os.fspath(folder)]
    while waiting:
        place = waiting.pop()
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    folder_too, whole = entry.is_dir(), entry.is_file()
                except OSError:  # a link to itself
                    folder_too, whole = False, False
                if folder_too:
                    waiting.append(entry.path)
                else:
                    yield entry.path, whole


def _unused(others: Counter[str]) -> tuple[str, ...]:
    if not others:
        return ()
    kinds = ", ".join(f"{count:,} of {suffix}" for suffix, count in others.most_common(5))
    if (count := others.total()) == 1:
        return (f"1 file in the class folders is not used, for it is no image: {kinds}",)
    return (f"{count:,} files in the class folders are not used, for they are no images: {kinds}",)
