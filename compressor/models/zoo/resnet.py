"""Residual networks for 32×32 images.

Pre-activation ResNet-18/34 (He et al. 2016, "Identity mappings"; NeuralScale's ResNet18): the block is
BN-ReLU-conv twice, the shortcut is the raw input, or a 1×1 convolution of the activated one where stride or width
changes; no ReLU before the pooling (so NeuralScale's code). ResNet-20 (He et al. 2015, section 4.2): conv-BN-ReLU,
three stages of three blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from compressor.models.zoo import SHORTCUT, Family, Options, Shape, Widths, convolve_shortcuts


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the resolution at stride 1, initialised as in He et al. 2015."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _needs_conv(shortcut: str, stride: int, in_channels: int, out_channels: int) -> bool:
    return stride != 1 or in_channels != out_channels or shortcut == "convcut"


class PreActBlock(nn.Module):
    """(N, in, H, W) → (N, out, H/stride, W/stride); `dropout` is the share dropped between the convolutions."""

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, stride: int, shortcut: str, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(in_channels, inner, 3, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = convolution(inner, out_channels, 3)
        self.shortcut = (
            convolution(in_channels, out_channels, 1, stride)
            if _needs_conv(shortcut, stride, in_channels, out_channels)
            else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the block's function to its shortcut."""
        active = torch.relu(self.bn1(x))
        passed = x if self.shortcut is None else self.shortcut(active)
        inner = torch.relu(self.bn2(self.conv1(active)))
        inner = nn.functional.dropout(inner, self.dropout, self.training)
        return self.conv2(inner) + passed  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """(N, in, H, W) → (N, out, H/stride, W/stride), activation after the sum."""

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, inner, 3, stride)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = convolution(inner, out_channels, 3)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Sequential | None = None
        if _needs_conv(shortcut, stride, in_channels, out_channels):
            self.shortcut = nn.Sequential(
                convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the block's function to its shortcut and activate."""
        passed = x if self.shortcut is None else self.shortcut(x)
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + passed)


class ResNet(nn.Module):
    """(N, C, H, W) images → (N, classes) logits."""

    def __init__(
        self,
        blocks: Sequence[int],
        preact: bool,
        widths: Widths,
        shortcut: str,
        classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        channels = widths["conv1"]
        self.conv1 = convolution(in_channels, channels, 3)
        self.bn1 = None if preact else nn.BatchNorm2d(channels)
        kind = PreActBlock if preact else BasicBlock
        layers = []
        for stage, count in enumerate(blocks, 1):
            stage_blocks = []
            for index in range(count):
                path = f"layer{stage}.{index}"
                stride = 2 if stage > 1 and index == 0 else 1
                out = widths[_output(path, stage, index, shortcut)]
                stage_blocks.append(kind(channels, widths[f"{path}.conv1"], out, stride, shortcut))
                channels = out
            layer = nn.Sequential(*stage_blocks)
            self.add_module(f"layer{stage}", layer)
            layers.append(layer)
        self.depth = len(layers)
        # No ReLU before pooling, as in NeuralScale's code, which has one more batch-norm here.
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        x = self.conv1(x)
        if self.bn1 is not None:
            x = torch.relu(self.bn1(x))
        for stage in range(1, self.depth + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _output(path: str, stage: int, index: int, shortcut: str) -> str:
    """Name of the width group that holds a block's output."""
    if shortcut != "identity":
        return f"{path}.conv2"
    # Identity shortcuts tie every block output of a stage; stage 1 is tied to the stem as well.
    return "conv1" if stage == 1 else f"layer{stage}.0.conv2"


def _widths(blocks: Sequence[int], base: int, options: Options) -> dict[str, int]:
    widths = {"conv1": base}
    for stage, count in enumerate(blocks, 1):
        channels = base * 2 ** (stage - 1)
        for index in range(count):
            path = f"layer{stage}.{index}"
            widths[f"{path}.conv1"] = channels
            widths[_output(path, stage, index, options["shortcut"])] = channels
    return widths


def _build(
    blocks: Sequence[int],
    preact: bool,
    widths: Widths,
    options: Options,
    classes: int,
    shape: Shape,
) -> nn.Module:
    return ResNet(blocks, preact, widths, shortcut=options["shortcut"], classes=classes, in_channels=shape[0])


def _family(blocks: Sequence[int], base: int, preact: bool) -> Family:
    return Family(
        partial(_widths, blocks, base),
        partial(_build, blocks, preact),
        {"shortcut": SHORTCUT},
        prunable=convolve_shortcuts,
    )


FAMILIES = {
    "preact_resnet18": _family((2, 2, 2, 2), 64, True),
    "preact_resnet34": _family((3, 4, 6, 3), 64, True),
    "resnet20": _family((3, 3, 3), 16, False),
}
