"""One width multiplier for all groups of a network, as large as the budget allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from compressor.costs.solver import Bounds, Solution, largest_within, of_widths
from compressor.models.architecture import Architecture
from compressor.search.problem import Problem


def scale_uniformly(problem: Problem, start: Architecture | None = None) -> tuple[Architecture, Solution]:
    """The largest uniformly scaled network within the problem's budget.

    Args:
        problem: budget, costs and the widths allowed
        start: the network to scale; None: the reference

    Raises:
        BudgetError: the budget cannot be met
    """
    start = start or problem.reference
    solution = scaled_widths(start, problem.costs, problem.budget.limits, problem.bounds)
    return start.with_widths(dict(zip(start.widths, solution.widths, strict=True))), solution


def scaled_widths(
    start: Architecture,
    costs: Mapping[str, Callable[[Architecture], float]],
    limits: Mapping[str, float],
    bounds: Bounds,
) -> Solution:
    """The largest widths in the proportions of a network, but for bounds and what fills the budget.

    Args:
        start: the network
        costs: {cost name: cost of an architecture}
        limits: {cost name: largest allowed value}
        bounds: of its widths

    Raises:
        BudgetError: the limits cannot be met
    """
    base = np.array(list(start.widths.values()), dtype=np.float64)
    of_start = {name: of_widths(start, costs[name]) for name in limits}
    return largest_within(
        of_start, limits, lambda scale: scale * base, low=0.1, high=1.0, bounds=bounds, exchange=bounds.coarse, reach=1
    )
