"""From the last draw to the network that meets the budget exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.costs.solver import Bounds, Cost, Solution, largest_within
from compressor.errors import BudgetError
from compressor.search.methods.growing.space import Drawn, Space
from compressor.search.problem import Problem

_FULL = 0.99  # of the budget: layers that were not drawn are taken in only to use it
_REACH = 1  # steps of one group that are exchanged for others', to use more of the budget


@dataclass(frozen=True)
class Selection:
    """What is kept.

    Attributes:
        drawn: (length,) of the space
        solution: how the budget is met
    """

    drawn: Drawn
    solution: Solution


def select(problem: Problem, space: Space, drawn: Drawn, scores: NDArray[np.float64]) -> Selection:
    """Scale a drawn network to the budget: all of its widths alike, then single steps of what groups are cheap enough.

    Within a group the drawn channels are kept first, then those of highest score. Layers stay as drawn; where one
    channel in every group is too much, those of lowest score go, and where all channels of those drawn are too few for
    the budget, further ones follow by their scores.

    Args:
        problem: its budget, costs
        space: what is drawn from
        drawn: (length,) the network to scale
        scores: (length,) the indicators s

    Raises:
        BudgetError: one channel in every group and no layer that can be detached is too much
    """
    own = np.flatnonzero(drawn[space.channels :])
    layers = [*own[np.argsort(-scores[space.channels + own], kind="stable")]]
    rest = np.setdiff1d(np.arange(len(space.layers)), own)
    layers += [*rest[np.argsort(-scores[space.channels + rest], kind="stable")]]
    for count in range(len(own), -1, -1):
        try:
            best = _select(problem, space, drawn, scores, _with_layers(space, layers[:count]))
        except BudgetError:
            if count == 0:
                raise
        else:
            break
    if count < len(own):
        return best
    for more in range(len(own) + 1, len(layers) + 1):
        if _fullness(problem, best) >= _FULL:
            break
        try:
            other = _select(problem, space, drawn, scores, _with_layers(space, layers[:more]))
        except BudgetError:
            break
        best = max(best, other, key=lambda found: _fullness(problem, found))
    return best


def _with_layers(space: Space, layers: Sequence[int]) -> Drawn:
    kept = np.ones(space.length, dtype=bool)
    kept[space.channels :] = np.isin(np.arange(len(space.layers)), layers)
    return kept


def _fullness(problem: Problem, found: Selection) -> float:
    """The largest cost as a share of its limit."""
    return max(found.solution.costs[name] / limit for name, limit in problem.budget.limits.items())


def _select(problem: Problem, space: Space, drawn: Drawn, scores: NDArray[np.float64], kept: Drawn) -> Selection:
    """`select` with the layers given."""
    there = space.there(kept)
    names = [name for name in space.streams.names if name in there or name not in space.slices]
    places = [space.streams.names.index(name) for name in names]
    bounds = Bounds(*(array[places] for array in (space.bounds.minimum, space.bounds.maximum, space.bounds.multiple)))
    steps = np.array([space.graph.groups[name].step for name in names])
    slices = [
        max(1, int(drawn[space.slices[name]].sum())) if name in space.slices else space.graph.groups[name].slices
        for name in names
    ]
    drawn_widths = np.array(slices, dtype=np.float64) * steps
    # The solver rounds down: of blocks of several channels the nearest number is what comes nearest to what was drawn.
    nearest = np.where(bounds.multiple > steps, bounds.multiple / 2, 0.0)
    order = {name: np.lexsort((-scores[own], ~drawn[own])) for name, own in space.slices.items()}

    def cost(name: str) -> Cost:
        return lambda widths: float(problem.costs[name](space.architecture(draw(widths))))

    def draw(widths: Sequence[int]) -> Drawn:
        found = np.zeros(space.length, dtype=bool)
        found[space.channels :] = kept[space.channels :]
        for name, width, step in zip(names, widths, steps, strict=True):
            if name in space.slices:
                found[space.slices[name].start + order[name][: width // step]] = True
        return found

    solution = largest_within(
        {name: cost(name) for name in problem.budget.limits},
        problem.budget.limits,
        lambda scale: scale * drawn_widths + nearest,
        low=0.1,
        high=1.0,
        bounds=bounds,
        exchange=True,
        reach=_REACH,
    )
    return Selection(draw(solution.widths), solution)
