"""Networks that grow in depth: Basic3ResNet, Bottleneck4ResNet, Plain3Net and Plain4Net.

The seeds of AutoGrow (Wen et al., KDD 2020) as "Growing Efficient Deep Networks" (section 4.2, appendix A.7) grows
them: a stem of conv-BN-ReLU, then three or four stages of units.

    residual unit   x + f(x), then ReLU; f is conv-BN-ReLU-conv-BN (basic), or 1×1, 3×3 and 1×1 (bottleneck)
    plain unit      f(x), conv-BN-ReLU; with `mix` x + mix·(f(x) - x), where `mix` is a learned number, 1 at first

Unit 0 of a stage sets its resolution and width, with a 1×1 convolution and batch-norm as the shortcut, and always
stays; all later units keep both, so any of them can be left out. All units of a stage share the width of its stream, in
plain networks too. Modules carry the unit's number: layer1.5 is layer1.5 without unit 3 as well.

Three stages have 16, 32 and 64 channels (He et al. 2015, section 4.2), four have 64 to 512, times 4 at the end of
bottlenecks. Networks of four stages begin as on ImageNet (7×7, stride 2, max-pooling) where images have 64 pixels or
more, else with a 3×3 convolution, as those of three stages do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from compressor.errors import ModelError
from compressor.models.zoo import Family, Option, Options, Shape, Unit, Widths
from compressor.models.zoo.resnet import convolution

_LARGE_SIDE = 64  # pixels; from here on a network of four stages begins as on ImageNet
_DEFAULT_UNITS = 12


@dataclass(frozen=True)
class _Seed:
    """What a family is made of: stage widths, kernels of a unit, the stream's width per stage width."""

    stages: tuple[int, ...]
    kernels: tuple[int, ...]
    expansion: int = 1
    plain: bool = False

    @property
    def bases(self) -> dict[str, int]:
        """{module path of a stage: its width}."""
        return {f"layer{number}": width for number, width in enumerate(self.stages, 1)}

    def inner(self, unit: str) -> list[str]:
        """Width groups inside a unit."""
        return [f"{unit}.conv{index}" for index in range(1, len(self.kernels))]

    def stream(self, stage: str) -> str:
        """Width group that all units of a stage share."""
        return f"{stage}.0.conv{len(self.kernels)}"


class ResidualUnit(nn.Module):
    """(N, in, H, W) → (N, out, H/stride, W/stride), activation after the sum.

    Args:
        channels: those that enter, then those that each convolution makes
        kernels: sides of the convolutions
        stride: of the first 3×3 convolution
        first: whether a 1×1 convolution is the shortcut
    """

    def __init__(self, channels: Sequence[int], kernels: Sequence[int], stride: int, first: bool) -> None:
        super().__init__()
        for index, kernel in enumerate(kernels):
            step = stride if index == kernels.index(3) else 1
            self.add_module(f"conv{index + 1}", convolution(channels[index], channels[index + 1], kernel, step))
            self.add_module(f"bn{index + 1}", nn.BatchNorm2d(channels[index + 1]))
        self.depth = len(kernels)
        self.shortcut: nn.Sequential | None = None
        if first:
            project = convolution(channels[0], channels[-1], 1, stride)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(channels[-1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the unit's function to its shortcut and activate."""
        passed = x if self.shortcut is None else self.shortcut(x)
        for index in range(1, self.depth + 1):
            x = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x))
            if index < self.depth:
                x = torch.relu(x)
        return torch.relu(x + passed)


class PlainUnit(nn.Module):
    """(N, in, H, W) → (N, out, H/stride, W/stride) by conv-BN-ReLU, mixed with x if `mixed`."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, mixed: bool) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, out_channels, kernel, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.mix = nn.Parameter(torch.ones(1)) if mixed else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer, or go from x to what it makes of x by the share `mix`."""
        made = torch.relu(self.bn1(self.conv1(x)))
        return made if self.mix is None else x + self.mix * (made - x)


class GrowingNet(nn.Module):
    """(N, C, H, W) images → (N, classes) logits."""

    def __init__(self, seed: _Seed, widths: Widths, options: Options, classes: int, shape: Shape) -> None:
        super().__init__()
        self.large = len(seed.stages) == 4 and min(shape[1:]) >= _LARGE_SIDE
        channels = widths["conv1"]
        self.conv1 = convolution(shape[0], channels, 7, 2) if self.large else convolution(shape[0], channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.stages = list(seed.bases)
        for stage, numbers in zip(self.stages, options["units"], strict=True):
            out, units = widths[seed.stream(stage)], OrderedDict[str, nn.Module]()
            for number in numbers:
                stride = 2 if number == 0 and stage != self.stages[0] else 1
                if seed.plain:
                    mixed = number != 0 and options["mix"]
                    units[str(number)] = PlainUnit(channels, out, seed.kernels[0], stride, mixed)
                else:
                    inner = [widths[group] for group in seed.inner(f"{stage}.{number}")]
                    units[str(number)] = ResidualUnit([channels, *inner, out], seed.kernels, stride, number == 0)
                channels = out
            self.add_module(stage, nn.Sequential(units))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        x = torch.relu(self.bn1(self.conv1(x)))
        if self.large:
            x = nn.functional.max_pool2d(x, 3, 2, 1)
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _widths(seed: _Seed, options: Options) -> dict[str, int]:
    widths = {"conv1": seed.stages[0]}
    for (stage, base), numbers in zip(seed.bases.items(), options["units"], strict=True):
        for number in numbers:
            widths.update(dict.fromkeys(seed.inner(f"{stage}.{number}"), base))
            if number == 0:
                widths[seed.stream(stage)] = base * seed.expansion
    return widths


def _build(seed: _Seed, widths: Widths, options: Options, classes: int, shape: Shape) -> nn.Module:
    return GrowingNet(seed, widths, options, classes, shape)


def _units(seed: _Seed, options: Options) -> dict[str, Unit]:
    found = {}
    last = f"bn{len(seed.kernels)}"
    for stage, numbers in zip(seed.bases, options["units"], strict=True):
        for number in numbers:
            path = f"{stage}.{number}"
            scales: tuple[str, ...] = (f"{path}.{last}.weight", f"{path}.{last}.bias")
            if seed.plain:
                scales = (f"{path}.mix",) if options["mix"] else ()
            found[path] = Unit(stage, number, scales if number else (), number != 0)
    return found


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _complete_units(stages: int, value: Any) -> list[list[int]]:
    """The numbers of the units of every stage; see `_VALID`."""
    if _whole(value, 1):
        return [list(range(value)) for _ in range(stages)]
    if isinstance(value, (list, tuple)) and len(value) == stages:
        if all(_whole(count, 1) for count in value):
            return [list(range(count)) for count in value]
        if all(_numbers(numbers) for numbers in value):
            return [sorted(numbers) for numbers in value]
    raise ModelError(f"model.options.units: {value!r} is not {_VALID.format(stages)}")


def _numbers(value: Any) -> bool:
    """Whether these are the numbers of different units, 0 among them."""
    listed = isinstance(value, (list, tuple)) and all(_whole(number, 0) for number in value)
    return listed and 0 in value and len(set(value)) == len(value)


_VALID = (
    "a whole number of units per stage, a list of {0} such numbers, or a list of {0} lists of unit numbers, each with 0"
)


def _family(seed: _Seed) -> Family:
    stages = len(seed.stages)
    units = Option(_DEFAULT_UNITS, partial(_complete_units, stages), "units per stage, as one number, counts or lists")
    return Family(
        partial(_widths, seed),
        partial(_build, seed),
        {"units": units} | ({"mix": (False, False, True)} if seed.plain else {}),
        # Only mixing shows that the layers of a plain stage share a width.
        traced=(lambda options: {**options, "mix": True}) if seed.plain else (lambda options: dict(options)),
        units=partial(_units, seed),
    )


_THREE, _FOUR = (16, 32, 64), (64, 128, 256, 512)
FAMILIES = {
    "basic3resnet": _family(_Seed(_THREE, (3, 3))),
    "bottleneck4resnet": _family(_Seed(_FOUR, (1, 3, 1), expansion=4)),
    "plain3net": _family(_Seed(_THREE, (3,), plain=True)),
    "plain4net": _family(_Seed(_FOUR, (3,), plain=True)),
}
