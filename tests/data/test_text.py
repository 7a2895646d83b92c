"""Windows of text: what they hold, how they are cut anew each epoch, and that batches have no state."""

import pytest
import torch

from compressor.data import IGNORED, TextSplit, TokenBatches, ordered, training_batches
from compressor.data.dataset import complete
from compressor.errors import DataError

WINDOW = 5


def numbers(count):
    """A text whose token at place i is i."""
    return torch.arange(count, dtype=torch.int32)


def as_dataset(train, test=None):
    test = TextSplit.to_measure(numbers(23), WINDOW) if test is None else test
    return complete("x", (train, test, test), [str(i) for i in range(1000)], seed=0)


def epoch_of(batches, epoch):
    return torch.cat([x for x, _ in batches.epoch(epoch)])


def test_inputs_and_the_tokens_that_follow():
    split = TextSplit.to_train(numbers(43), WINDOW)
    x, y = split.samples(torch.tensor([2, 0]))
    assert x.tolist() == [[10, 11, 12, 13, 14], [0, 1, 2, 3, 4]]
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(y, x + 1)
    assert (split.shape, split.task) == ((WINDOW,), "language")


@pytest.mark.parametrize("length", [10, 11, 14, 15, 43, 45])
def test_training_windows_can_be_shifted_to_every_place_of_a_window(length):
    split = TextSplit.to_train(numbers(length), WINDOW)
    assert len(split) == length // WINDOW - 1
    assert split.shifts == WINDOW
    for by in range(WINDOW):
        x, y = split.shifted(by).samples(torch.arange(len(split)))
        assert x.flatten().tolist() == list(range(by, by + len(split) * WINDOW))
        assert torch.equal(y, x + 1)


@pytest.mark.parametrize("length", [0, 1, 9])
def test_a_text_too_short_to_train_on_gives_no_window(length):
    assert len(TextSplit.to_train(numbers(length), WINDOW)) == 0


def test_a_limit_counts_windows_from_the_beginning():
    split = TextSplit.to_train(numbers(300), WINDOW, limit=7)
    assert (len(split), split.tokens, split.shifts) == (7, 8 * WINDOW, WINDOW)
    assert int(split.shifted(WINDOW - 1).samples(torch.tensor([6]))[1].max()) == 8 * WINDOW - 1
    assert len(TextSplit.to_train(numbers(300), WINDOW, limit=1000)) == 59


@pytest.mark.parametrize("length", [2, 5, 6, 7, 22, 26])
def test_measuring_counts_every_token_but_the_first_once(length):
    split = TextSplit.to_measure(numbers(length), WINDOW)
    x, y = split.samples(torch.arange(len(split)))
    assert y[y != IGNORED].tolist() == list(range(1, length))
    assert torch.equal(x[y != IGNORED] + 1, y[y != IGNORED])
    assert bool((y != IGNORED).any(1).all())  # no window without a target
    assert int(x.min()) == 0  # what fills up is a token as well
    assert (split.tokens, split.shifts) == (length, 1)
    assert split.target_range() == (0, length - 1)


@pytest.mark.parametrize("length", [0, 1])
def test_nothing_to_measure(length):
    split = TextSplit.to_measure(numbers(length), WINDOW)
    assert (len(split), split.target_range(), split.shifts) == (0, None, 1)
    data = as_dataset(TextSplit.to_train(numbers(43), WINDOW))
    assert list(ordered(split, data, 4)) == []


def test_a_subset_is_those_windows():
    split = TextSplit.to_train(numbers(43), WINDOW).subset(torch.tensor([6, 1]))
    assert split.samples(torch.arange(2))[0][:, 0].tolist() == [30, 5]
    assert split.shifts == WINDOW


def test_the_data_set_counts_windows_and_tokens():
    data = as_dataset(TextSplit.to_train(numbers(43), WINDOW))
    assert data.describe() == {
        "name": "x",
        "classes": 1000,
        "train": 7,
        "validation": 5,
        "test": 5,
        "input_shape": [WINDOW],
        "train_tokens": 40,
        "validation_tokens": 23,
        "test_tokens": 23,
    }
    assert (data.task, data.mean, data.std) == ("language", (), ())


def test_an_epoch_is_a_permutation_of_consecutive_windows():
    batches = TokenBatches(TextSplit.to_train(numbers(600), WINDOW), 7, seed=1, drop_last=False)
    orders, offsets = [], []
    for epoch in range(12):
        x, y = (torch.cat(parts) for parts in zip(*batches.epoch(epoch), strict=True))
        offsets.append(int(x.min()))
        assert x.flatten().sort().values.tolist() == list(range(offsets[-1], offsets[-1] + 119 * WINDOW))
        assert torch.equal(y, x + 1)
        orders.append(((x[:, 0] - offsets[-1]) // WINDOW).tolist())
    assert set(offsets) == set(range(WINDOW))  # 12 draws miss one of 5 in a third of all seeds, not in this one
    assert len({tuple(order) for order in orders}) == 12


def test_cuts_and_order_depend_on_the_seed():
    split = TextSplit.to_train(numbers(600), WINDOW)
    first, again, other = (TokenBatches(split, 7, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(epoch_of(first, e), epoch_of(again, e)) for e in range(3))
    assert not any(torch.equal(epoch_of(first, e), epoch_of(other, e)) for e in range(3))


@pytest.mark.parametrize("start", [0, 1, 5, 8])
def test_starting_later_is_dropping_the_first(start):
    batches = TokenBatches(TextSplit.to_train(numbers(303), WINDOW), 7, seed=1)
    assert len(batches) == 8  # 59 windows
    whole, rest = list(batches.epoch(4)), list(batches.epoch(4, start))
    assert len(rest) == 8 - start
    for (x, y), (u, v) in zip(whole[start:], rest, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_training_batches_are_of_the_split_to_train_on():
    data = as_dataset(TextSplit.to_train(numbers(303), WINDOW))
    found = training_batches(data, 7, seed=3, channels_last=True)
    assert torch.equal(epoch_of(found, 2), epoch_of(TokenBatches(data.train, 7, seed=3), 2))


def test_text_has_no_augmentations():
    data = as_dataset(TextSplit.to_train(numbers(303), WINDOW))
    with pytest.raises(DataError, match="augment: x is text, which has no augmentations; got flip, crop"):
        training_batches(data, 7, seed=3, augment=("flip", "crop"))


def test_ordered_walks_everything_in_order():
    test = TextSplit.to_measure(numbers(23), WINDOW)
    found = list(ordered(test, as_dataset(TextSplit.to_train(numbers(43), WINDOW), test), 2))
    assert [len(x) for x, _ in found] == [2, 2, 1]
    assert torch.cat([x for x, _ in found]).flatten().tolist()[:22] == list(range(22))


def test_what_cannot_be_batched():
    split = TextSplit.to_train(numbers(43), WINDOW)
    with pytest.raises(DataError, match="batch size: 0"):
        TokenBatches(split, 0, seed=0)
    with pytest.raises(DataError, match="the split is empty"):
        TokenBatches(split.subset(torch.arange(0)), 2, seed=0)
    with pytest.raises(DataError, match=r"batch 4 of epoch 0 is not in 0\.\.3"):
        TokenBatches(split, 2, seed=0).epoch(0, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_gets_the_same_batches():
    here, there = (
        TokenBatches(TextSplit.to_train(text, WINDOW), 7, seed=1) for text in (numbers(303), numbers(303).cuda())
    )
    for (x, y), (u, v) in zip(here.epoch(3), there.epoch(3), strict=True):
        assert u.is_cuda
        assert v.is_cuda
        assert torch.equal(x, u.cpu())
        assert torch.equal(y, v.cpu())
