"""Walk a split in batches: `Batches` in seeded random order to train, `ordered` in order to evaluate."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Generator, Tensor

from compressor.data import pixels
from compressor.data.augment import AUGMENTATIONS, cut_out, move
from compressor.data.dataset import DataSet
from compressor.data.split import Split
from compressor.errors import DataError, not_one_of


class Batches:
    """Batches of a split for training, without state: batch i of epoch e depends on (seed, e, i) alone.

    So training resumes anywhere with the data it would have seen, and two runs of one seed see the same.

    Args:
        split: images to walk.
        batch_size: images per batch.
        seed: of the order and the augmentations.
        mean: per channel, in units of 0..1.
        std: per channel, in units of 0..1.
        augment: names from `compressor.data.augment`; applied as crop, flip, cutout in any case.
        channels_last: give images in torch's channels-last memory format.
        drop_last: leave out the last batch of an epoch if it is smaller than the others. A split smaller than
            one batch is still given, as one smaller batch.

    Raises:
        DataError: the split is empty, the batch size below 1, or an augmentation is unknown.
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
    ) -> None:
        _check(split, batch_size, augment)
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.augment = tuple(augment)
        self.drop_last = drop_last
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._shift, self._scale = pixels.shift_and_scale(mean, std, split.device)

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(len(self.split), self.batch_size)
        return max(1, whole if self.drop_last else whole + (rest > 0))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over one epoch, from batch `start` on.

        Returns:
            iterator over normalised float32 images (B, C, H, W) and int64 labels (B,) on the split's device.

        Raises:
            DataError: `start` is not in 0..len(self).
        """
        if not 0 <= start <= len(self):
            raise DataError(f"batch {start} of epoch {epoch} is not in 0..{len(self)}")
        return self._walk(epoch, start)

    def _walk(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.split), generator=_generator("order", self.seed, epoch))
        found = _fetch(self.split, order, self.batch_size, range(start, len(self)))
        for number, (images, labels) in enumerate(found, start=start):
            yield self._prepare(images, _generator("augment", self.seed, epoch, number)), labels

    def _prepare(self, images: Tensor, generator: Generator) -> Tensor:
        moved = move(images, self.augment, generator)
        result = pixels.normalise(moved, self._shift, self._scale)
        if "cutout" in self.augment:
            result = cut_out(result, generator)
        return result.contiguous(memory_format=self._format)


def ordered(
    split: Split, dataset: DataSet, batch_size: int, *, channels_last: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over all images of a split in order, without augmentation; the last batch may be smaller.

    Args:
        split: images to walk; an empty one gives no batch.
        dataset: whose mean and std normalise the images.
        batch_size: images per batch.
        channels_last: give images in torch's channels-last memory format.

    Returns:
        iterator over normalised float32 images (B, C, H, W) and int64 labels (B,) on the split's device.
    """
    shift, scale = pixels.shift_and_scale(dataset.mean, dataset.std, split.device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    numbers = range(-(-len(split) // batch_size))
    for images, labels in _fetch(split, torch.arange(len(split)), batch_size, numbers):
        yield pixels.normalise(images, shift, scale).contiguous(memory_format=memory_format), labels


def _check(split: Split, batch_size: int, augment: Sequence[str]) -> None:
    if batch_size < 1:
        raise DataError(f"batch size: {batch_size!r} is not a number of at least 1")
    if len(split) == 0:
        raise DataError("there are no images to make batches of: the split is empty")
    for name in augment:
        if name not in AUGMENTATIONS:
            raise DataError(f"augment: {not_one_of(name, AUGMENTATIONS)}")


def _generator(*key: object) -> Generator:
    # A hash: seed + epoch + batch would make neighbours share draws; torch's CPU generator takes 32 bits.
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def _fetch(split: Split, order: Tensor, batch_size: int, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over the uint8 images (B, C, H, W) and labels (B,) of some batches, on the split's device.

    Args:
        split: images to fetch.
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
    for pick, images in zip(picks, found, strict=True):
        labels = split.labels.index_select(0, placed[pick])
        yield images.to(split.device, non_blocking=True), labels


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
