"""The loss of a batch, whatever its parts are."""

import pytest
import torch
from torch import nn

from compressor.training.objective import Objective
from compressor.training.tasks import Task

SEGMENTATION = Task("segmentation", "mIoU", "higher")


@pytest.fixture
def batch():
    torch.manual_seed(0)
    x, y = torch.randn(12, 3, 4, 4, dtype=torch.float64), torch.randint(0, 5, (12, 4, 4))
    y[:5] = -100  # no target counts
    y[6, :2] = -100
    return x, y


def network():
    torch.manual_seed(1)
    return nn.Conv2d(3, 5, 1).double()


def gradients(batch, parts=1, accumulate=1):
    """Of the batch in so many parts, one after another, each of them divided again."""
    model, (x, y) = network(), batch
    objective = Objective(SEGMENTATION, "cpu", False, 0.1, accumulate, None)
    loss = 0.0
    for place in range(parts):
        own, targets = x[place::parts], y[place::parts]
        share = objective.weight_of(targets, y)
        loss += objective.backward(model, own, targets, share, len(x) // parts)
    return loss, model.weight.grad


@pytest.mark.parametrize(("parts", "accumulate"), [(2, 1), (3, 1), (1, 4), (2, 3), (12, 1)])
def test_parts_count_by_their_targets_that_count(batch, parts, accumulate):
    loss, whole = gradients(batch)
    other, found = gradients(batch, parts, accumulate)
    assert other == pytest.approx(float(loss))
    assert torch.allclose(found, whole, rtol=1e-9)


def test_without_any_target_that_counts_there_is_nothing_to_learn(batch):
    x, y = batch
    loss, gradient = gradients((x, torch.full_like(y, -100)), parts=2)
    assert loss == 0
    assert (gradient == 0).all()
