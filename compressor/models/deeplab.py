"""Semantic segmentation: torchvision's networks as modules that give logits, and a small DeepLab-v3.

DeepLab-v3 (Chen et al. 2017): a backbone whose last stage is dilated instead of halved, atrous spatial pyramid pooling
(ASPP), and a 3×3 and a 1×1 convolution, whose result is resized to the image.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.lraspp import LRASPP

_RATES, _HEAD = (2, 4, 6), 24
# width, stride, dilation of the small network's stages; its features have a quarter of the image's side
_STAGES = ((16, 1, 1), (24, 2, 1), (32, 1, 2))


class Segmenter(nn.Module):
    """(N, C, H, W) images → (N, classes, H, W) logits; in training those of an auxiliary head behind them, if any.

    Args:
        backbone: images → {"out": features, "aux": features of the auxiliary head}
        classifier: features → coarse logits; with `whole` of all of the backbone's output
        auxiliary: "aux" features → coarse logits
    """

    def __init__(
        self, backbone: nn.Module, classifier: nn.Module, auxiliary: nn.Module | None = None, whole: bool = False
    ) -> None:
        super().__init__()
        self.backbone, self.classifier, self.aux_classifier = backbone, classifier, auxiliary
        self.whole = whole

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Images to logits of every pixel."""
        features = self.backbone(x)
        logits = self._resized(self.classifier(features if self.whole else features["out"]), x)
        if self.aux_classifier is None or not self.training:
            return logits
        return logits, self._resized(self.aux_classifier(features["aux"]), x)

    @staticmethod
    def _resized(coarse: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)


def segmenter_of(network: nn.Module) -> Segmenter:
    """A segmentation network of torchvision, which gives {"out": logits, "aux": logits}, with its parts' names kept."""
    whole = isinstance(network, LRASPP)
    auxiliary = getattr(network, "aux_classifier", None)
    return Segmenter(network.get_submodule("backbone"), network.get_submodule("classifier"), auxiliary, whole)


class _Block(nn.Module):
    """(N, in, H, W) → (N, out, H/stride, W/stride), activation after the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.project = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the block's function to its shortcut and activate."""
        made = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(made + self.project(x))


class _Backbone(nn.Module):
    """(N, 3, H, W) → {"out": (N, 32, H/4, W/4)}."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, _STAGES[0][0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STAGES[0][0])
        entering = [_STAGES[0][0], *(width for width, _, _ in _STAGES)]
        self.blocks = nn.Sequential(*(_Block(before, *stage) for before, stage in zip(entering, _STAGES, strict=False)))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images to features."""
        return {"out": self.blocks(torch.relu(self.bn1(self.conv1(x))))}


def deeplabv3_small(num_classes: int, channels: int = 3) -> nn.Module:
    """DeepLab-v3 with a residual backbone of three blocks and a tenth of the usual channels, for small images.

    Args:
        num_classes: number of classes, the background included
        channels: of the images
    """
    head = nn.Sequential(
        ASPP(_STAGES[-1][0], _RATES, _HEAD),
        nn.Conv2d(_HEAD, _HEAD, 3, padding=1, bias=False),
        nn.BatchNorm2d(_HEAD),
        nn.ReLU(),
        nn.Conv2d(_HEAD, num_classes, 1),
    )
    return Segmenter(_Backbone(channels), head)
