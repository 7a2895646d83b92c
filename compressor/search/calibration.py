"""Costs that are estimates until what a search found is measured: the search is repeated until it finds such a network.

Only the last step of a search is repeated: what comes before is kept in its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compressor.search.problem import Problem, SearchResult, agreed, calibrated_costs


def calibrated(method: Callable[[Problem, Any], SearchResult], problem: Problem, config: Any) -> SearchResult:
    """Search; again, from the search's checkpoints, while a cost of what it found was only an estimate."""
    least = dict(zip(problem.reference.widths, problem.bounds.least.tolist(), strict=True))
    for cost in calibrated_costs(problem):
        cost.begin(problem.reference.with_widths(least))
    before = None
    while not agreed(problem, (found := method(problem, config)).architecture):
        if found.architecture == before:
            break  # a search that trains what it finds cannot find another: the shipped file will be verified
        before = found.architecture
    return found
