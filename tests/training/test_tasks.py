"""Losses and counts of the three tasks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compressor.errors import DataError
from compressor.training.tasks import TASKS, task_of

CLASSES = 7
# (N, classes, ...) or (N, T, classes), and the targets
SHAPES = {
    "classification": ((13, CLASSES), (13,)),
    "segmentation": ((13, CLASSES, 5, 3), (13, 5, 3)),
    "language": ((13, 11, CLASSES), (13, 11)),
}
NAMES = list(SHAPES)


def drawn(name, seed=0, ignored=0.2):
    """Logits and targets, some of which do not count."""
    generator = torch.Generator().manual_seed(seed)
    logits, targets = SHAPES[name]
    y = torch.randint(CLASSES, targets, generator=generator)
    y[torch.rand(targets, generator=generator) < ignored] = -100
    return torch.randn(logits, generator=generator), y


def flat(name, logits, y):
    """Logits (M, classes) and targets (M,) of what counts, in float64."""
    rows = logits if name == "language" else logits.movedim(1, -1)
    counts = y.flatten() != -100
    return rows.reshape(-1, CLASSES)[counts].double().numpy(), y.flatten()[counts].numpy()


def cross_entropy(rows, y):
    shifted = rows - rows.max(1, keepdims=True)
    return np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(y)), y]


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_mean_over_what_counts(name):
    logits, y = drawn(name)
    losses = cross_entropy(*flat(name, logits, y))
    assert float(TASKS[name].loss(logits, y)) == pytest.approx(losses.mean(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_smoothing_and_auxiliary_heads(name):
    logits, y = drawn(name)
    rows, labels = flat(name, logits, y)
    spread = np.mean([cross_entropy(rows, np.full_like(labels, label)) for label in range(CLASSES)])
    smooth = 0.9 * cross_entropy(rows, labels).mean() + 0.1 * spread
    task = TASKS[name]
    assert float(task.loss(logits, y, 0.1)) == pytest.approx(smooth, rel=1e-5)
    both = task.loss((logits, None, torch.zeros_like(logits)), y, 0.1)
    assert float(both) == pytest.approx(smooth + 0.3 * math.log(CLASSES), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_batches_count_as_one_whatever_their_sizes(name):
    logits, y = drawn(name)
    rows, labels = flat(name, logits, y)
    for cuts in ([13], [1, 5, 7], [12, 1]):
        tally = TASKS[name].tally()
        for part, targets in zip(logits.split(cuts), y.split(cuts), strict=True):
            tally.add(part, targets)
        measured = tally.evaluation()
        assert measured.loss == pytest.approx(cross_entropy(rows, labels).mean(), rel=1e-6)
        assert measured.accuracy == (rows.argmax(1) == labels).mean()
        assert measured.samples == 13
        assert measured.metric == TASKS[name].metric
    if name == "classification":
        assert measured.value == measured.accuracy
    if name == "language":
        assert measured.value == pytest.approx(math.exp(measured.loss), rel=1e-12)


def mean_iou(found, wanted, classes):
    """By the definition, with sets of pixels."""
    shares = []
    for label in range(classes):
        ours, theirs = set(np.flatnonzero(found == label)), set(np.flatnonzero(wanted == label))
        if ours | theirs:
            shares.append(len(ours & theirs) / len(ours | theirs))
    return np.mean(shares)


def test_mean_iou_is_that_of_all_pixels_together():
    logits, y = drawn("segmentation")
    rows, labels = flat("segmentation", logits, y)
    tally = TASKS["segmentation"].tally()
    for part, targets in zip(logits.split(4), y.split(4), strict=True):
        tally.add(part, targets)
    assert tally.evaluation().value == pytest.approx(mean_iou(rows.argmax(1), labels, CLASSES), rel=1e-12)


@pytest.mark.parametrize(
    ("found", "wanted", "value"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], 1.0),  # classes 2 to 6 occur nowhere and do not count
        ([0, 0, 1, 1], [0, 1, 1, 1], (1 / 2 + 2 / 3) / 2),
        ([0, 0, 0, 3], [0, 0, 0, 0], (3 / 4 + 0) / 2),  # class 3 is predicted only
        ([0, 0, 3, 3], [0, 0, -100, -100], 1.0),  # predictions where nothing counts do not count either
    ],
)
def test_mean_iou_by_hand(found, wanted, value):
    logits = nn.functional.one_hot(torch.tensor(found), CLASSES).float().T.view(1, CLASSES, 2, 2)
    tally = TASKS["segmentation"].tally()
    tally.add(logits, torch.tensor(wanted).view(1, 2, 2))
    assert tally.evaluation().value == pytest.approx(value, rel=1e-12)


def test_a_perfect_language_model_has_perplexity_one_and_an_ignorant_one_as_many_as_words():
    y = torch.randint(CLASSES, (3, 5), generator=torch.Generator().manual_seed(0))
    for scale, value in ((100, 1), (0, CLASSES)):
        tally = TASKS["language"].tally()
        tally.add(scale * nn.functional.one_hot(y, CLASSES).float(), y)
        assert tally.evaluation().value == pytest.approx(value, rel=1e-6)


def test_a_perplexity_beyond_all_numbers_is_a_number():
    y = torch.zeros(1, 1, dtype=torch.int64)
    tally = TASKS["language"].tally()
    tally.add(torch.tensor([[[-1e6, 0.0]]]), y)
    assert math.isfinite(tally.evaluation().value)


def test_nothing_that_counts_is_told():
    tally = TASKS["segmentation"].tally()
    tally.add(torch.zeros(2, CLASSES, 3, 3), torch.full((2, 3, 3), -100))
    with pytest.raises(DataError, match="of 2 samples to score no target counts"):
        tally.evaluation()


@pytest.mark.parametrize(("name", "worse", "better"), [("segmentation", 0.3, 0.4), ("language", 90.0, 80.0)])
def test_the_better_value_is_known_by_its_direction(name, worse, better):
    task = TASKS[name]
    assert task.improves(better, on=worse)
    assert not task.improves(worse, on=better)
    assert not task.improves(better, on=better)
    assert task.improves(worse, on=None)
    assert not task.improves(math.nan, on=None)
    assert task.best([worse, math.nan, better, worse]) == better
    assert task.best([]) is None


def test_a_batch_of_evaluation_is_as_large_as_its_logits_allow():
    assert TASKS["classification"].batch(1000, (3, 224, 224), 512) == 512
    assert TASKS["segmentation"].batch(21, (3, 513, 513), 512) == 12
    assert TASKS["segmentation"].batch(21, (3, 9000, 9000), 512) == 1
    assert TASKS["language"].batch(10_000, (35,), 512) == 191


def test_a_task_that_is_none_is_told_with_those_that_are(digits):
    with pytest.raises(DataError, match="task 'detection' is not one of classification, language, own, segmentation"):
        task_of(replace(digits(), task="detection"))
    assert task_of(replace(digits(), metric=("mAP", "higher"))).metric == "mAP"
