"""`Batches` depends on (seed, epoch, batch) alone, `ordered` walks everything in order."""

import itertools
import threading

import pytest
import torch

from compressor.data import Batches, DataSet, TensorSplit, ordered
from compressor.errors import DataError

PLAIN = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # normalised pixels are the pixels


def same(left, right):
    pairs = list(itertools.zip_longest(left, right))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


MIXING = ("randaugment", "mixup", "cutmix")


def test_mixed_batches_depend_on_seed_epoch_and_batch_alone(numbered):
    made = Batches(numbered(40), 10, seed=7, augment=MIXING, classes=40, channels_last=True, **PLAIN)
    torch.manual_seed(1)
    first = list(made.epoch(2))
    torch.manual_seed(2)
    assert same(first[2:], made.epoch(2, 2))
    assert not same(first, made.epoch(3))
    for images, shares in first:
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert shares.shape == (10, 40)


def labels_of(batches, epoch):
    return torch.cat([labels for _, labels in batches.epoch(epoch)]).tolist()


@pytest.fixture
def batches(numbered):
    return Batches(numbered(103), 10, seed=7, augment=("flip", "crop", "cutout"), **PLAIN)


@pytest.mark.parametrize("start", [0, 1, 6, 10])
def test_starting_later_is_dropping_the_first(batches, start):
    whole = list(batches.epoch(4))
    assert len(whole) == len(batches) == 10
    rest = list(batches.epoch(4, start))
    assert len(rest) == 10 - start
    assert same(whole[start:], rest)


def test_iterating_twice_gives_the_same(batches, numbered):
    assert same(batches.epoch(2), batches.epoch(2))
    again = Batches(numbered(103), 10, seed=7, augment=("flip", "crop", "cutout"), **PLAIN)
    assert same(batches.epoch(2), again.epoch(2))


def test_interleaved_epochs_do_not_disturb_each_other(batches):
    pairs = list(zip(batches.epoch(0), batches.epoch(1), strict=True))
    assert same([a for a, _ in pairs], batches.epoch(0))
    assert same([b for _, b in pairs], batches.epoch(1))


def test_torchs_own_generator_is_neither_read_nor_moved(batches):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = list(batches.epoch(0))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert same(first, batches.epoch(0))


def test_epochs_and_seeds_differ(batches, numbered):
    other = Batches(numbered(103), 10, seed=8, **PLAIN)
    assert labels_of(batches, 0) != labels_of(batches, 1)
    assert labels_of(batches, 0) != labels_of(other, 0)


def test_augmentation_draws_differ_between_batches_and_epochs(numbered):
    split = numbered(64).subset(torch.zeros(64, dtype=torch.int64))  # one image, 64 times
    batches = Batches(split, 32, seed=0, augment=("crop",), **PLAIN)
    seen = [x for epoch in (0, 1) for x, _ in batches.epoch(epoch)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))


def test_the_order_does_not_depend_on_augmentation(batches, numbered):
    plain = Batches(numbered(103), 10, seed=7, **PLAIN)
    assert labels_of(batches, 3) == labels_of(plain, 3)


@pytest.mark.parametrize(
    ("count", "size", "drop_last", "sizes"),
    [
        (23, 7, True, [7, 7, 7]),
        (23, 7, False, [7, 7, 7, 2]),
        (21, 7, False, [7, 7, 7]),
        (5, 7, True, [5]),
        (5, 7, False, [5]),
    ],
)
def test_sizes_of_batches(numbered, count, size, drop_last, sizes):
    batches = Batches(numbered(count), size, seed=0, drop_last=drop_last, **PLAIN)
    found = [len(labels) for _, labels in batches.epoch(0)]
    assert found == sizes
    assert len(batches) == len(sizes)


def test_an_epoch_shows_every_image_once_with_its_label(numbered):
    split = numbered(300)
    batches = Batches(split, 29, seed=0, drop_last=False, **PLAIN)
    seen = []
    for images, labels in batches.epoch(0):
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        torch.testing.assert_close(images, split.samples(labels)[0].float(), atol=1e-3, rtol=0)
        seen += labels.tolist()
    assert seen != sorted(seen)
    assert sorted(seen) == list(range(300))


def test_channels_last(numbered):
    for channels_last in (False, True):
        batches = Batches(numbered(8), 8, seed=0, augment=("flip",), channels_last=channels_last, **PLAIN)
        images, _ = next(batches.epoch(0))
        assert images.is_contiguous() is not channels_last
        assert images.is_contiguous(memory_format=torch.channels_last) is channels_last


@pytest.mark.parametrize("start", [-1, 11])
def test_a_start_outside_the_epoch(batches, start):
    with pytest.raises(DataError, match=rf"batch {start} of epoch 0 is not in 0\.\.10"):
        batches.epoch(0, start)


def test_what_cannot_be_batched(numbered):
    split = numbered(4)
    with pytest.raises(
        DataError, match=r"'flop' is not one of crop, cutmix, cutout, flip, mixup, randaugment \(did you mean flip\?\)"
    ):
        Batches(split, 2, seed=0, augment=("flop",), **PLAIN)
    with pytest.raises(DataError, match="batch size: 0"):
        Batches(split, 0, seed=0, **PLAIN)
    with pytest.raises(DataError, match="the split is empty"):
        Batches(split.subset(torch.arange(0)), 2, seed=0, **PLAIN)


def as_dataset(split):
    return DataSet("x", split, split, split, ("a",), split.shape, (0.5, 0.25, 0.125), (0.5, 2.0, 1.0))


def test_ordered_walks_everything_in_order(numbered):
    split = numbered(23)
    dataset = as_dataset(split)
    found = list(ordered(split, dataset, 5))
    assert [len(labels) for _, labels in found] == [5, 5, 5, 5, 3]
    assert torch.cat([labels for _, labels in found]).tolist() == list(range(23))
    images = torch.cat([images for images, _ in found])
    assert torch.equal(images, dataset.normalise(split.samples(torch.arange(23))[0]))


def test_ordered_gives_nothing_of_an_empty_split(numbered):
    split = numbered(3)
    assert list(ordered(split.subset(torch.arange(0)), as_dataset(split), 5)) == []


class Slow(TensorSplit):
    """A split whose images must be fetched ahead; it counts how far ahead that is."""

    def __init__(self, split, prefetch):
        super().__init__(split.pixels, split.labels)
        self.prefetch, self.fetched = prefetch, 0
        self.lock = threading.Lock()

    def fetch(self, indices):
        with self.lock:
            self.fetched += 1
        return super().fetch(indices)


def test_fetching_ahead_changes_nothing_and_is_bounded(numbered):
    split = numbered(100)
    slow = Slow(split, prefetch=2)
    direct = Batches(split, 10, seed=1, augment=("crop",), **PLAIN)
    ahead = Batches(slow, 10, seed=1, augment=("crop",), **PLAIN)
    assert same(direct.epoch(0), ahead.epoch(0))
    slow.fetched = 0
    for number, _ in enumerate(ahead.epoch(1), start=1):
        assert slow.fetched <= number + 2


def test_stopping_early_leaves_no_thread(numbered):
    batches = Batches(Slow(numbered(100), prefetch=2), 10, seed=1, **PLAIN)
    before = set(threading.enumerate())
    walk = batches.epoch(0)
    next(walk)
    assert set(threading.enumerate()) != before
    walk.close()
    assert set(threading.enumerate()) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_gets_the_same_batches(numbered):
    split = numbered(100)
    on_gpu = TensorSplit(split.pixels.cuda(), split.labels.cuda())
    options = {"seed": 1, "augment": ("crop", "flip", "cutout"), **PLAIN}
    expected = list(Batches(split, 10, **options).epoch(3))
    for found in (Batches(on_gpu, 10, **options), Batches(Slow(on_gpu, prefetch=2), 10, **options)):
        walk = list(found.epoch(3))
        assert all(x.is_cuda and y.is_cuda for x, y in walk)
        assert same(expected, [(x.cpu(), y.cpu()) for x, y in walk])
