"""Walk a split in batches: `training_batches` in seeded random order, `ordered` in order to evaluate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Generator, Tensor

from compressor.data import pixels
from compressor.data.augment import AUGMENTATIONS, LABELLED_ONLY, cut_out, mix, move, rand_augment
from compressor.data.dataset import DataSet
from compressor.data.draws import generator
from compressor.data.split import Split
from compressor.data.text import TextSplit
from compressor.errors import DataError, not_one_of


class TrainingBatches(ABC):
    """Batches of a split for training, without state: batch i of epoch e depends on (seed, e, i) alone.

    So training resumes anywhere with the data it would have seen, and two runs of one seed see the same.

    Args:
        split: samples to walk.
        batch_size: samples per batch.
        seed: of the order and of whatever else is drawn.
        drop_last: leave out the last batch of an epoch if it is smaller than the others. A split smaller than
            one batch is still given, as one smaller batch.

    Raises:
        DataError: the split is empty, or the batch size below 1.
    """

    def __init__(self, split: Split, batch_size: int, *, seed: int, drop_last: bool = True) -> None:
        if batch_size < 1:
            raise DataError(f"batch size: {batch_size!r} is not a number of at least 1")
        if len(split) == 0:
            raise DataError("there is nothing to make batches of: the split is empty")
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self._samples = len(split)

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(self._samples, self.batch_size)
        return max(1, whole if self.drop_last else whole + (rest > 0))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over one epoch, from batch `start` on.

        Returns:
            iterator over (inputs, int64 targets) on the split's device; see the task's class for their shapes.

        Raises:
            DataError: `start` is not in 0..len(self).
        """
        if not 0 <= start <= len(self):
            raise DataError(f"batch {start} of epoch {epoch} is not in 0..{len(self)}")
        order = torch.randperm(self._samples, generator=generator("order", self.seed, epoch))
        return self._walk(order, epoch, range(start, len(self)))

    @abstractmethod
    def _walk(self, order: Tensor, epoch: int, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches `numbers` of an epoch that sees the samples in `order`, int64 (N,)."""


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
        for number, (raw, picked) in zip(numbers, _fetch(self.split, order, self.batch_size, numbers), strict=True):
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
        for raw, picked in _fetch(shifted, order, self.batch_size, numbers):
            yield shifted.inputs(raw), shifted.targets(raw, picked)


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
    found = _fetch(split, torch.arange(len(split)), batch_size, numbers)
    if split.task == "language":
        for raw, picked in found:
            yield split.inputs(raw), split.targets(raw, picked)
        return
    shift, scale = pixels.shift_and_scale(data.mean, data.std, split.device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for raw, picked in found:
        images = pixels.normalise(split.inputs(raw), shift, scale)
        yield images.contiguous(memory_format=memory_format), split.targets(raw, picked)


def _fetch(split: Split, order: Tensor, batch_size: int, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over what is stored of some batches, and its int64 indices (B,), on the split's device.

    Args:
        split: samples to fetch.
        order: int64 (N,) on the CPU.
        batch_size: indices per batch.
        numbers: of the batches.
    """
    placed = order.to(split.device)  # once for all batches: each such copy waits for the device to be idle
    picks = [slice(i * batch_size, (i + 1) * batch_size) for i in numbers]
    if split.prefetch:
        found = _fetch_ahead(split, [order[pick] for pick in picks])
    else:
        found = (split.fetch(placed[pick]) for pick in picks)
    for pick, raw in zip(picks, found, strict=True):
        yield raw.to(split.device, non_blocking=True), placed[pick]


def _fetch_ahead(split: Split, picks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Fetch on threads, at most `split.prefetch` batches ahead of the one that is asked for."""
    waiting: deque[Future[Tensor]] = deque()
    # Two threads: while the last images of one batch are read, the next batch has already begun.
    with ThreadPoolExecutor(2, thread_name_prefix="compressor-fetch") as pool:
        try:
            for pick in picks:
                waiting.append(pool.submit(split.fetch, pick))
                if len(waiting) > split.prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Whoever stops early must not wait for batches that nobody will see.
            for future in waiting:
                future.cancel()
