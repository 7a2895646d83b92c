"""Multi-layer perceptron 784-500-300-10 (TissueNet section 4; any input shape here)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from compressor.models.zoo import Family, Options, Shape, Widths


class MLP(nn.Module):
    """(N, C, H, W) images → (N, classes) logits through two hidden layers with batch-norm and ReLU."""

    def __init__(self, widths: Widths, classes: int, features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, widths["fc1"])
        self.bn1 = nn.BatchNorm1d(widths["fc1"])
        self.fc2 = nn.Linear(widths["fc1"], widths["fc2"])
        self.bn2 = nn.BatchNorm1d(widths["fc2"])
        self.classifier = nn.Linear(widths["fc2"], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        x = torch.relu(self.bn1(self.fc1(x.flatten(1))))
        x = torch.relu(self.bn2(self.fc2(x)))
        return self.classifier(x)  # type: ignore[no-any-return]


def _widths(options: Options) -> dict[str, int]:
    return {"fc1": 500, "fc2": 300}


def _build(widths: Widths, options: Options, classes: int, shape: Shape) -> nn.Module:
    return MLP(widths, classes, math.prod(shape))


def _stackable(options: Options, shape: Shape) -> dict[str, tuple[dict[str, Any], dict[str, int], tuple[str, ...]]]:
    # One stacked layer of as many outputs as inputs in place of both hidden layers: with units (2, 4, 2) it has the
    # paper's counts (Table 1).
    features = math.prod(shape)
    return {"all": ({}, {"fc1": 2 * features, "fc2": features}, ("fc1",))}


FAMILIES = {"mlp": Family(_widths, _build, stackable=_stackable)}
