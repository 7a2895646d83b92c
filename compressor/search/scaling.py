"""One width multiplier for all groups of a network, as large as the budget allows."""

from __future__ import annotations

import numpy as np

from compressor.costs.solver import Solution, largest_within, of_widths
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
    base = np.array(list(start.widths.values()), dtype=np.float64)
    costs = {name: of_widths(start, problem.costs[name]) for name in problem.budget.limits}
    solution = largest_within(
        costs, problem.budget.limits, lambda scale: scale * base, low=0.1, high=1.0, bounds=problem.bounds
    )
    return start.with_widths(dict(zip(start.widths, solution.widths, strict=True))), solution
