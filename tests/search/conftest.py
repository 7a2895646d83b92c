"""A tiny searchable network, known to the zoo only while these tests run."""

import pytest
import torch
from torch import nn

from compressor import models
from compressor.models.zoo import Family


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
