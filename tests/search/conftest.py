"""A tiny searchable network, known to the zoo only while these tests run, and a trainer that learns nothing."""

import pytest
import torch
from torch import nn

from compressor import models
from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.models.zoo import Family
from compressor.search import Problem
from compressor.training.trainer import EpochRecord, Settings


class Tiny(nn.Module):
    """conv(13) ─ bn ─ relu ─┬─ inner(23) ─ bn ─ relu ─ outer(13) ─ (+) ─ bn ─ relu ─ pool ─ fc ─ classes
    └──────────────────────────────────────┘
    """

    def __init__(self, widths, classes, channels):
        super().__init__()
        stream, inner = widths["stem"], widths["inner"]
        self.stem = nn.Conv2d(channels, stream, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stream)
        self.inner = nn.Conv2d(stream, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.outer = nn.Conv2d(inner, stream, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(stream)
        self.fc = nn.Linear(stream * 4, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.stem(x)))
        x = x + self.outer(torch.relu(self.bn2(self.inner(x))))
        return self.fc(nn.functional.adaptive_avg_pool2d(torch.relu(self.bn3(x)), 2).flatten(1))


TINY = Family(
    lambda options: {"stem": 13, "inner": 23},
    lambda widths, options, classes, shape: Tiny(widths, classes, shape[0]),
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(models.ZOO, "tiny", TINY)
    return models.reference_architecture("tiny", {}, 10, (1, 8, 8))


class QuickTrainer:
    """Takes steps on noise: enough for gradients, none for learning.

    `phases` are the labels of what was trained, `steps` counts; after `kill_after` steps it is interrupted.
    """

    def __init__(self, kill_after=None):
        self.steps, self.kill_after, self.phases, self.better = 0, kill_after, [], "higher"

    def prepare(self, model):
        return model

    def epoch_size(self, batch_size, model=None):
        return 3, batch_size

    def fit(self, model, settings, *, seed, label="", observer=None, checkpoint=None):
        self.phases.append(label)
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr_at(0, 10), momentum=settings.momentum)
        if observer is not None:
            observer.start(model, optimizer, 3)
        for _ in range(3 * settings.epochs if settings.epochs else 10_000):
            x, y = torch.randn(8, 1, 8, 8, generator=generator), torch.randint(10, (8,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            if observer is not None:
                observer.after_backward()
            optimizer.step()
            self.steps += 1
            if self.steps == self.kill_after:
                raise KeyboardInterrupt
            if observer is not None and observer.after_step():
                break
        epochs = range(1, (settings.epochs or 0) + 1)
        return [EpochRecord(epoch, 2.0, None, None, settings.lr_at(0, 10), 0.0) for epoch in epochs]


@pytest.fixture
def problem():
    """Make a problem: (reference, limits, trainer, work, more fields of `Problem`)."""

    def make(reference, limits, trainer=None, work=None, **more):
        final = Settings(epochs=2, batch_size=8, lr_at=lambda step, per_epoch: 0.05, momentum=0.9, weight_decay=0.0)
        return Problem(
            reference, Budget(limits), params_macs.COSTS, trainer or QuickTrainer(), 0, work, **{"final": final} | more
        )

    return make


@pytest.fixture
def assert_full():
    """Check that a result is within all limits, and that one channel more in any group is not."""

    def check(architecture, limits):
        widths = dict(architecture.widths)
        assert all(params_macs.COSTS[name](architecture) <= limit for name, limit in limits.items())
        for name in widths:
            wider = architecture.with_widths(widths | {name: widths[name] + 1})
            assert any(params_macs.COSTS[kind](wider) > limit for kind, limit in limits.items()), name

    return check


@pytest.fixture
def quick_trainer():
    return QuickTrainer
