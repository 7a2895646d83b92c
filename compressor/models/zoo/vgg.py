"""VGG with batch-norm for 32×32 images (Simonyan and Zisserman 2015, as used by NeuralScale section 4).

conv3×3 – BN – ReLU, max-pool 2 where the table says M, then one Linear

The option `pairs` names stages, counted from 1, that have exactly two convolutions behind the one that enters them: the
form in which TissueNet (section 3.3) puts one stacked layer in place of the rest of a stage. Convolutions keep their
names; one that is added is called after the last of its stage, conv2b after conv2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from compressor.errors import ModelError
from compressor.models.zoo import Family, Option, Options, Shape, Widths

_WIDTHS = (64, 128, 256, 512, 512)  # of the stages
_LAYERS: dict[int, tuple[int, ...]] = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_PAIR = 3  # convolutions of a stage that enters with one and has a pair behind it


def _stages(depth: int, pairs: Sequence[int]) -> list[list[str]]:
    """Names of the convolutions, stage by stage, without "conv"."""
    stages, index = [], 0
    for stage, count in enumerate(_LAYERS[depth], 1):
        names = [str(index + place) for place in range(1, count + 1)]
        index += count
        if stage in pairs:
            names = (names + [f"{index}{letter}" for letter in "bc"])[:_PAIR]
        stages.append(names)
    return stages


class VGG(nn.Module):
    """(N, C, H, W) images with H, W at least 32 → (N, classes) logits."""

    def __init__(self, stages: Sequence[Sequence[str]], widths: Widths, classes: int, in_channels: int) -> None:
        super().__init__()
        self.steps: list[str] = []
        channels = in_channels
        for stage in stages:
            for name in stage:
                out = widths[f"conv{name}"]
                self.add_module(f"conv{name}", nn.Conv2d(channels, out, 3, padding=1))
                self.add_module(f"bn{name}", nn.BatchNorm2d(out))
                channels = out
            self.steps += [*stage, "pool"]
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
        for step in self.steps:
            if step == "pool":
                x = nn.functional.max_pool2d(x, 2)
            else:
                x = torch.relu(getattr(self, f"bn{step}")(getattr(self, f"conv{step}")(x)))
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _widths(depth: int, options: Options) -> dict[str, int]:
    stages = zip(_stages(depth, options["pairs"]), _WIDTHS, strict=True)
    return {f"conv{name}": width for stage, width in stages for name in stage}


def _build(depth: int, widths: Widths, options: Options, classes: int, shape: Shape) -> nn.Module:
    return VGG(_stages(depth, options["pairs"]), widths, classes, shape[0])


def _complete_pairs(value: Any) -> list[int]:
    listed = isinstance(value, (list, tuple)) and all(type(stage) is int and 1 <= stage <= 5 for stage in value)
    if not listed or len(set(value)) < len(value):
        raise ModelError(f"model.options.pairs: {value!r} is not {_VALID}")
    return sorted(value)


_VALID = "a list of different stages, 1 to 5"


def _stackable(
    depth: int, options: Options, shape: Shape
) -> dict[str, tuple[dict[str, Any], dict[str, int], tuple[str, ...]]]:
    """TissueNet's form: behind the convolution that enters a stage there is one stacked layer (section 4.2.1)."""
    every = (1, 2, 3, 4, 5)
    forms = {"all": every, "r": every[1:-1]}  # r: of the same network the first and last pair stay as they are
    names = _stages(depth, every)
    return {
        strategy: ({"pairs": [*every]}, {}, tuple(f"conv{names[stage - 1][1]}" for stage in stages))
        for strategy, stages in forms.items()
    }


def _family(depth: int) -> Family:
    pairs = Option([], _complete_pairs, _VALID)
    return Family(
        partial(_widths, depth),
        partial(_build, depth),
        {"pairs": pairs},
        min_side=32,
        stackable=partial(_stackable, depth),
    )


FAMILIES: dict[str, Any] = {f"vgg{depth}_bn": _family(depth) for depth in _LAYERS}
