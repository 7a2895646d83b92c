"""Every option of a recipe as tables in Markdown, for `compressor schema --markdown` and docs/options.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

Schema = Mapping[str, Any]

_HEAD = """# Options

Every key of a recipe, what it may be, and its default. A recipe with anything else is refused before it runs.
[recipes.md](recipes.md) says how they work together. This page is what `compressor schema --markdown` prints,
with the methods of installed plug-ins; `compressor schema` is the same for editors, as JSON schema.
"""


def options_page(schema: Schema) -> str:
    """The page of a recipe's JSON schema: a section for each of its parts and for each search method."""
    known, top = schema["$defs"], schema["properties"]
    single = {name: one for name, one in top.items() if not _parts(one)}
    text = [_HEAD, "## The recipe itself\n", _table(single.items(), known)]
    for name, one in top.items():
        for part in _parts(one):
            found = known[part]
            method = found["properties"].get("method", {}).get("const")
            text.append(f"## {name}: {method}\n" if method else f"## {name}\n")
            text += [f"{_sentence(found['description'])}\n"] if "description" in found else []
            text.append(_table(((key, value) for key, value in found["properties"].items() if key != "method"), known))
    return "\n".join(text)


def _parts(one: Schema) -> list[str]:
    """The sections that a key stands for; more than one: they are told apart by their method."""
    options = one.get("oneOf") or one.get("anyOf") or [one]
    return [option["$ref"].rpartition("/")[2] for option in options if "$ref" in option]


def _table(properties: Iterable[tuple[str, Schema]], known: Mapping[str, Schema], before: str = "") -> str:
    rows = "".join(_rows(properties, known, before))
    return f"| key | values | default | |\n|---|---|---|---|\n{rows}" if rows else "No options of its own.\n"


def _rows(properties: Iterable[tuple[str, Schema]], known: Mapping[str, Schema], before: str) -> Iterable[str]:
    for name, one in properties:
        parts = _parts(one)
        values = "the keys below, or null" if parts else _values(one)
        default = "" if "default" not in one else f"`{json.dumps(one['default'], ensure_ascii=False)}`"
        what = _marked(one.get("description", ""))
        yield f"| `{before}{name}` | {_cell(values)} | {_cell(default)} | {_cell(what)} |\n"
        for part in parts:
            yield from _rows(known[part]["properties"].items(), known, f"{before}{name}.")


def _values(one: Schema) -> str:
    """What a key may be, in words."""
    if options := one.get("anyOf"):
        return ", or ".join(_values(option) for option in options)
    if "enum" in one:
        return ", ".join(f"`{json.dumps(value) if not isinstance(value, str) else value}`" for value in one["enum"])
    if "const" in one:
        return f"`{one['const']}`"
    kind = one.get("type")
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _bounds(one)
    if kind == "array":
        parts = one["items"].get("prefixItems")
        return f"list of: {f'{len(parts)} whole numbers' if parts else _values(one['items'])}"
    if "pattern" in one:
        return "a share such as `0.25x`"
    return {"boolean": "`true`, `false`", "string": "text", "null": "null", "object": "mapping"}.get(str(kind), "")


def _bounds(one: Schema) -> str:
    """The nearest bounds; 2³¹ - 1 is that of what fits, which nobody asks for."""
    found = []
    for signs in (
        {"minimum": "≥", "ge": "≥", "exclusiveMinimum": ">"},
        {"le": "≤", "maximum": "≤", "exclusiveMaximum": "<"},
    ):
        given = [f"{sign} {one[key]:g}" for key, sign in signs.items() if key in one and one[key] < 2**31 - 1]
        found += given[:1]
    return f" {', '.join(found)}" if found else ""


def _marked(text: str) -> str:
    """A description with its mappings as code: some readers of Markdown take braces that end a cell for attributes."""
    return re.sub(r"\{[^{}]*\}", lambda found: f"`{found[0]}`", text)


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _sentence(text).replace("|", "\\|")
