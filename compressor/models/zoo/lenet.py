"""LeNet-5 for images of a single digit (LeCun et al. 1998), with batch-norm and ReLU, and the form TissueNet gives it.

    classic   conv5×5 – pool – conv5×5 – pool – Linear 120 – Linear 84 – Linear
    tissue    conv3×3 of dilation 2 – conv5×5 – conv5×5 – pool – pool – average – Linear

In the second form conv2 and conv3 are the pair that a stacked layer replaces (TissueNet, section 4.6.2). The paper does
not describe it; this one's counts with units (2, 3, 2), (2, 4, 2) and (2, 5, 2) come within 3 % of its Table 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compressor.models.zoo import Family, Options, Shape, Widths

_MIN_SIDE = 16  # pixels: less leaves nothing behind two poolings


class LeNet5(nn.Module):
    """(N, C, H, W) images → (N, classes) logits."""

    def __init__(self, widths: Widths, classes: int, shape: Shape) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape[0], widths["conv1"], 5, padding=2)
        self.bn1 = nn.BatchNorm2d(widths["conv1"])
        self.conv2 = nn.Conv2d(widths["conv1"], widths["conv2"], 5)
        self.bn2 = nn.BatchNorm2d(widths["conv2"])
        height, width = ((side // 2 - 4) // 2 for side in shape[1:])
        self.fc1 = nn.Linear(widths["conv2"] * height * width, widths["fc1"])
        self.bn3 = nn.BatchNorm1d(widths["fc1"])
        self.fc2 = nn.Linear(widths["fc1"], widths["fc2"])
        self.bn4 = nn.BatchNorm1d(widths["fc2"])
        self.classifier = nn.Linear(widths["fc2"], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        x = nn.functional.max_pool2d(torch.relu(self.bn2(self.conv2(x))), 2)
        x = torch.relu(self.bn3(self.fc1(x.flatten(1))))
        return self.classifier(torch.relu(self.bn4(self.fc2(x))))  # type: ignore[no-any-return]


class TissueLeNet(nn.Module):
    """(N, C, H, W) images → (N, classes) logits: one normal convolution, the pair, and one Linear."""

    def __init__(self, widths: Widths, classes: int, shape: Shape) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape[0], widths["conv1"], 3, dilation=2)
        self.bn1 = nn.BatchNorm2d(widths["conv1"])
        self.conv2 = nn.Conv2d(widths["conv1"], widths["conv2"], 5, padding=2)
        self.bn2 = nn.BatchNorm2d(widths["conv2"])
        self.conv3 = nn.Conv2d(widths["conv2"], widths["conv3"], 5, padding=2)
        self.bn3 = nn.BatchNorm2d(widths["conv3"])
        self.classifier = nn.Linear(widths["conv3"], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = nn.functional.max_pool2d(torch.relu(self.bn3(self.conv3(x))), 4)
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _widths(options: Options) -> dict[str, int]:
    if options["style"] == "tissue":
        return {"conv1": 8, "conv2": 16, "conv3": 8}
    return {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84}


def _build(widths: Widths, options: Options, classes: int, shape: Shape) -> nn.Module:
    return (TissueLeNet if options["style"] == "tissue" else LeNet5)(widths, classes, shape)


FAMILIES: dict[str, Any] = {
    "lenet5": Family(_widths, _build, {"style": ("classic", "classic", "tissue")}, min_side=_MIN_SIDE)
}
