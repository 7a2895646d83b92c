"""The zoo of width-configurable networks: a module for every family or two, found by its place by its `FAMILIES`.

Here is what a family provides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from compressor.errors import ModelError

Options = Mapping[str, Any]
Widths = Mapping[str, int]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Option:
    """An option with more values than one can list.

    Attributes:
        default: its value where a recipe gives none
        complete: value -> the one form that an architecture holds it in; raises ModelError for a value that is not
            allowed
        valid: what is allowed, in words
    """

    default: Any
    complete: Callable[[Any], Any]
    valid: str


@dataclass(frozen=True)
class Unit:
    """A part of a stage that layer-growing may leave out: a residual block, or one layer of a plain network.

    Attributes:
        stage: module path of its stage, such as layer1
        number: its place in the stage, kept when others are absent; its own path is `{stage}.{number}`
        scales: parameters that, all multiplied by m, turn the unit into x + m·f(x), or into (1 - m)·x + m·f(x)
        detachable: False where it changes resolution or width
    """

    stage: str
    number: int
    scales: tuple[str, ...]
    detachable: bool


@dataclass(frozen=True)
class Family:
    """One width-configurable network of the zoo.

    Attributes:
        widths: options -> the unscaled widths, {group name: channels} in the order of the network
        build: (widths, options, classes, input_shape) -> the network, freshly initialised
        options: {option: (default, valid values...), or an `Option`}
        follows: options -> {group name: (searched group, factor)}: widths that are a multiple of another one
        min_side: smallest image side in pixels that the network's strides and poolings allow
        prunable: options -> options of the build to prune: same names of widths, each of which loses channels by
            itself
        traced: options -> options of the build that is traced for the dependency graph, if this one hides what goes
            together
        units: options -> {module path: unit} of what layer-growing may leave out; the option `units` then lists the
            numbers of those that are there, stage by stage
        inputs: images (C, H, W), or tokens (T,) whose vocabulary is the classes
        stackable: (options, input shape) -> {strategy: (options, widths, first layers)} of the build in which
            TissueNet stacks these layers and what follows each, if that differs from the network itself
    """

    widths: Callable[[Options], dict[str, int]]
    build: Callable[[Widths, Options, int, Shape], nn.Module]
    options: Mapping[str, tuple[Any, ...] | Option] = field(default_factory=dict)
    follows: Callable[[Options], dict[str, tuple[str, int]]] = lambda options: {}
    min_side: int = 1
    prunable: Callable[[Options], dict[str, Any]] = lambda options: dict(options)
    traced: Callable[[Options], dict[str, Any]] = lambda options: dict(options)
    units: Callable[[Options], dict[str, Unit]] = lambda options: {}
    inputs: Literal["images", "tokens"] = "images"
    stackable: Callable[[Options, Shape], dict[str, tuple[dict[str, Any], dict[str, int], tuple[str, ...]]]] = (
        lambda options, shape: {}
    )

    def valid(self, option: str) -> str:
        """What an option may be, in words."""
        known = self.options[option]
        return known.valid if isinstance(known, Option) else "|".join(map(str, known[1:]))


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


def dropout_option(default: float) -> Option:
    """The option `dropout`: the share of activations that is dropped in training."""

    def complete(value: Any) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
            raise ModelError(f"model.options.dropout: {value!r} is not a share from 0 to below 1")
        return float(value)

    return Option(default, complete, "a share from 0 to below 1")
