"""Random widths: what a search is worth beyond chance (the method `random`)."""

from __future__ import annotations

import numpy as np

from compressor.recipe import RandomConfig
from compressor.search.problem import Problem, SearchResult
from compressor.search.uniform import scale_uniformly


def search(problem: Problem, config: RandomConfig) -> SearchResult:
    """Draw a share of every width, evenly in its logarithm, and scale the widths drawn to the budget.

    Raises:
        BudgetError: the budget cannot be met
    """
    reference = problem.reference
    widths = np.array(list(reference.widths.values()))
    draws = np.random.default_rng([problem.seed, config.draw]).uniform(size=len(widths))
    drawn = np.maximum(np.rint(widths * config.smallest**draws), 1).astype(int)
    drawn = np.where(problem.bounds.frozen, widths, drawn)
    start = reference.with_widths(dict(zip(reference.widths, drawn.tolist(), strict=True)))
    architecture, solution = scale_uniformly(problem, start)
    trace = {"iterations": [], "drawn": dict(start.widths), "multiplier": solution.scale}
    return SearchResult(architecture, trace, solution.one_channel, solution.binding)
