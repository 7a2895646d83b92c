"""A run folder: whose it is, and from which parts of the recipe its stages were made."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from compressor.errors import RunError
from compressor.files import cache_folder, digest_of, read_json, sha256_of, write_atomic, write_json
from compressor.recipe import Recipe, costs, load_recipe, method_of
from compressor.recipe.model_name import ModelName
from compressor.recipe.sections import USUAL_OPSET, WEIGHTS_FILES

# What a stage's outcome depends on. Device, threads and checkpoint times are not part of it, nor where images lie.
_USES: dict[str, tuple[str, ...]] = {
    "search": ("model", "data", "budget", "widths", "search", "baselines", "seed"),
    "train": ("train", "finetune", "evaluate"),
    "export": ("export",),
    "bench": ("bench",),
}


def _of_networks(*names: str) -> tuple[str, ...]:
    """Files of the result and of every reference; those of a paused search's network, in `now`, are of no stage."""
    return tuple(pattern for name in names for pattern in (name, f"baselines/*/{name}"))


PLAN = "precision.json"  # what the recipe leaves open is settled before the search leaves anything else
_LEAVES = {
    "search": (
        PLAN,
        "search.json",
        "architecture.json",
        "baselines/*/architecture.json",
        *_of_networks("start.safetensors"),
        "checkpoints/search/*",
    ),
    "train": (*_of_networks("training.json", "weights.safetensors"), "checkpoints/train-*"),
    "export": (*_of_networks("export.json", "model.onnx", "weights-qat.safetensors"), "mended.json"),
    "bench": ("latency.json",),  # and the records of limited costs, see `compressor.recipe.Cost`
    "report": ("report.json",),
}
_MARKS = ("recipe.yaml", "stages.json", "plan.json")  # a run or a comparison has one of them
_KINDS = (".json", ".jsonl", ".yaml", ".safetensors", ".onnx", ".html", ".csv", ".tmp")
_FOLDERS = ("checkpoints", "baselines", "exports", "now", "runs", "shared")
_FORM = {"precision", "calibration", "half_io", "preprocess", "softmax", "batch"}
_DIGESTS = {"sha256", "weights_sha256", "external_sha256", "teacher_sha256"}  # of files that networks are read from
_PLACES = ("path", "download", "memory_gib")
_HALF_MADE = re.compile(  # files in folders of tempfile
    r"(first|second|plain|finished|traced|prepared|untrained|candidate|source|trial|fp32|fp16|int8|\d+|.+-quick)"
    r"\.onnx(\.data)?|\..+\.tmp"
)
_FILES = "files"  # of stages.json: {file: its SHA-256}


def claim(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Make a folder this recipe's, or go on in it.

    A resumed recipe may differ in what no stage has used yet.

    Raises:
        RunError: the folder is a file, holds a run (and not `resume`), holds something else, or was made from
            another recipe
    """
    kept = folder / "recipe.yaml"
    check_entries(folder)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file, not a folder")
    begun = any(_begun(folder, stage) for stage in _USES)
    if kept.exists() and begun and not resume:
        raise RunError(f"{folder}: already holds a run; add --resume to go on with it, or name another folder")
    if kept.exists() and begun:
        check(folder, recipe)
    elif folder.exists() and any(not _ours(entry, folder) for entry in folder.iterdir()):
        raise RunError(f"{folder}: is not empty and holds no run; name another folder")
    if not begun:
        (folder / PLAN).unlink(missing_ok=True)  # of another recipe, perhaps
    if not (folder / "stages.json").exists():
        write_json(folder / "stages.json", {})  # first: it marks the folder as ours, whatever recipe.yaml it has
    write_atomic(kept, recipe.to_yaml())
    _remember(recipe)


def load(folder: Path, trust: bool = False) -> Recipe:
    """The recipe of a run folder.

    Args:
        folder: of the run
        trust: take a recipe that names code, though this user did not begin the run here

    Raises:
        RunError: it is no run folder, its recipe names code and comes from elsewhere, or was changed after a stage had
            used it
        RecipeError: its recipe is not valid
    """
    kept = folder / "recipe.yaml"
    check_entries(folder)
    if not kept.exists():
        raise RunError(f"{folder}: not a run folder: it has no recipe.yaml (begin with: compressor run RECIPE -o OUT)")
    recipe = load_recipe(kept)
    if recipe.code and not (trust or _mark_of(recipe).exists()):
        key, (name, _) = next(iter(recipe.code.items()))
        raise RunError(
            f"{kept}: {key}: {name} is code that this user has not begun a run of on this machine; "
            "read the recipe, and add --trust if the code may run"
        )
    check(folder, recipe)
    return recipe


def check_entries(folder: Path) -> None:
    """Refuse the folder of a run or a comparison in which what we read or write is a link, a pipe or a device.

    It may come from someone else, who could have us write to another place, or wait for good. What a user has put
    beside our files is left alone.

    Raises:
        RunError: names the first such entry
    """
    if not any(os.path.lexists(folder / name) for name in _MARKS):
        return
    for entry in _ours_in(folder):
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            kind = "a link" if entry.is_symlink() else "neither a file nor a folder"
            if os.path.lexists(entry):  # else it was deleted meanwhile
                raise RunError(f"{entry}: is {kind}; what a run has left has none of these")


def _ours_in(folder: Path) -> Iterator[Path]:
    """Entries of a folder that may be ours, and all that lies in those that are folders."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.suffix in _KINDS or entry.name in _FOLDERS:
            yield entry
            for root, folders, files in os.walk(entry):  # which follows no links
                yield from (Path(root, name) for name in (*folders, *files))


def _mark_of(recipe: Recipe) -> Path:
    """Where it is noted that this user ran the code that a recipe names, with these options."""
    code = json.dumps(recipe.code, sort_keys=True)
    return cache_folder() / "begun" / digest_of(code, 64)


def _remember(recipe: Recipe) -> None:
    """Note that the user began a run with this code; where that cannot be noted, going on will ask for `--trust`."""
    if not recipe.code:
        return
    with contextlib.suppress(OSError):
        mark = _mark_of(recipe)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def record(folder: Path, stage: str, recipe: Recipe) -> None:
    """Note what a stage is made from."""
    path = folder / "stages.json"
    known = _records(folder)
    if stage in _USES and (stage not in known or not _begun(folder, stage)):
        write_json(path, known | {stage: _used(stage, recipe)})


def check(folder: Path, recipe: Recipe) -> None:
    """Refuse a recipe that differs in what a stage of this folder has used.

    Raises:
        RunError: names the keys that differ
    """
    known = _records(folder)
    for stage in _USES:
        if not _begun(folder, stage):
            continue  # it failed before it left anything, on a budget that cannot be met, say
        if stage not in known:
            raise RunError(f"{folder / 'stages.json'}: does not say what the {stage} stage was made from; begin anew")
        used = _used(stage, recipe)
        if changed := difference(with_new_keys(known[stage], used, recipe), used):
            raise RunError(
                f"{folder / 'recipe.yaml'}: {', '.join(changed)} differs from what the {stage} stage of this run used, "
                "says stages.json; "
                "change it back, go on with what the folder holds (compressor report OUT), or begin in another folder"
            )


def with_new_keys(before: dict[str, Any], used: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What was used of a recipe, noted by an earlier version perhaps: what that did not know has its default."""
    found = dict(before)
    for name, values in with_defaults(before, used, recipe).items():
        section, now = getattr(recipe, name, None), used.get(name)
        if isinstance(values, dict) and isinstance(now, dict) and isinstance(section, BaseModel):
            values = with_defaults(values, now, section)
        found[name] = values
    return found


def with_defaults(before: dict[str, Any], now: dict[str, Any], section: BaseModel) -> dict[str, Any]:
    """Values of a section as JSON, with defaults of keys that are there `now` and were not before."""
    fields = type(section).model_fields
    new = {key: fields[key] for key in now if key not in before and key in fields and not fields[key].is_required()}
    defaults = {key: field.get_default(call_default_factory=True) for key, field in new.items()}
    filled: dict[str, Any] = json.loads(json.dumps(defaults, default=lambda one: one.model_dump(mode="json"))) | before
    return filled


def tidy(folder: Path) -> None:
    """Delete what a killed process has left half-written; only while nobody else works in the folder."""
    for place in (folder, *folder.glob("baselines/*"), *folder.glob("checkpoints/*"), folder / "exports"):
        for left in place.glob("compressor-????????"):
            if _is_half_made(left):
                shutil.rmtree(left, ignore_errors=True)
        for left in place.glob(".*.tmp"):
            left.unlink(missing_ok=True)


def _is_half_made(entry: Path) -> bool:
    """Whether an entry is a folder of tempfile in which files were made, and holds nothing else.

    People name folders too: compressor-original, compressor-20261201.
    """
    if entry.is_symlink() or not entry.is_dir():
        return False
    inside = [path for path in entry.rglob("*") if not path.is_dir()]
    return all(_HALF_MADE.fullmatch(path.name) for path in inside)  # an empty one has nothing to lose


def seal(folder: Path, stage: str) -> None:
    """Note the SHA-256 of every file that a stage has left."""
    path, known = folder / "stages.json", _records(folder)
    sums = dict(known.get(_FILES, {}))
    sums |= {name: sha256_of(file) for name, file in _left(folder, stage).items()}
    if sums != known.get(_FILES):
        write_json(path, known | {_FILES: sums})


def unseal(folder: Path, *names: str) -> None:
    """Forget the sums of files that are made anew."""
    known = _records(folder)
    sums = {name: one for name, one in known.get(_FILES, {}).items() if name not in names}
    if sums != known.get(_FILES, {}):
        write_json(folder / "stages.json", known | {_FILES: sums})


def check_files(folder: Path) -> None:
    """Refuse a file that is not what its stage has left; one that is missing will be made again.

    Raises:
        RunError: names the file
    """
    sums = _records(folder).get(_FILES, {})
    left = {name: (stage, file) for stage in _LEAVES for name, file in _left(folder, stage).items()}
    for name, (stage, file) in left.items():
        if stage in _USES and name in sums and sums[name] != sha256_of(file):
            raise RunError(
                f"{file}: was damaged or changed: it is not the file that the {stage} stage of this run left; restore "
                "it, or delete it and what was made from it, to have them made again"
            )
    # What is made again with a missing file is another one too: the other files of its folder.
    gone = {name.rpartition("/")[0] for name in sums if name not in left and name not in _LEAVES["report"]}
    unseal(folder, *(name for name in sums if name.rpartition("/")[0] in gone))


def intact(folder: Path, name: str) -> bool:
    """Whether a file is there, and is what its stage has left."""
    file = folder / name
    return file.is_file() and _records(folder).get(_FILES, {}).get(name) == sha256_of(file)


def _left(folder: Path, stage: str) -> dict[str, Path]:
    """{name: file} of what a stage has left for others."""
    patterns = [pattern for pattern in _LEAVES[stage] if not pattern.startswith("checkpoints/")]
    if stage == "bench":
        patterns += [f"{cost.record}.json" for cost in costs().values() if cost.record]
    found = [file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()]
    return {file.relative_to(folder).as_posix(): file for file in found}


def _begun(folder: Path, stage: str) -> bool:
    """Whether a stage, or one that builds on it, has left anything in the folder."""
    later = list(_USES)[list(_USES).index(stage) :]
    patterns = [pattern for name in later for pattern in _LEAVES[name] if pattern != PLAN]
    patterns += [f"{cost.record}.json" for cost in costs().values() if cost.record]  # of the last stage
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _records(folder: Path) -> dict[str, Any]:
    path = folder / "stages.json"
    known = read_json(path) if path.exists() else {}
    if not isinstance(known, dict) or not all(isinstance(one, dict) for one in known.values()):
        raise RunError(f"{path}: must be an object of objects with the keys {', '.join(_USES)}")
    return known


def _used(stage: str, recipe: Recipe) -> dict[str, Any]:
    more = set(method_of(recipe.search).depends_on if stage == "search" else ())
    known = costs()
    limited = {section for name in recipe.budget.names for section in known[name].depends_on} | more
    dumped = recipe.model_dump(mode="json", include={*_USES[stage], *(more - {"bench", "export"})})
    if stage == "search" and "bench" in limited:  # what the budget leaves open, `bench` decides
        dumped["bench"] = recipe.measured.model_dump(mode="json", include={"provider", "batch", "threads"})
    if stage == "search" and "export" in limited:  # of the shipped file
        dumped["export"] = recipe.export.model_dump(mode="json", include=_FORM)
    if "model" in dumped:
        dumped["model"] |= _digests(recipe)
    if "train" in dumped:
        dumped["train"] |= _digest_of_teacher(recipe)
    if dumped.get("export", {}).get("opset", 0) is None and ModelName.of(recipe.model.name).file is None:
        dumped["export"]["opset"] = USUAL_OPSET  # as earlier versions note it
    if "data" in dumped:
        dumped["data"] = {key: value for key, value in dumped["data"].items() if key not in _PLACES}
    return dumped


def _digests(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of the files that the network is read from, if they are there: others of the same name are another."""
    network = ModelName.of(recipe.model.name).file
    files = {"sha256": network, "weights_sha256": recipe.model.weights_file}
    found = {key: sha256_of(path) for key, path in files.items() if path is not None and path.is_file()}
    if network is not None and network.is_file():
        from compressor.models.onnx_reading import external_files  # imports onnx

        beside = external_files(network)
        if beside and all(path.is_file() for path in beside):
            found["external_sha256"] = digest_of(" ".join(map(sha256_of, beside)), 64)
    return found


def _digest_of_teacher(recipe: Recipe) -> dict[str, str]:
    """SHA-256 of the file of weights that teaches, if one does and is there."""
    distill = recipe.train.distill
    file = None if distill is None or not distill.teacher.endswith(WEIGHTS_FILES) else Path(distill.teacher)
    return {} if file is None or not file.is_file() else {"teacher_sha256": sha256_of(file)}


def used(recipe: Recipe) -> dict[str, Any]:
    """The sections of a recipe that an outcome depends on, as JSON values."""
    return {section: value for stage in _USES for section, value in _used(stage, recipe).items()}


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Keys of `new`, "section.key" within mappings, whose value is another one in `old`."""
    changed = []
    for section, value in new.items():
        before = old.get(section)
        if isinstance(value, dict) and isinstance(before, dict):
            # A file that is gone is not one that was changed, nor is one that earlier versions did not note.
            keys = sorted((set(value) | set(before)) - (_DIGESTS - (set(value) & set(before))))
            changed += [f"{section}.{key}" for key in keys if value.get(key) != before.get(key)]
        elif value != before:
            changed.append(section)
    return changed


def _ours(entry: Path, folder: Path) -> bool:
    """Whether an entry of a folder in which nothing was begun is what a failed or killed start leaves."""
    if entry.name.startswith(".") and entry.name.endswith(".tmp"):
        return True
    return (
        entry.name in ("recipe.yaml", "stages.json", "log.jsonl", "checkpoints", PLAN)
        and (folder / "stages.json").exists()
    )
