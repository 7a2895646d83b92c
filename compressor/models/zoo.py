"""What a family of the zoo provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

Options = Mapping[str, Any]
Widths = Mapping[str, int]


@dataclass(frozen=True)
class Family:
    """One width-configurable network of the zoo.

    Attributes:
        widths: options -> the unscaled widths, {group name: channels} in the order of the network
        build: (widths, options, classes, input_shape) -> the network, freshly initialised
        options: {option: (default, valid values...)}
        follows: options -> {group name: (searched group, factor)}: widths that are a multiple of another one
        min_side: smallest image side in pixels that the network's strides and poolings allow
        prunable: options -> options of the build to prune: same names of widths, each of which loses channels by
            itself
    """

    widths: Callable[[Options], dict[str, int]]
    build: Callable[[Widths, Options, int, tuple[int, int, int]], nn.Module]
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    follows: Callable[[Options], dict[str, tuple[str, int]]] = lambda options: {}
    min_side: int = 1
    prunable: Callable[[Options], dict[str, Any]] = lambda options: dict(options)


SHORTCUT = ("identity", "identity", "conv", "convcut")
"""identity: residual-coupled layers share a width. conv: each has its own, and a 1×1 convolution is the shortcut
where the widths differ (NeuralScale's networks). convcut: the shortcut is always a 1×1 convolution (the baseline
of NeuralScale section 6.4)."""


def convolve_shortcuts(options: Options) -> dict[str, Any]:
    """Options of the build on which a network is pruned (a `Family.prunable`).

    A `conv` network has identity shortcuts wherever two widths happen to be equal, and those would tie the widths
    together: it is pruned with a 1×1 convolution in every shortcut.
    """
    return {**options, "shortcut": "convcut"} if options.get("shortcut") == "conv" else dict(options)
