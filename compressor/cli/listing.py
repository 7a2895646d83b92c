"""What `compressor models` and `compressor widths` list, without importing torch where it is known already.

Sizes and options of the zoo's networks were written beforehand, since counting takes a minute: `python -m
compressor.cli.listing` writes them anew, and a test compares them with what is counted. Width groups are kept in the
cache folder, under a digest of the sources that they follow from.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import CompressorError
from compressor.files import cache_folder, digest_of, keep_known, read_json
from compressor.plugins import plugin_names

if TYPE_CHECKING:
    from compressor.models.zoo import Family

Row = dict[str, Any]  # params, macs, options


def rows() -> dict[str, Row]:
    """{network: its row} of the zoo and of installed plug-ins; only the latter are counted, and need torch."""
    listed: dict[str, Row] = json.loads(_file().read_text(encoding="utf-8"))
    if more := [name for name in plugin_names("compressor.models") if name not in listed]:
        from compressor.models import families

        known = families()
        listed |= {name: row(name, known[name]) for name in more}
    return listed


def row(name: str, family: Family) -> Row:
    """Count one network: for images of 3×32×32 and 10 classes, or for texts of 35 out of 10,000 words."""
    from compressor.costs import params_macs
    from compressor.models import reference_architecture

    shape: tuple[int, tuple[int, ...]] = (10, (3, 32, 32)) if family.inputs == "images" else (10_000, (35,))
    architecture = reference_architecture(name, {}, *shape)
    options = "; ".join(f"{option}: {family.valid(option)}" for option in family.options)
    return {
        "params": int(params_macs.params(architecture)),
        "macs": int(params_macs.macs(architecture)),
        "options": options,
    }


def width_groups(model: str, shape: tuple[int, ...], classes: int, options: Mapping[str, Any]) -> Row:
    """The width groups of a network: {groups: [name, channels, step], fixed: reasons}.

    Args:
        model: as in a recipe
        shape: (C, H, W) of an image, or (T,) of a text
        classes: number of outputs
        options: of the model

    Raises:
        ModelError: there is no such network, or it cannot be resized
    """
    sources = _sources(model)
    what = json.dumps([model, shape, classes, dict(options), sources], sort_keys=True)
    kept = cache_folder() / "widths" / f"{digest_of(what, 24)}.json"
    if sources is not None and (found := _kept(kept)) is not None:
        return found
    from compressor.models import graph_of, prunable, reference_architecture

    architecture = reference_architecture(model, options, classes, shape)
    graph = graph_of(prunable(architecture))
    groups = [[name, channels, graph.steps.get(name, 1)] for name, channels in architecture.widths.items()]
    found = {"groups": groups, "fixed": list(graph.fixed.values())}
    if sources is not None and (error := keep_known(kept, found)) is not None:
        print(f"note: width groups are not kept: {error}", file=sys.stderr)
    return found


def _kept(path: Path) -> Row | None:
    """What is in a file of the cache, or None if there is none, or one that is damaged."""
    try:
        found: Row = read_json(path)
        return found if {"groups", "fixed"} <= set(found) else None
    except (CompressorError, OSError, TypeError):
        return None


def _sources(model: str) -> str | None:
    """A digest of the code that a network's width groups follow from; None where that is more than is known here:
    a user's code may import and read anything.
    """
    digest = hashlib.sha256()
    from compressor.recipe.model_name import ModelName

    named = ModelName.of(model)
    for library in ("torch", "torchvision", "timm"):
        try:
            digest.update(f"{library} {version(library)}\n".encode())
        except PackageNotFoundError:
            continue
    if named.carries_weights or named.is_code:
        return None
    if named.source == "zoo" and named.name in plugin_names("compressor.models"):
        return None
    for path in sorted(Path(str(files("compressor"))).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _file() -> Path:
    return Path(str(files("compressor") / "models" / "zoo.json"))


if __name__ == "__main__":
    from compressor.models import ZOO

    _file().write_text(json.dumps({name: row(name, family) for name, family in ZOO.items()}, indent=1) + "\n")
