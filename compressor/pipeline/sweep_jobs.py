"""What a comparison of methods runs: every method at every budget with every seed, and the unscaled network.

Names, options and values are checked here, before anything is built. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.errors import RecipeError, not_one_of
from compressor.recipe import Recipe, costs, parse_recipe
from compressor.recipe import methods as all_methods

UNSCALED = "unscaled"
_SHARE = re.compile(r"[0-9.]+(?:[eE][+-]?[0-9]+)?x")
_LIMIT = re.compile(r"([A-Za-z_]+)=([^=+\s]+)")


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Attributes:
        method: as the user named it, or `UNSCALED`
        budget: as the user named it; "" for the unscaled network
        seed: of this run
        recipe: of its run folder
        folder: the run folder, relative to the comparison's
        work: what searches of the same method and seed share, relative to the comparison's folder
    """

    method: str
    budget: str
    seed: int
    recipe: Recipe
    folder: str
    work: str

    @property
    def name(self) -> str:
        """What people call it."""
        return " ".join(part for part in (self.method, self.budget, f"seed {self.seed}") if part)


@dataclass(frozen=True)
class Sweep:
    """A comparison before anything has run; `jobs` are in the order in which they run."""

    recipe: Recipe
    methods: tuple[str, ...]
    budgets: tuple[str, ...]
    seeds: tuple[int, ...]
    jobs: tuple[Job, ...]


def make_sweep(recipe: Recipe, methods: Sequence[str], budgets: Sequence[str], seeds: int) -> Sweep:
    """Lay out a comparison.

    Args:
        recipe: model, data and training of all runs; its own `search` keys are taken by every method that has them
        methods: "NAME" or "NAME:key=value;key=value" each
        budgets: "0.25x", a share of what the unscaled network costs in the costs that the recipe's budget limits, or
            "params=37k", "params=0.25x+macs=1M"
        seeds: how many; counted up from the recipe's

    Raises:
        RecipeError: an unknown method, option or cost, a bad value, nothing to compare, or the same thing twice
    """
    methods, budgets = tuple(name.strip() for name in methods), tuple(name.strip() for name in budgets)
    for what, names in (("methods", methods), ("budgets", budgets)):
        _check_names(what, names)
    if isinstance(seeds, bool) or seeds < 1:
        raise RecipeError(f"seeds: {seeds!r} is not valid: must be 1 or more")
    if "undistilled" in recipe.baselines:
        raise RecipeError("baselines: undistilled is of a single run; in a sweep compare recipes with and without")
    searches = {name: search_section(recipe, name) for name in methods}
    limits = {name: budget_section(recipe, name) for name in budgets}
    numbers = tuple(range(recipe.seed, recipe.seed + seeds))
    jobs: list[Job] = []
    for seed in numbers:
        jobs.append(_unscaled(recipe, seed))
        for method, search in searches.items():
            jobs += [
                Job(
                    method,
                    budget,
                    seed=seed,
                    recipe=_derived(recipe, f"{method} at {budget}", search=search, budget=limit, seed=seed),
                    folder=f"runs/{_slug(method)}/{_slug(budget)}/{seed}",
                    work=f"shared/{_slug(method)}-{seed}",
                )
                for budget, limit in limits.items()
            ]
    return Sweep(recipe, methods, budgets, numbers, tuple(jobs))


def _check_names(what: str, names: Sequence[str]) -> None:
    if not any(names):
        raise RecipeError(f"{what}: give at least one")
    slugs = [_slug(name) for name in names]
    for name, slug in zip(names, slugs, strict=True):
        if not slug:
            raise RecipeError(f"{what}: {name!r} in {','.join(names)!r} is not a name")
        if slugs.count(slug) > 1 or slug == UNSCALED:
            raise RecipeError(f"{what}: {name!r} is given twice, or too like another one")


def _unscaled(recipe: Recipe, seed: int) -> Job:
    # Not by its latency: networks whose measured latency equals the unscaled one's are others all the same.
    untimed = [name for name in recipe.budget.names if not costs()[name].timed]
    budget = dict.fromkeys(untimed or ["params"], "1x")
    train = recipe.train.model_dump(mode="json") | {"distill": None}  # it is the teacher, if anything
    derived = _derived(recipe, UNSCALED, search={"method": "uniform"}, budget=budget, seed=seed, train=train)
    return Job(
        UNSCALED, "", seed=seed, recipe=derived, folder=f"runs/{UNSCALED}/{seed}", work=f"shared/{UNSCALED}-{seed}"
    )


def search_section(recipe: Recipe, text: str) -> dict[str, Any]:
    """The `search` section that a method's name stands for: "NAME" or "NAME:key=value;key=value"."""
    name, colon, options = text.partition(":")
    known = all_methods()
    if name not in known:
        raise RecipeError(f"methods: {not_one_of(name, known)}")
    given = recipe.search.model_dump(mode="json", include=recipe.search.model_fields_set)
    section = {key: value for key, value in given.items() if key in known[name].config.model_fields}
    overrides = []
    for option in options.split(";") if colon else ():
        key, equals, value = (part.strip() for part in option.partition("="))
        if not equals or not key or key == "method":
            raise RecipeError(f"methods: {text!r}: {option!r} must look like key=value")
        overrides.append(f"search.{key}={value}")
    derived = _derived(recipe, f"methods: {text}", overrides, search=section | {"method": name})
    return derived.search.model_dump(mode="json")


def budget_section(recipe: Recipe, text: str) -> dict[str, Any]:
    """The `budget` section that a budget's name stands for: "0.25x" or "params=37k+macs=1M"."""
    if _SHARE.fullmatch(text):
        section = recipe.budget.at_share(text)
    else:
        parts = [_LIMIT.fullmatch(part.strip()) for part in re.split(r"\+(?=\s*[A-Za-z_]+=)", text)]
        found = {part[1]: part[2] for part in parts if part}
        if len(found) < len(parts):
            raise RecipeError(
                f"budgets: {text!r} is not valid: must be a share of the unscaled network such as 0.25x, or limits "
                "such as params=37k or params=0.25x+macs=1M"
            )
        section = recipe.budget.with_conditions(found)
    return _derived(recipe, f"budgets: {text}", budget=section).budget.model_dump(mode="json", exclude_none=True)


def _derived(recipe: Recipe, source: str, overrides: Iterable[str] = (), **sections: Any) -> Recipe:
    """The recipe with some sections replaced and no references: those are runs of their own."""
    raw = recipe.model_dump(mode="json") | sections | {"baselines": []}
    return parse_recipe(raw, overrides, source)


def _slug(name: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")
