"""Uniform scaling: one width multiplier for all groups (the baseline of NeuralScale section 4.2)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compressor.architecture import Architecture
from compressor.costs.params_macs import of_widths
from compressor.costs.solver import Solution, largest_within
from compressor.errors import ModelError
from compressor.models import families, reference_architecture
from compressor.models.zoo import Family
from compressor.recipe import UniformConfig
from compressor.search.problem import Problem, SearchResult, bounds_for


def search(problem: Problem, config: UniformConfig) -> SearchResult:
    """Scale all widths alike to the largest network within the budget.

    Raises:
        BudgetError: the budget cannot be met
        ModelError: the network has no such shortcut
    """
    if config.shortcut is not None:
        problem = _with_shortcut(problem, config.shortcut)
    architecture, solution = scale_uniformly(problem)
    trace = {"iterations": [], "multiplier": solution.scale}
    return SearchResult(architecture, trace, solution.one_channel, solution.binding)


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
    solution = largest_within(costs, problem.budget.limits, lambda scale: scale * base, 0.1, 1.0, problem.bounds)
    return start.with_widths(dict(zip(start.widths, solution.widths, strict=True))), solution


def _shortcuts(family: Family) -> list[str]:
    return family.valid("shortcut").split("|") if "shortcut" in family.options else []


def _with_shortcut(problem: Problem, shortcut: str) -> Problem:
    """The same problem for the network with another kind of shortcut (NeuralScale section 6.4)."""
    reference = problem.reference
    able = sorted(name for name, family in families().items() if shortcut in _shortcuts(family))
    if reference.model not in able:
        raise ModelError(
            f"search.shortcut: {shortcut}: model {reference.model} has no such shortcut; {', '.join(able)} have"
        )
    options = {**reference.options, "shortcut": shortcut}
    other = reference_architecture(reference.model, options, reference.classes, reference.input_shape, problem.width)
    return replace(problem, reference=other, bounds=bounds_for(other, problem, "search.shortcut"))
