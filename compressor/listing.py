"""Sizes and options of the zoo's networks, for `compressor models`: written beforehand, since counting takes a minute.

`python -m compressor.listing` writes them anew; a test compares them with what is counted.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from compressor import cost
    from compressor.models import reference_architecture

    shape: tuple[int, tuple[int, ...]] = (10, (3, 32, 32)) if family.inputs == "images" else (10_000, (35,))
    architecture = reference_architecture(name, {}, *shape)
    options = "; ".join(f"{option}: {family.valid(option)}" for option in family.options)
    return {"params": int(cost.params(architecture)), "macs": int(cost.macs(architecture)), "options": options}


def _file() -> Path:
    return Path(str(files("compressor") / "models" / "zoo.json"))


if __name__ == "__main__":
    from compressor.models import ZOO

    _file().write_text(json.dumps({name: row(name, family) for name, family in ZOO.items()}, indent=1) + "\n")
