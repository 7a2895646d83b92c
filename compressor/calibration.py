"""Costs that are estimates until what a search found is measured: the search is repeated until it finds such a network.

Only the last step of a search is repeated: what comes before is kept in its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from compressor.architecture import Architecture
from compressor.search import Problem, SearchResult


@runtime_checkable
class Calibrated(Protocol):
    """A cost that learns from networks really exported or measured."""

    def __call__(self, architecture: Architecture) -> float:
        """What is known of an architecture's cost."""

    def begin(self, least: Architecture) -> None:
        """Another search begins; its least network decides whether the budget can be met at all."""

    def calibrate(self, architecture: Architecture) -> bool:
        """Measure an architecture; returns whether what was found with the estimate may stand."""


def calibrated(method: Callable[[Problem, Any], SearchResult], problem: Problem, config: Any) -> SearchResult:
    """Search; again, from the search's checkpoints, while a cost of what it found was only an estimate."""
    costs = [cost for name in problem.budget.limits if isinstance(cost := problem.costs[name], Calibrated)]
    least = dict(zip(problem.reference.widths, problem.bounds.least.tolist(), strict=True))
    for cost in costs:
        cost.begin(problem.reference.with_widths(least))
    while not _settled(costs, (found := method(problem, config)).architecture):
        pass
    return found


def _settled(costs: list[Calibrated], architecture: Architecture) -> bool:
    settled = True
    for cost in costs:  # all of them learn from it
        settled = cost.calibrate(architecture) and settled
    return settled
