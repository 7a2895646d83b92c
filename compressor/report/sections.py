"""What several pages have, and what sections of plug-ins are made with."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from compressor.report.format import ABSENT, Cell, number, quantity, value_cell
from compressor.report.rendering import part
from compressor.report.values import Record, dig

State = str  # a CSS class: "met", "missed" or "open"


def section(title: str, *children: object) -> Markup:
    """Make a box with a heading; children that are not `markupsafe.Markup` are text."""
    return part("section", title, [child for child in children if child is not None])


def note(*children: object) -> Markup:
    """Make a paragraph in small print; children that are not `markupsafe.Markup` are text."""
    return part("note", [child for child in children if child is not None])


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> Markup:
    """Make a table whose first row and first column are headers.

    Args:
        head: cells of the first row
        rows: cells of the others: text, `markupsafe.Markup` or `compressor.report.format.Cell`, of which the first of a
            row shows the text alone; a row without cells is left out
    """
    shown = [[row[0].text if isinstance(row[0], Cell) else row[0], *row[1:]] for row in rows if len(row)]
    return part("wide", head, shown)


def split_sizes(data: Record) -> str:
    """Say how many images each split of a data set has."""
    parts = [(split, data.get(split)) for split in ("train", "validation", "test")]
    return ", ".join(f"{quantity(size)} {split}" for split, size in parts if size is not None)


def input_shape(data: Record) -> str:
    """Write the shape of one sample of a data set."""
    return " × ".join(str(size) for size in data.get("input_shape") or [])


def state(met: bool | None) -> State:
    """CSS class for met, missed or unknown."""
    return {True: "met", False: "missed", None: "open"}[met]


def csv_file(name: str, head: Sequence[object], rows: Sequence[Sequence[object]]) -> dict[str, str]:
    """Make a table of comma-separated values for `csv_link` of the templates."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return csv_text_file(name, text.getvalue())


def csv_text_file(name: str, text: str) -> dict[str, str]:
    """The same for comma-separated values that are there already."""
    return {"name": name, "base64": base64.b64encode(text.encode()).decode()}


def blocks_of(values: Mapping[str, object]) -> dict[str, str]:
    """Write every value as JSON, for `configuration` of the templates."""
    return {title: json.dumps(value, indent=2) for title, value in values.items()}


def seconds_of(record: Record) -> list[tuple[str, Cell, str | None]]:
    """The record's stages: (name, seconds, percent of all), the sum last; nothing if it has none."""
    found = [(str(stage), number(value)) for stage, value in (record.get("seconds") or {}).items()]
    known = [(stage, value) for stage, value in found if value is not None]
    if not known:
        return []
    total = sum(value for _, value in known)
    shares = [max(0.0, 100 * value / total if total > 0 else 0) for _, value in known]
    rows = [(stage, _seconds(value), f"{share:.2f}") for (stage, value), share in zip(known, shares, strict=True)]
    return [*rows, ("total", _seconds(total), None)]


def _seconds(value: float) -> Cell:
    return value_cell(value, lambda seconds: f"{seconds:,.1f}")


def environment_of(record: Record) -> dict[str, list[list[object]]]:
    """The record's machine, versions and seed: {title: rows}; nothing if it has none."""
    seed = dig(record, "seed")
    versions = {**(record.get("versions") or {}), **({} if seed is None else {"seed": seed})}
    found: dict[str, Mapping[str, Any]] = {"Machine": record.get("machine") or {}, "Versions": versions}
    # Version strings and model names are not quantities: they are shown as recorded.
    return {
        title: [[key, ABSENT if value is None else value] for key, value in values.items()]
        for title, values in found.items()
        if values
    }
