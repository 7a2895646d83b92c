"""Random widths: what a search is worth beyond chance (the method `random`)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from compressor.recipe.method import Method, MethodConfig
from compressor.recipe.values import NonNegativeInt
from compressor.search.problem import Problem, SearchResult
from compressor.search.scaling import scale_uniformly


class RandomConfig(MethodConfig):
    """Every width a random share of its own, scaled together to the budget."""

    method: Literal["random"] = "random"
    draw: NonNegativeInt = Field(0, description="which draw, beside the recipe's seed")
    smallest: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="shares lie between this and 1, evenly in the logarithm"
    )


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


METHOD = Method(RandomConfig, search, trains=False)
