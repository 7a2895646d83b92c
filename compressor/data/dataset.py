"""A data set: its three splits and what is known about them, and how sources put one together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from compressor.data import pixels
from compressor.data.config import SourceConfig
from compressor.data.split import Split
from compressor.errors import DataError

S = TypeVar("S", bound=Split)

SAMPLE = 2048  # images that stand for a split too slow to read as a whole


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images of a classification task, in three disjoint splits.

    Attributes:
        name: name of the source.
        train: images to learn from.
        validation: images taken out of the source's training part, for choices; empty if none were asked for.
        test: images of the source's test part, for the final number only.
        class_names: name of class 0, 1, ...
        input_shape: (C, H, W) of every image.
        mean: per channel, of the train split, in units of 0..1.
        std: per channel, of the train split, in units of 0..1.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def describe(self) -> dict[str, str | int | list[int]]:
        """Return name, number of classes, images per split and input shape, ready for JSON."""
        return {
            "name": self.name,
            "classes": self.classes,
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "input_shape": list(self.input_shape),
        }

    def normalise(self, batch: Tensor) -> Tensor:
        """Return uint8 (B, C, H, W) as float32 (x / 255 - mean) / std."""
        shift, scale = pixels.shift_and_scale(self.mean, self.std, batch.device)
        return pixels.normalise(batch, shift, scale)


def divide(part: S, config: SourceConfig, seed: int) -> tuple[S, S]:
    """Divide a training part into (train, validation), by a permutation that depends on `seed` only.

    With `config.limit` set, only so many images, chosen by the same permutation, are divided.

    Raises:
        DataError: there are too few images for the share `config.validation`.
    """
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[: config.limit]
    count = round(len(order) * config.validation)
    if count == len(order) or (config.validation > 0 and count == 0):
        raise DataError(
            f"data.validation: a share of {config.validation!r} of {len(order)} training images leaves "
            f"{count} for validation and {len(order) - count} for training, both need at least 1"
        )
    # Sorted: the order of the source's files is the fastest to read, and loaders shuffle anyway.
    return part.subset(order[count:].sort().values), part.subset(order[:count].sort().values)


def complete(name: str, splits: tuple[Split, Split, Split], class_names: Sequence[str], seed: int) -> DataSet:
    """Make a data set of the splits (train, validation, test); mean and std are measured on the first.

    Raises:
        DataError: the splits differ in the shape of their images, the test split is empty, or a label has no
            class name.
    """
    train, validation, test = splits
    for part, split in (("train", train), ("validation", validation), ("test", test)):
        if split.shape != train.shape:
            raise DataError(f"{name}: {part} images are {split.shape}, train images are {train.shape}")
        if len(split) > 0 and not 0 <= int(split.labels.min()) <= int(split.labels.max()) < len(class_names):
            found = f"{int(split.labels.min())}..{int(split.labels.max())}"
            raise DataError(f"{name}: {part} labels are {found}, the classes 0..{len(class_names) - 1}")
    if len(test) == 0:
        raise DataError(f"{name}: there are no test images")
    mean, std = _moments(train, seed)
    return DataSet(name, train, validation, test, tuple(class_names), train.shape, mean, std)


def _moments(split: Split, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    indices = torch.arange(len(split))
    if split.prefetch and len(split) > SAMPLE:
        indices = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:SAMPLE]
    return pixels.moments(split.images(chunk) for chunk in torch.split(indices, pixels.CHUNK))
