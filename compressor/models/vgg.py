"""VGG with batch-norm for 32×32 images (Simonyan and Zisserman 2015, as used by NeuralScale section 4).

conv3×3 – BN – ReLU, max-pool 2 where the table says M, then one Linear
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from compressor.models.zoo import Family, Options, Shape, Widths

_M = 0  # a max-pooling
_LAYERS: dict[int, tuple[int, ...]] = {
    11: (64, _M, 128, _M, 256, 256, _M, 512, 512, _M, 512, 512, _M),
    16: (64, 64, _M, 128, 128, _M, 256, 256, 256, _M, 512, 512, 512, _M, 512, 512, 512, _M),
    19: (64, 64, _M, 128, 128, _M, *[256] * 4, _M, *[512] * 4, _M, *[512] * 4, _M),
}


class VGG(nn.Module):
    """(N, C, H, W) images with H, W at least 32 → (N, classes) logits."""

    def __init__(self, depth: int, widths: Widths, classes: int, in_channels: int) -> None:
        super().__init__()
        self.plan: list[str] = []
        index, channels = 0, in_channels
        for entry in _LAYERS[depth]:
            if entry == _M:
                self.plan.append("pool")
                continue
            index += 1
            out = widths[f"conv{index}"]
            self.add_module(f"conv{index}", nn.Conv2d(channels, out, 3, padding=1))
            self.add_module(f"bn{index}", nn.BatchNorm2d(out))
            self.plan.append(str(index))
            channels = out
        self.classifier = nn.Linear(channels, classes)
        self._initialise()

    def _initialise(self) -> None:
        # The scheme of the NeuralScale authors' code: Kaiming convolutions, BN scale 1/2, a small classifier.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 0.5)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        for step in self.plan:
            if step == "pool":
                x = nn.functional.max_pool2d(x, 2)
            else:
                x = torch.relu(getattr(self, f"bn{step}")(getattr(self, f"conv{step}")(x)))
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _widths(depth: int, options: Options) -> dict[str, int]:
    convs = [entry for entry in _LAYERS[depth] if entry != _M]
    return {f"conv{index}": width for index, width in enumerate(convs, 1)}


def _build(depth: int, widths: Widths, options: Options, classes: int, shape: Shape) -> nn.Module:
    return VGG(depth, widths, classes, shape[0])


def _family(depth: int) -> Family:
    return Family(partial(_widths, depth), partial(_build, depth), min_side=32)


FAMILIES: dict[str, Any] = {f"vgg{depth}_bn": _family(depth) for depth in _LAYERS}
