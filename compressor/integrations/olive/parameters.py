"""From the parameters of the Olive pass to a recipe. Imports neither olive nor torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from compressor.errors import RecipeError, not_one_of
from compressor.pipeline.sweep_jobs import budget_section, search_section
from compressor.recipe import Recipe, load_recipe, parse_recipe

PASS = "CompressToBudget"
NAMES = ("budget", "method", "data", "epochs", "weights", "recipe", "overrides", "missed")
SEARCHABLE = ("budget", "method")
MISSED = ("fail", "prune")


def recipe_of(parameters: Mapping[str, Any], model: str) -> Recipe:
    """The recipe that a point of the pass's parameters stands for.

    Args:
        parameters: {name: value} of `NAMES`; what is absent or None is as in `recipe`
        model: what `model.name` calls the network

    Raises:
        RecipeError: an unknown parameter, a bad value, or no data, budget or method
    """
    check_names(parameters)
    given = {name: value for name, value in parameters.items() if value is not None}
    if (missed := given.get("missed", "fail")) not in MISSED:
        raise RecipeError(f"{PASS}: missed: {not_one_of(missed, MISSED)}")
    raw = _sections(given.get("recipe", {})) | {"model": {"name": model, "weights": given.get("weights", "given")}}
    method, budget = given.get("method"), given.get("budget")
    if "data" in given:
        raw["data"] = given["data"]
    if isinstance(budget, Mapping):
        raw["budget"] = dict(budget)
    elif budget is not None:
        raw.setdefault("budget", {"params": "1x"})  # what a bare share such as 0.25x limits
    if method is not None:
        raw["search"] = {"method": method.partition(":")[0]} | _mapping(raw, "search")
    if "epochs" in given:
        raw["train"] = _mapping(raw, "train") | {"epochs": given["epochs"]}
    for name, needed in (("data", raw.get("data")), ("budget", raw.get("budget")), ("method", raw.get("search"))):
        if needed is None:
            raise RecipeError(f"{PASS}: {name}: missing; give it as a parameter or in recipe")
    base = parse_recipe({"baselines": []} | raw, given.get("overrides", ()), PASS)
    sections: dict[str, Any] = {}
    if method is not None:
        sections["search"] = search_section(base, method)
    if isinstance(budget, str):
        sections["budget"] = budget_section(base, budget)
    return parse_recipe(base.model_dump(mode="json") | sections, (), PASS) if sections else base


def check_names(parameters: Iterable[str]) -> None:
    """Refuse a parameter that the pass does not have; Olive would only log that it ignores it.

    Raises:
        RecipeError: names the nearest one
    """
    for name in parameters:
        if name not in NAMES:
            raise RecipeError(f"{PASS}: unknown parameter: {not_one_of(name, NAMES)}")


def check_points(fixed: Mapping[str, Any], searched: Mapping[str, Iterable[Any]]) -> None:
    """Check every recipe that a search over the parameters could come to.

    Args:
        fixed: {name: value}
        searched: {name: values}

    Raises:
        RecipeError: of the first that is not valid
    """
    for values in itertools.product(*searched.values()):
        recipe_of({**fixed, **dict(zip(searched, values, strict=True))}, "given:network")


def _sections(recipe: Any) -> dict[str, Any]:
    """Sections of a recipe, given as a file or as a mapping."""
    if isinstance(recipe, Mapping):
        return dict(recipe)
    return load_recipe(recipe).model_dump(mode="json", exclude_unset=True)


def _mapping(raw: Mapping[str, Any], section: str) -> dict[str, Any]:
    value = raw.get(section) or {}
    if not isinstance(value, Mapping):
        raise RecipeError(f"{PASS}: recipe.{section}: {value!r} must be a mapping")
    return dict(value)
