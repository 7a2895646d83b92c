"""Uniform scaling: one width multiplier for all groups (the baseline of NeuralScale section 4.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from compressor.errors import ModelError
from compressor.recipe.method import Method, MethodConfig
from compressor.search.problem import Problem, SearchResult
from compressor.search.scaling import scale_uniformly


class UniformConfig(MethodConfig):
    """One width multiplier for all groups."""

    method: Literal["uniform"] = "uniform"
    shortcut: Literal["convcut"] | None = Field(
        None, description="convcut: scale the network with a 1×1 convolution in every shortcut; null: as the model says"
    )


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


def _with_shortcut(problem: Problem, shortcut: str) -> Problem:
    """The same problem for the network with another kind of shortcut (NeuralScale section 6.4)."""
    from compressor.models import families, reference_architecture
    from compressor.search.bounds import bounds_for

    reference = problem.reference
    able = sorted(
        name
        for name, family in families().items()
        if "shortcut" in family.options and shortcut in family.valid("shortcut").split("|")
    )
    if reference.model not in able:
        raise ModelError(
            f"search.shortcut: {shortcut}: model {reference.model} has no such shortcut; {', '.join(able)} have"
        )
    options = {**reference.options, "shortcut": shortcut}
    other = reference_architecture(reference.model, options, reference.classes, reference.input_shape, problem.width)
    return replace(problem, reference=other, bounds=bounds_for(other, problem, "search.shortcut"))


METHOD = Method(UniformConfig, search, trains=False)
