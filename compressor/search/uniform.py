"""Uniform scaling: one width multiplier for all groups (the baseline of NeuralScale section 4.2)."""

from __future__ import annotations

import numpy as np

from compressor.architecture import Architecture
from compressor.cost import of_widths
from compressor.recipe import UniformConfig
from compressor.search.problem import Problem, SearchResult
from compressor.solve import Solution, largest_within


def search(problem: Problem, config: UniformConfig) -> SearchResult:
    """Scale all widths alike to the largest network within the budget.

    Raises:
        BudgetError: the budget cannot be met
    """
    architecture, solution = scale_uniformly(problem)
    trace = {"iterations": [], "multiplier": solution.scale}
    return SearchResult(architecture, trace, solution.one_channel)


def scale_uniformly(problem: Problem) -> tuple[Architecture, Solution]:
    """The largest uniformly scaled reference network within the problem's budget."""
    reference = problem.reference
    base = np.array(list(reference.widths.values()), dtype=np.float64)
    costs = {name: of_widths(reference, problem.costs[name]) for name in problem.budget.limits}
    solution = largest_within(costs, problem.budget.limits, lambda scale: scale * base, 0.1, 1.0)
    return reference.with_widths(dict(zip(reference.widths, solution.widths, strict=True))), solution
