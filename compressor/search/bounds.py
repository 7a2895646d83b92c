"""The widths that a recipe's `widths` section allows a network."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import numpy as np

from compressor.costs.solver import UNBOUNDED, Bounds
from compressor.errors import ModelError, RecipeError, not_one_of
from compressor.models import build_meta, graph_of, steps
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
        RecipeError: a group is unknown, a pattern is that of no layer, or all groups would keep their width
    """
    names = list(reference.widths)
    given = config.minimum if isinstance(config.minimum, dict) else dict.fromkeys(names, config.minimum)
    if unknown := set(given) - set(names):
        raise RecipeError(f"widths.minimum: {not_one_of(min(unknown), names)}")
    minimum = np.array([given.get(name, 1) for name in names])
    own = np.array(list(reference.widths.values()))
    kept = _frozen(config, reference)
    frozen = np.array([name in kept for name in names])
    if frozen.all():
        key = "only" if config.only else "frozen"
        raise RecipeError(f"widths.{key}: every width group of the network would keep its width; leave one free")
    own_steps = steps(reference)
    whole = [_aligned(auto, width) if config.round_to == "auto" else config.round_to for width in own.tolist()]
    multiple = np.array([math.lcm(step, own_steps.get(name, 1)) for name, step in zip(names, whole, strict=True)])
    return Bounds(np.where(frozen, own, minimum), np.where(frozen, own, UNBOUNDED), multiple)


def _frozen(config: WidthsConfig, reference: Architecture) -> set[str]:
    """The groups that keep their width.

    Raises:
        RecipeError: a pattern is that of no layer
    """
    if not config.frozen and not config.only:
        return set()
    layers = _layers(reference)
    everywhere = {path for path, _ in build_meta(reference).named_modules() if path}
    known = sorted({path for paths in layers.values() for path in paths} | everywhere)
    for key, patterns in (("frozen", config.frozen), ("only", config.only)):
        for pattern in patterns:
            if not any(_within(path, pattern) for path in known):
                raise RecipeError(f"widths.{key}: {not_one_of(pattern, known)}, nor a pattern of these")
    found = set()
    for name, paths in layers.items():
        kept = any(_within(path, pattern) for path in paths for pattern in config.frozen)
        left = not config.only or all(any(_within(path, pattern) for pattern in config.only) for path in paths)
        if kept or not left:
            found.add(name)
    return found


def _layers(reference: Architecture) -> dict[str, list[str]]:
    """{width: module paths of the layers that make its channels}."""
    graph = graph_of(reference)
    found = {name: [name] for name in reference.widths}
    for name in set(found) & set(graph.groups):
        found[name] += [made.tensor.rpartition(".")[0] for made in graph.producers(name)]
    return found


def _within(path: str, pattern: str) -> bool:
    """Whether a module path is the one of a pattern, matches it, or is of a module inside."""
    return path == pattern or path.startswith(f"{pattern}.") or fnmatchcase(path, pattern)


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
    elif all(len(set(values.tolist())) == 1 for values in (bounds.minimum, bounds.maximum)):
        # Steps may differ where they follow from the widths themselves (`round_to: auto`): one that suits all.
        return Bounds(bounds.minimum[:1], bounds.maximum[:1], np.gcd.reduce(bounds.multiple)).of(len(other.widths))
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
