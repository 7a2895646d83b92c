"""From the parameters of the Olive pass to a recipe. Imports neither olive nor torch."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from compressor import __version__
from compressor.errors import RecipeError, not_one_of
from compressor.files import digest_of, sha256_of
from compressor.pipeline.sweep_jobs import budget_section, search_section
from compressor.recipe import Recipe, load_recipe, parse_recipe
from compressor.user_functions import find_here

PASS = "CompressToBudget"
NAMES = ("budget", "method", "data", "epochs", "weights", "recipe", "overrides", "missed")
SEARCHABLE = ("budget", "method")
INPUTS = "inputs"  # what the pass itself adds to its configuration, see `inputs_of`
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
        if name not in (*NAMES, INPUTS):
            raise RecipeError(f"{PASS}: unknown parameter: {not_one_of(name, NAMES)}")


def inputs_of(parameters: Mapping[str, Any]) -> str:
    """A hash of what the parameters only name: recipe files, data and code, with the version of this package.

    Olive takes a result from its cache when input model and configuration are the same. Of a folder of data, names,
    sizes and times of change count: reading all images may take minutes. Of code, the modules beside the named one do.

    Raises:
        RecipeError: as `recipe_of`
    """
    recipe = recipe_of(parameters, "given:network")
    found = [recipe.to_yaml(), __version__]
    find_here()
    for name, _ in recipe.code.values():
        for path in _modules(name.partition(":")[0]):
            found.append(f"{path} {sha256_of(path)}")
    distill = recipe.train.distill
    named = [recipe.data.path, recipe.model.weights, *recipe.data.options.values()]
    named += [] if distill is None else [distill.teacher.removeprefix("onnx:")]
    for one in named:
        if isinstance(one, str) and os.path.lexists(one):
            found += _listing(Path(one))
    return digest_of("\n".join(found), 16)


def _modules(name: str) -> list[Path]:
    """The file of a module and those beside it, which it may import."""
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # of the user's own package, which is imported for it; the run says what is wrong there
        return []
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return []
    return sorted(Path(spec.origin).parent.glob("*.py"))


def _listing(path: Path) -> Iterator[str]:
    """Name, size and time of change of a file, or of all files in a folder and in folders that it links to."""
    if not path.is_dir():
        with contextlib.suppress(OSError):  # a link that leads nowhere
            about = path.stat()
            yield f"{path} {about.st_size} {about.st_mtime_ns}"
        return
    seen: set[tuple[int, int]] = set()  # a link may lead back
    for root, folders, files in os.walk(path, followlinks=True):
        about = Path(root).stat()
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders.sort()
        for name in sorted(files):
            yield from _listing(Path(root, name))


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
