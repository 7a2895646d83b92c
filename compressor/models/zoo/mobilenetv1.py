"""MobileNetV1 (Howard et al. 2017): a 3×3 convolution, then 13 pairs of a depth-wise 3×3 and a 1×1 convolution.

    depth-wise 3×3 – BN – ReLU – 1×1 conv – BN – ReLU, all without bias

4.23 M parameters with 1,000 classes, 569 M multiply-adds at 224×224. Images of fewer than 64 pixels are not halved by
the first convolution, as is customary on CIFAR. A depth-wise convolution has the width of the convolution before it.
"""

from __future__ import annotations

import torch
from torch import nn

from compressor.models.zoo import Family, Options, Shape, Widths
from compressor.models.zoo.resnet import convolution

_STEM = 32
_PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
# width, stride; the last stride is 2 in the paper's table, but its multiply-adds and feature map are those of 1
_LARGE_SIDE = 64  # pixels


class SeparableConvolution(nn.Module):
    """(N, in, H, W) → (N, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = convolution(in_channels, in_channels, 3, stride, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.pointwise = convolution(in_channels, out_channels, 1)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Filter every channel, then mix them."""
        x = torch.relu(self.bn1(self.depthwise(x)))
        return torch.relu(self.bn2(self.pointwise(x)))


class MobileNetV1(nn.Module):
    """(N, C, H, W) images → (N, classes) logits; `side` is the shorter one of the images."""

    def __init__(self, widths: Widths, classes: int, in_channels: int, side: int) -> None:
        super().__init__()
        channels = widths["conv1"]
        self.conv1 = convolution(in_channels, channels, 3, 2 if side >= _LARGE_SIDE else 1)
        self.bn1 = nn.BatchNorm2d(channels)
        pairs = []
        for index, (_, stride) in enumerate(_PAIRS):
            out = widths[_group(index)]
            pairs.append(SeparableConvolution(channels, out, stride))
            channels = out
        self.blocks = nn.Sequential(*pairs)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        x = self.blocks(torch.relu(self.bn1(self.conv1(x))))
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _group(index: int) -> str:
    return f"blocks.{index}.pointwise"


def _widths(options: Options) -> dict[str, int]:
    return {"conv1": _STEM} | {_group(index): width for index, (width, _) in enumerate(_PAIRS)}


def _build(widths: Widths, options: Options, classes: int, shape: Shape) -> nn.Module:
    return MobileNetV1(widths, classes, shape[0], min(shape[1:]))


FAMILIES = {"mobilenetv1": Family(_widths, _build)}
