"""A search method: every layer is wider than the one before it by the same factor, as wide as the budget allows."""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from compressor.costs import largest_within, of_widths
from compressor.search import Method, Problem, SearchResult


class PyramidConfig(BaseModel):
    """The `search` section of recipes; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["pyramid"] = "pyramid"
    slope: float = Field(1.5, gt=0, le=10, description="width of a layer over that of the one before it")


def search(problem: Problem, config: PyramidConfig) -> SearchResult:
    """Find the largest such network within the budget."""
    groups = list(problem.reference.widths)
    shape = config.slope ** np.arange(len(groups))
    costs = {name: of_widths(problem.reference, problem.costs[name]) for name in problem.budget.limits}
    found = largest_within(
        costs, problem.budget.limits, lambda scale: scale * shape, low=1.0, high=64.0, bounds=problem.bounds
    )
    architecture = problem.reference.with_widths(dict(zip(groups, found.widths, strict=True)))
    return SearchResult(architecture, {"iterations": [], "slope": config.slope}, found.one_channel, found.binding)


PYRAMID = Method(PyramidConfig, search, trains=False)
