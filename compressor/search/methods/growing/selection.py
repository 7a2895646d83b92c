"""From trained indicators to the network that meets the budget exactly: the last selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.costs.solver import Bounds, Cost, Solution, largest_within
from compressor.errors import BudgetError
from compressor.search.methods.growing.space import Drawn, Space
from compressor.search.problem import Problem

_FULL = 0.99  # of the budget: layers that indicators speak against are taken in only to use it


@dataclass(frozen=True)
class Selection:
    """What is kept.

    Attributes:
        drawn: (length,) of the space
        solution: how the budget is met
    """

    drawn: Drawn
    solution: Solution


def select(problem: Problem, space: Space, scores: NDArray[np.float64]) -> Selection:
    """Keep the layers with a score above 0, and of all channels those of highest score that the budget allows.

    Where the last of them leave room, further channels of single groups follow by their rank; where all channels of the
    layers kept are too few for the budget, further layers do.

    Args:
        problem: its budget, costs
        space: what the scores stand for
        scores: (length,) the indicators s; of equal ones those that are a smaller part of their group go first

    Raises:
        BudgetError: one channel in every group and no layer that can be detached is too much
    """
    layers = np.argsort(-scores[space.channels :], kind="stable")
    wanted = int((scores[space.channels :] > 0).sum())
    for count in range(wanted, -1, -1):
        try:
            best = _select(problem, space, scores, _with_layers(space, layers[:count]))
        except BudgetError:
            if count == 0:
                raise
        else:
            break
    if count < wanted:
        return best
    for more in range(wanted + 1, len(layers) + 1):
        if _fullness(problem, best) >= _FULL:
            break
        try:
            other = _select(problem, space, scores, _with_layers(space, layers[:more]))
        except BudgetError:
            break
        best = max(best, other, key=lambda found: _fullness(problem, found))
    return best


def _with_layers(space: Space, layers: NDArray[np.int64]) -> Drawn:
    kept = np.ones(space.length, dtype=bool)
    kept[space.channels :] = np.isin(np.arange(len(space.layers)), layers)
    return kept


def _fullness(problem: Problem, found: Selection) -> float:
    """The largest cost as a share of its limit."""
    return max(found.solution.costs[name] / limit for name, limit in problem.budget.limits.items())


def _select(problem: Problem, space: Space, scores: NDArray[np.float64], kept: Drawn) -> Selection:
    """`select` with the layers given."""
    there = space.there(kept)
    names = [name for name in space.streams.names if name in there or name not in space.slices]
    ranks = _ranks(space, scores, there)
    places = [space.streams.names.index(name) for name in names]
    bounds = Bounds(*(array[places] for array in (space.bounds.minimum, space.bounds.maximum, space.bounds.multiple)))
    steps = np.array([space.graph.groups[name].step for name in names])
    total = sum(len(ranks[name]) for name in there)

    def widths_at(share: float) -> NDArray[np.float64]:
        """Channels (G,) of the groups when so large a share of all is kept."""
        counts = [
            np.searchsorted(ranks[n], share * total, "right") if n in ranks else space.graph.groups[n].slices
            for n in names
        ]
        return np.asarray(counts * steps, dtype=np.float64)

    def cost(name: str) -> Cost:
        return lambda widths: float(problem.costs[name](space.architecture(draw(widths))))

    def draw(widths: Sequence[int]) -> Drawn:
        drawn = np.zeros(space.length, dtype=bool)
        drawn[space.channels :] = kept[space.channels :]
        for name, width, step in zip(names, widths, steps, strict=True):
            if name in space.slices:
                own = space.slices[name]
                drawn[own.start + np.argsort(-scores[own], kind="stable")[: width // step]] = True
        return drawn

    costs = {name: cost(name) for name in problem.budget.limits}
    solution = largest_within(costs, problem.budget.limits, widths_at, low=0.1, high=1.0, bounds=bounds, exchange=True)
    return Selection(draw(solution.widths), solution)


def _ranks(space: Space, scores: NDArray[np.float64], there: list[str]) -> dict[str, NDArray[np.float64]]:
    """{group: places (S,) of its slices among all, rising, from 1}."""
    owners = np.concatenate([np.full(len(scores[space.slices[name]]), index) for index, name in enumerate(there)])
    own = [np.sort(-scores[space.slices[name]]) for name in there]
    part = np.concatenate([np.arange(len(values)) / len(values) for values in own])
    order = np.lexsort((owners, part, np.concatenate(own)))
    place = np.empty(len(order))
    place[order] = np.arange(1, len(order) + 1)
    return {name: place[owners == index] for index, name in enumerate(there)}
