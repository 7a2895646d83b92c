"""A run folder: whose it is, and from which parts of the recipe its stages were made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressor.errors import RunError
from compressor.files import read_json, write_atomic, write_json
from compressor.recipe import Recipe, load_recipe

# What a stage's outcome depends on. Device, threads and checkpoint times are not part of it, nor where images lie.
_USES: dict[str, tuple[str, ...]] = {
    "search": ("model", "data", "budget", "search", "baselines", "seed"),
    "train": ("train",),
    "export": ("export",),
    "bench": ("bench",),
}
_LEAVES = {
    "search": ("search.json", "architecture.json", "checkpoints/search/*"),
    "train": ("**/training.json", "**/weights.safetensors", "checkpoints/train-*"),
    "export": ("**/export.json", "**/model.onnx"),
    "bench": ("latency.json",),
}
_PLACES = ("path", "download", "memory_gib")


def claim(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Make a folder this recipe's, or go on in it.

    A resumed recipe may differ in what no stage has used yet.

    Raises:
        RunError: the folder is a file, holds a run (and not `resume`), holds something else, or was made from
            another recipe
    """
    kept = folder / "recipe.yaml"
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file, not a folder")
    if kept.exists():
        if not resume and any(_begun(folder, stage) for stage in _USES):
            raise RunError(f"{folder}: already holds a run; add --resume to go on with it, or name another folder")
        check(folder, recipe)
    elif folder.exists() and any(not _left_by_a_kill(entry) for entry in folder.iterdir()):
        raise RunError(f"{folder}: is not empty and holds no run; name another folder")
    write_atomic(kept, recipe.to_yaml())


def load(folder: Path) -> Recipe:
    """The recipe of a run folder.

    Raises:
        RunError: it is no run folder, or its recipe was changed after a stage had used it
        RecipeError: its recipe is not valid
    """
    kept = folder / "recipe.yaml"
    if not kept.exists():
        raise RunError(f"{folder}: not a run folder: it has no recipe.yaml (begin with: compressor run RECIPE -o OUT)")
    recipe = load_recipe(kept)
    check(folder, recipe)
    return recipe


def record(folder: Path, stage: str, recipe: Recipe) -> None:
    """Note what a stage is made from."""
    path = folder / "stages.json"
    known = read_json(path) if path.exists() else {}
    if stage in _USES and (stage not in known or not _begun(folder, stage)):
        write_json(path, known | {stage: _used(stage, recipe)})


def check(folder: Path, recipe: Recipe) -> None:
    """Refuse a recipe that differs in what a stage of this folder has used.

    Raises:
        RunError: names the keys that differ
    """
    path = folder / "stages.json"
    known = read_json(path) if path.exists() else {}
    for stage, old in known.items():
        if not _begun(folder, stage):
            continue  # it failed before it left anything, on a budget that cannot be met, say
        if changed := _difference(old, _used(stage, recipe)):
            raise RunError(
                f"{folder / 'recipe.yaml'}: {', '.join(changed)} differs from what the {stage} stage of this run used; "
                "change it back, or begin in another folder"
            )


def _begun(folder: Path, stage: str) -> bool:
    """Whether a stage has left anything in the folder that later work builds on."""
    return any(next(folder.glob(pattern), None) is not None for pattern in _LEAVES[stage])


def _used(stage: str, recipe: Recipe) -> dict[str, Any]:
    dumped = recipe.model_dump(mode="json", include=set(_USES[stage]))
    if "data" in dumped:
        dumped["data"] = {key: value for key, value in dumped["data"].items() if key not in _PLACES}
    return dumped


def _difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    changed = []
    for section, value in new.items():
        before = old.get(section)
        if isinstance(value, dict) and isinstance(before, dict):
            keys = sorted(set(value) | set(before))
            changed += [f"{section}.{key}" for key in keys if value.get(key) != before.get(key)]
        elif value != before:
            changed.append(section)
    return changed


def _left_by_a_kill(entry: Path) -> bool:
    return entry.name.startswith(".") and entry.name.endswith(".tmp")
