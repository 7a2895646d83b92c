"""The widths that a recipe's `widths` section allows a network."""

from __future__ import annotations

import math

import numpy as np

from compressor.costs.solver import UNBOUNDED, Bounds
from compressor.errors import ModelError, RecipeError, not_one_of
from compressor.models import steps
from compressor.models.architecture import Architecture
from compressor.recipe import WidthsConfig
from compressor.search.problem import Problem


def bounds_of(config: WidthsConfig, reference: Architecture, auto: int = 1) -> Bounds:
    """The widths that a recipe's `widths` section allows, in the order of the reference's.

    A width is a whole number of the network's own steps (channels of a grouped convolution) and of `round_to`, also
    where the unscaled network is narrower than that; a frozen group keeps its width as it is.

    Args:
        config: the section
        reference: the unscaled network
        auto: what `round_to: auto` stands for; less for groups that have less than four times as many channels

    Raises:
        RecipeError: a group is unknown
    """
    names = list(reference.widths)
    given = config.minimum if isinstance(config.minimum, dict) else dict.fromkeys(names, config.minimum)
    for path, groups in (("minimum", given), ("frozen", config.frozen)):
        if unknown := set(groups) - set(names):
            raise RecipeError(f"widths.{path}: {not_one_of(min(unknown), names)}")
    minimum = np.array([given.get(name, 1) for name in names])
    own = np.array(list(reference.widths.values()))
    frozen = np.array([name in config.frozen for name in names])
    if frozen.all():
        raise RecipeError("widths.frozen: names every width group of the network; leave one free")
    own_steps = steps(reference)
    whole = [_aligned(auto, width) if config.round_to == "auto" else config.round_to for width in own.tolist()]
    multiple = np.array([math.lcm(step, own_steps.get(name, 1)) for name, step in zip(names, whole, strict=True)])
    return Bounds(np.where(frozen, own, minimum), np.where(frozen, own, UNBOUNDED), multiple)


def bounds_for(other: Architecture, problem: Problem, path: str) -> Bounds:
    """The problem's bounds for the widths of another form of its network, by their names.

    Args:
        other: the network in that form
        problem: bounds the widths of its reference
        path: what in the recipe asks for that form

    Raises:
        ModelError: single widths are bounded, and the other form names its widths otherwise
    """
    names, bounds = list(problem.reference.widths), problem.bounds
    if set(other.widths) <= set(names):
        places = [names.index(name) for name in other.widths]
    elif all(len(set(values.tolist())) == 1 for values in (bounds.minimum, bounds.maximum, bounds.multiple)):
        places = [0] * len(other.widths)
    else:
        new = min(set(other.widths) ^ set(names))
        raise ModelError(
            f"{path}: with it the widths of {other.model} are named otherwise ({new}), so limits of single "
            "widths have no meaning there"
        )
    return Bounds(bounds.minimum[places], bounds.maximum[places], bounds.multiple[places])


def _aligned(step: int, width: int) -> int:
    """The largest half, quarter, ... of a step that a group of this width has at least four times."""
    while step > 1 and 4 * step > width:
        step //= 2
    return step
