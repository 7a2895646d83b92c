"""MobileNetV2 for 32×32 and 64×64 images (Sandler et al. 2018, in the form that NeuralScale section 4 scales).

    1×1 conv – BN – ReLU6 – depth-wise 3×3 – BN – ReLU6 – 1×1 conv – BN, plus a shortcut in every block

Searched are the stem, the block outputs and the head; a block's hidden width follows as six times its input
(NeuralScale section 4.1), in the first block once its input. The shortcut is the identity, or a 1×1 convolution with
batch-norm where stride or width changes.

What the paper leaves out is as its authors' code has it, and every parameter count of its tables needs it: all
convolutions have a bias, the first block expands by 1, and Tiny-ImageNet's 64×64 images are halved once more, where
the 96 channels begin.

`style: tissue` is the network that TissueNet (Tables 2 and 3) seems to start from, by its counts: a 1×1 stem with a
border of one pixel, images halved in the second, third and fourth stage only, and no shortcut where stride or width
changes (unless `shortcut` says otherwise).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from compressor.models.zoo import SHORTCUT, Family, Options, Shape, Widths, convolve_shortcuts

_STAGES = (
    (16, 1, 1, 1),
    (24, 2, 2, 6),
    (32, 3, 2, 6),
    (64, 4, 2, 6),
    (96, 3, 1, 6),
    (160, 3, 2, 6),
    (320, 1, 1, 6),
)  # width, blocks, stride, expansion
_TISSUE_STRIDES = (1, 2, 2, 2, 1, 1, 1)
_STEM, _HEAD = 32, 1280
_LARGE_SIDE, _HALVED_WHEN_LARGE = 64, 96  # pixels; width of the stage that halves images of that side or more


@dataclass(frozen=True)
class _Block:
    """Where a block lies, its default output width, and the name of the group that holds its output."""

    path: str
    width: int
    stride: int
    expansion: int
    group: str


def _blocks(options: Options, side: int = 32) -> Iterator[_Block]:
    """Yield the blocks of the network for images of `side` pixels."""
    index = 0
    for (width, count, first_stride, expansion), tissue_stride in zip(_STAGES, _TISSUE_STRIDES, strict=True):
        first = f"blocks.{index}.project"
        halve = 2 if side >= _LARGE_SIDE and width == _HALVED_WHEN_LARGE else first_stride
        if options["style"] == "tissue":
            halve = tissue_stride
        for position in range(count):
            path = f"blocks.{index}"
            group = first if options["shortcut"] == "identity" else f"{path}.project"
            yield _Block(path, width, halve if position == 0 else 1, expansion, group)
            index += 1


class InvertedResidual(nn.Module):
    """(N, in, H, W) → (N, out, H/stride, W/stride)."""

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        stride: int,
        shortcut: Literal["none", "identity", "conv"],
    ) -> None:
        super().__init__()
        self.expand = nn.Conv2d(in_channels, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.alone = shortcut == "none"
        self.shortcut: nn.Sequential | None = None
        if shortcut == "conv":
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the bottleneck's function to its shortcut."""
        hidden = nn.functional.relu6(self.bn1(self.expand(x)))
        hidden = nn.functional.relu6(self.bn2(self.depthwise(hidden)))
        made = self.bn3(self.project(hidden))
        if self.alone:
            return made  # type: ignore[no-any-return]
        return made + (x if self.shortcut is None else self.shortcut(x))  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """(N, C, H, W) images → (N, classes) logits."""

    def __init__(self, widths: Widths, options: Options, classes: int, in_channels: int, side: int) -> None:
        super().__init__()
        channels, shortcut, tissue = widths["conv1"], options["shortcut"], options["style"] == "tissue"
        self.conv1 = nn.Conv2d(in_channels, channels, 1 if tissue else 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        blocks = []
        source = "conv1"
        for block in _blocks(options, side):
            out = widths[block.group]
            hidden = widths.get(f"{block.path}.expand", block.expansion * channels)
            # With identity shortcuts it is the place that decides: widths of two stages that happen to be equal must
            # not tie the stages together.
            changes = block.group != source if shortcut == "identity" else channels != out or shortcut == "convcut"
            kind: Literal["none", "identity", "conv"] = "identity"
            if block.stride != 1 or changes:
                kind = "none" if tissue and shortcut == "identity" else "conv"
            blocks.append(InvertedResidual(channels, hidden, out, block.stride, kind))
            source, channels = block.group, out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(channels, widths["head"], 1)
        self.bn2 = nn.BatchNorm2d(widths["head"])
        self.classifier = nn.Linear(widths["head"], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        x = self.blocks(nn.functional.relu6(self.bn1(self.conv1(x))))
        x = nn.functional.relu6(self.bn2(self.head(x)))
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _widths(options: Options) -> dict[str, int]:
    widths = {"conv1": _STEM}
    widths.update({block.group: block.width for block in _blocks(options)})
    return widths | {"head": _HEAD}


def _follows(options: Options) -> dict[str, tuple[str, int]]:
    source, follows = "conv1", {}
    for block in _blocks(options):
        follows[f"{block.path}.expand"] = (source, block.expansion)
        source = block.group
    return follows


def _build(widths: Widths, options: Options, classes: int, shape: Shape) -> nn.Module:
    return MobileNetV2(widths, options, classes, shape[0], min(shape[1:]))


_OPTIONS = {"shortcut": SHORTCUT, "style": ("neuralscale", "neuralscale", "tissue")}
FAMILIES = {"mobilenetv2": Family(_widths, _build, _OPTIONS, _follows, prunable=convolve_shortcuts)}
