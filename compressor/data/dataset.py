"""A data set: its three splits and what is known about them, and how sources put one together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from compressor.data import pixels
from compressor.data.config import SourceConfig
from compressor.data.split import LabelledSplit, Split
from compressor.data.text import TextSplit
from compressor.errors import DataError

S = TypeVar("S", bound=Split)

SAMPLE = 2048  # images that stand for a split too slow to read as a whole


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images or text and what to learn of them, in three disjoint splits.

    Attributes:
        name: name of the source.
        train: samples to learn from.
        validation: samples kept from training, for choices; empty if none were asked for.
        test: samples of the source's test part, for the final number only.
        class_names: name of class 0, 1, ...; of text, its vocabulary.
        input_shape: (C, H, W) of every image, or (T,) of every window of text.
        mean: per channel, of the train split, in units of 0..1; empty for text.
        std: per channel, of the train split, in units of 0..1; empty for text.
        task: "classification" (a label per image), "segmentation" (a label per pixel) or "language" (the next
            token at every token).
        remarks: what the user must know of what was read, a sentence each.
        given: what a function of the user's has given, for other functions of theirs.
        example: of the inputs of a network whose inputs are its own; such data have no splits that we look at.
        metric: name of the user's own and which way is good, "higher" or "lower"; None: the task's.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    task: str = "classification"
    remarks: tuple[str, ...] = ()
    given: Any = None
    example: Any = None
    metric: tuple[str, Literal["higher", "lower"]] | None = None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def describe(self) -> dict[str, str | int | list[int]]:
        """Return name, number of classes, samples per split and input shape, ready for JSON.

        Samples are images, or windows of text; of text there is also the number of tokens of each split.
        """
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "name": self.name,
            "classes": self.classes,
            **{part: len(split) for part, split in splits.items()},
            "input_shape": list(self.input_shape),
            **{f"{part}_tokens": split.tokens for part, split in splits.items() if isinstance(split, TextSplit)},
        }

    def normalise(self, batch: Tensor) -> Tensor:
        """Return uint8 (B, C, H, W) as float32 (x / 255 - mean) / std."""
        shift, scale = pixels.shift_and_scale(self.mean, self.std, batch.device)
        return pixels.normalise(batch, shift, scale)


def normalised(data: DataSet, mean: Sequence[float] | None, std: Sequence[float] | None) -> DataSet:
    """A data set that normalises its images by a given mean and std in place of its own.

    Args:
        data: images
        mean: per channel, in units of 0..1; None: of the train split
        std: likewise

    Raises:
        DataError: their number is not the number of channels.
    """
    for key, given in (("mean", mean), ("std", std)):
        if given is not None and len(given) != len(data.mean):
            raise DataError(
                f"data.{key}: {list(given)} has {len(given)} values; the data has {len(data.mean)} channels"
            )
    return replace(data, mean=data.mean if mean is None else tuple(mean), std=data.std if std is None else tuple(std))


def divide(part: S, config: SourceConfig, seed: int) -> tuple[S, S]:
    """Divide a training part into (train, validation), by a permutation that depends on `seed` only.

    Where every image has a class, each class gives its share to validation, and keeps an image to train on if there are
    enough. With `config.limit` set, only so many images, chosen by the same permutation, are divided.

    Raises:
        DataError: there are too few images for the share `config.validation`.
    """
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[: config.limit]
    count = round(len(order) * config.validation)
    labels = getattr(part, "labels", None)  # of images with a class each, where they are known
    if labels is not None:
        order = _stratified(order, labels.cpu()[order], count)
    if count == len(order) or (config.validation > 0 and count == 0):
        raise DataError(
            f"data.validation: a share of {config.validation!r} of {len(order)} training images leaves "
            f"{count} for validation and {len(order) - count} for training, both need at least 1"
        )
    # Sorted: the order of the source's files is the fastest to read, and loaders shuffle anyway.
    return part.subset(order[count:].sort().values), part.subset(order[:count].sort().values)


def _stratified(order: Tensor, labels: Tensor, count: int) -> Tensor:
    """Samples (N,) in an order whose first `count` have every class in its share.

    Args:
        order: of the samples, at random
        labels: (N,) of the samples in that order
        count: of which the shares are taken; of each class one sample comes behind all of these, if there are enough
    """
    sizes = torch.bincount(labels)
    exact = sizes * (count / max(1, len(order)))
    quotas = torch.minimum(exact.floor().long(), (sizes - 1).clamp_min(0))
    while (left := count - int(quotas.sum())) > 0 and bool((quotas < sizes - 1).any()):  # the largest remainders
        missing = torch.where(quotas < sizes - 1, exact - quotas, -torch.inf)
        chosen = missing.argsort(descending=True, stable=True)[:left]
        quotas[chosen[quotas[chosen] < sizes[chosen] - 1]] += 1
    by_class = labels.argsort(stable=True)
    begins = sizes.cumsum(0) - sizes
    rank = torch.empty_like(by_class)
    rank[by_class] = torch.arange(len(order)) - begins[labels[by_class]]
    first = rank < quotas[labels]
    places = torch.cat([first.nonzero().flatten(), (~first).nonzero().flatten()])
    return order[places]


def complete(name: str, splits: tuple[Split, Split, Split], class_names: Sequence[str], seed: int) -> DataSet:
    """Make a data set of the splits (train, validation, test); mean and std are measured on the first.

    Raises:
        DataError: the splits differ in task or in the shape of their inputs, the test split is empty, or a label
            has no class name.
    """
    train, validation, test = splits
    for part, split in (("train", train), ("validation", validation), ("test", test)):
        if split.task != train.task:
            raise DataError(f"{name}: the {part} split is of the task {split.task}, the train split of {train.task}")
        if split.shape != train.shape:
            raise DataError(f"{name}: {part} images are {split.shape}, train images are {train.shape}")
        found = split.target_range()
        if found is not None and not 0 <= found[0] <= found[1] < len(class_names):
            raise DataError(f"{name}: {part} labels are {found[0]}..{found[1]}, the classes 0..{len(class_names) - 1}")
    if len(test) == 0:
        raise DataError(f"{name}: there are no test images")
    mean, std = ((), ()) if train.task == "language" else _moments(train, seed)
    return DataSet(
        name=name,
        train=train,
        validation=validation,
        test=test,
        class_names=tuple(class_names),
        input_shape=train.shape,
        mean=mean,
        std=std,
        task=train.task,
        remarks=_untrained(train, class_names),
    )


def _untrained(train: Split, class_names: Sequence[str]) -> tuple[str, ...]:
    """A word on classes that have no image to learn from."""
    if not isinstance(train, LabelledSplit):
        return ()
    counts = torch.bincount(train.labels.cpu(), minlength=len(class_names))
    missing = [class_names[label] for label in (counts == 0).nonzero().flatten().tolist()]
    if not missing:
        return ()
    more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
    return (f"{len(missing):,} of {len(counts):,} classes have no training image: {', '.join(missing[:5])}{more}",)


def _moments(split: Split, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    indices = torch.arange(len(split))
    if split.prefetch and len(split) > SAMPLE:
        indices = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:SAMPLE]
    return pixels.moments(split.samples(chunk)[0] for chunk in torch.split(indices, pixels.CHUNK))
