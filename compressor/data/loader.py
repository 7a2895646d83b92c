"""Walk a split in batches: `training_batches` in seeded random order, `ordered` in order to evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from compressor.data import pixels
from compressor.data.augment import AUGMENTATIONS, LABELLED_ONLY, MIXED, cut_out, mix, move, rand_augment
from compressor.data.batching import TrainingBatches, batches_of
from compressor.data.dataset import DataSet
from compressor.data.draws import generator, number_of
from compressor.data.split import Split
from compressor.data.text import TextSplit
from compressor.data.torch_data import DatasetSplit
from compressor.errors import DataError, not_one_of


class Batches(TrainingBatches):
    """Batches of images: normalised float32 (B, C, H, W), and labels (B,) or masks (B, H, W).

    Args:
        split: images to walk.
        batch_size: images per batch.
        seed: of the order and the augmentations.
        mean: per channel, in units of 0..1.
        std: per channel, in units of 0..1.
        augment: names from `compressor.data.augment`; applied as crop, flip, cutout in any case. Masks are moved
            with their images and do not count where a crop reaches outside; cutout hides pixels of images only.
        channels_last: give images in torch's channels-last memory format.
        drop_last: as in `TrainingBatches`.
        classes: how many there are, for augmentations that mix images; labels are shares (B, classes) then.

    Raises:
        DataError: the split is empty, the batch size below 1, or an augmentation is unknown, or not for masks.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Sequence[str] = (),
        channels_last: bool = False,
        drop_last: bool = True,
        classes: int = 0,
    ) -> None:
        super().__init__(split, batch_size, seed=seed, drop_last=drop_last)
        for name in augment:
            if name not in AUGMENTATIONS:
                raise DataError(f"augment: {not_one_of(name, AUGMENTATIONS)}")
            if split.task == "segmentation" and name in LABELLED_ONLY:
                valid = ", ".join(sorted({*AUGMENTATIONS} - {*LABELLED_ONLY}))
                raise DataError(f"augment: {name} is for images with a class each, not for masks; valid: {valid}")
        self.classes = classes
        self.split = split
        self.augment = tuple(augment)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._shift, self._scale = pixels.shift_and_scale(mean, std, split.device)

    def _walk(self, order: Tensor, epoch: int, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
        masked = self.split.task == "segmentation"
        for number, (raw, picked) in zip(numbers, batches_of(self.split, order, self.batch_size, numbers), strict=True):
            draws = generator("augment", self.seed, epoch, number)
            moved = move(raw, self.augment, draws, masked=masked)
            images, targets = self._prepare(self.split.inputs(moved), draws), self.split.targets(moved, picked)
            images, targets = mix(images, targets, self.augment, self.classes, draws)
            yield images.contiguous(memory_format=self._format), targets

    def _prepare(self, images: Tensor, draws: Generator) -> Tensor:
        if "randaugment" in self.augment:
            images = rand_augment(images, draws)
        result = pixels.normalise(images, self._shift, self._scale)
        if "cutout" in self.augment:
            result = cut_out(result, draws)
        return result


class TokenBatches(TrainingBatches):
    """Batches of text: tokens int64 (B, T), and the next tokens (B, T).

    Every epoch cuts the text into windows anew, at an offset that depends on (seed, epoch).

    Args:
        split: windows to walk.
        batch_size: windows per batch.
        seed: of the order and the cuts.
        drop_last: as in `TrainingBatches`.

    Raises:
        DataError: the split is empty, or the batch size below 1.
    """

    def __init__(self, split: TextSplit, batch_size: int, *, seed: int, drop_last: bool = True) -> None:
        super().__init__(split, batch_size, seed=seed, drop_last=drop_last)
        self.split = split
        self._shifts = split.shifts

    def _walk(self, order: Tensor, epoch: int, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
        offset = torch.randint(self._shifts, (), generator=generator("offset", self.seed, epoch))
        shifted = self.split.shifted(int(offset))
        for raw, picked in batches_of(shifted, order, self.batch_size, numbers):
            yield shifted.inputs(raw), shifted.targets(raw, picked)


class DatasetBatches(TrainingBatches):
    """Batches of a dataset of torch: inputs as its transforms give them, and targets.

    Args:
        split: samples to walk.
        batch_size: samples per batch.
        seed: of the order and of what transforms draw.
        augment: mixup, cutmix, or both; others are up to the dataset's transforms.
        channels_last: give images in torch's channels-last memory format.
        classes: how many there are.

    Raises:
        DataError: the split is empty, the batch size below 1, or an augmentation is another one, or not for masks.
    """

    def __init__(
        self,
        split: DatasetSplit,
        batch_size: int,
        *,
        seed: int,
        augment: Sequence[str] = (),
        channels_last: bool = False,
        classes: int = 0,
    ) -> None:
        super().__init__(split, batch_size, seed=seed)
        valid = MIXED if split.task == "classification" else ()
        for name in augment:
            if name not in valid:
                known = f"valid: {', '.join(valid)}" if valid else "it takes none"
                raise DataError(f"augment: {name}: images of torch datasets change in their own transforms; {known}")
        self.split, self.augment, self.classes = split, tuple(augment), classes
        self._format = torch.channels_last if channels_last and len(split.shape) == 3 else torch.contiguous_format

    def _walk(self, order: Tensor, epoch: int, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
        key = (self.seed, epoch)
        found = batches_of(self.split, order, self.batch_size, numbers, key)
        for number, (raw, picked) in zip(numbers, found, strict=True):
            inputs, targets = self.split.inputs(raw), self.split.targets(raw, picked)
            if self.augment:
                draws = generator("augment", self.seed, epoch, number)
                inputs, targets = mix(inputs, targets, self.augment, self.classes, draws)
            yield inputs.contiguous(memory_format=self._format), targets


class LoaderBatches(TrainingBatches):
    """Batches of a loader of the user's: its own order and sizes, walked with generators that (seed, epoch) decide."""

    def __init__(self, split: DatasetSplit, loader: DataLoader[Any], *, seed: int) -> None:
        super().__init__(split, 1, seed=seed)
        self.split, self.loader = split, loader

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.loader)

    def _walk(self, order: Tensor, epoch: int, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
        for number, pair in enumerate(self.split.walked(self.loader, number_of("loader", self.seed, epoch))):
            if number in numbers:  # those before are skipped: training goes on from there
                yield pair.inputs, pair.targets


def training_batches(
    data: DataSet, batch_size: int, *, seed: int, augment: Sequence[str] = (), channels_last: bool = False
) -> TrainingBatches:
    """Return the batches that train a network on `data.train`, in the form its task needs.

    Args:
        data: of any task.
        batch_size: samples per batch.
        seed: of the order, the augmentations and the cuts of text.
        augment: random changes of images, see `Batches`; none for text.
        channels_last: give images in torch's channels-last memory format; text has none.

    Raises:
        DataError: the train split is empty, the batch size below 1, an augmentation unknown or meant for text.
    """
    if isinstance(data.train, DatasetSplit):
        if data.train.loader is not None:
            if augment:
                raise DataError(
                    f"augment: {augment[0]}: a loader of one's own gives batches as they are; it takes none"
                )
            return LoaderBatches(data.train, data.train.loader, seed=seed)
        return DatasetBatches(
            data.train, batch_size, seed=seed, augment=augment, channels_last=channels_last, classes=data.classes
        )
    if isinstance(data.train, TextSplit):
        if augment:
            raise DataError(f"augment: {data.name} is text, which has no augmentations; got {', '.join(augment)}")
        return TokenBatches(data.train, batch_size, seed=seed)
    return Batches(
        data.train,
        batch_size,
        seed=seed,
        mean=data.mean,
        std=data.std,
        augment=augment,
        channels_last=channels_last,
        classes=data.classes,
    )


def ordered(
    split: Split, data: DataSet, batch_size: int, *, channels_last: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over all samples of a split in order, without augmentation; the last batch may be smaller.

    Args:
        split: samples to walk; an empty one gives no batch.
        data: whose mean and std normalise the images.
        batch_size: samples per batch.
        channels_last: give images in torch's channels-last memory format; text has none.

    Returns:
        iterator over inputs, normalised float32 images (B, C, H, W) or int64 tokens (B, T), and int64 targets,
        labels (B,), masks (B, H, W) or next tokens (B, T), on the split's device.
    """
    numbers = range(-(-len(split) // batch_size))
    found = batches_of(split, torch.arange(len(split)), batch_size, numbers)
    if split.task == "language" or not data.mean:  # what comes ready from the user's own transforms
        for raw, picked in found:
            inputs = split.inputs(raw)
            laid = (
                inputs.contiguous(memory_format=torch.channels_last) if channels_last and inputs.dim() == 4 else inputs
            )
            yield laid, split.targets(raw, picked)
        return
    shift, scale = pixels.shift_and_scale(data.mean, data.std, split.device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for raw, picked in found:
        images = pixels.normalise(split.inputs(raw), shift, scale)
        yield images.contiguous(memory_format=memory_format), split.targets(raw, picked)
