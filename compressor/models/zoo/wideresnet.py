"""Wide residual networks for 32×32 images (Zagoruyko and Komodakis 2016).

A 3×3 stem of 16 channels, then three stages of pre-activation blocks (`compressor.models.zoo.resnet.PreActBlock`), with
dropout between a block's convolutions where asked for; batch-norm and ReLU before the pooling. WRN-28-10 has stages of
four blocks with 160, 320 and 640 channels, 36.5 M parameters with 10 classes.

The stem has a width of its own: the first block of every stage, the first included, has a 1×1 convolution as its
shortcut.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from compressor.models.zoo import SHORTCUT, Family, Options, Shape, Widths, convolve_shortcuts, dropout_option
from compressor.models.zoo.resnet import PreActBlock, convolution

_STEM, _STAGES = 16, 3


class WideResNet(nn.Module):
    """(N, C, H, W) images → (N, classes) logits; `blocks` is their number per stage."""

    def __init__(self, blocks: int, widths: Widths, options: Options, classes: int, in_channels: int) -> None:
        super().__init__()
        shortcut, channels = options["shortcut"], widths["conv1"]
        self.conv1 = convolution(in_channels, channels, 3)
        for stage in range(1, _STAGES + 1):
            made = []
            for index in range(blocks):
                path = f"layer{stage}.{index}"
                inner, out = widths[f"{path}.conv1"], widths[_output(path, shortcut)]
                stride = 2 if stage > 1 and index == 0 else 1
                # It is the place that decides: equal widths must not tie a stage to the one before.
                kind = "convcut" if shortcut == "identity" and index == 0 else shortcut
                made.append(PreActBlock(channels, inner, out, stride=stride, shortcut=kind, dropout=options["dropout"]))
                channels = out
            self.add_module(f"layer{stage}", nn.Sequential(*made))
        self.bn = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        x = self.conv1(x)
        for stage in range(1, _STAGES + 1):
            x = getattr(self, f"layer{stage}")(x)
        x = torch.relu(self.bn(x))
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _output(path: str, shortcut: str) -> str:
    """Name of the width group that holds a block's output."""
    return f"{path.partition('.')[0]}.0.conv2" if shortcut == "identity" else f"{path}.conv2"


def _widths(blocks: int, factor: int, options: Options) -> dict[str, int]:
    widths = {"conv1": _STEM}
    for stage in range(1, _STAGES + 1):
        channels = _STEM * factor * 2 ** (stage - 1)
        for index in range(blocks):
            path = f"layer{stage}.{index}"
            widths[f"{path}.conv1"] = channels
            widths[_output(path, options["shortcut"])] = channels
    return widths


def _build(blocks: int, widths: Widths, options: Options, classes: int, shape: Shape) -> nn.Module:
    return WideResNet(blocks, widths, options, classes, shape[0])


def _family(depth: int, factor: int) -> Family:
    blocks = (depth - 4) // (2 * _STAGES)
    return Family(
        partial(_widths, blocks, factor),
        partial(_build, blocks),
        {"shortcut": SHORTCUT, "dropout": dropout_option(0.0)},
        prunable=convolve_shortcuts,
    )


FAMILIES = {"wrn28_10": _family(28, 10)}
