"""The parts that every page of this package has."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from compressor.report.markup import Markup, element, table
from compressor.report.network_table import value_cell
from compressor.report.style import CSS
from compressor.report.values import ABSENT, Record, number, quantity

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, *body: object) -> str:
    """Make a whole page that needs no network, no script and no other file."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Nothing is fetched and nothing runs, whatever a layer is called.
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Markup(CSS)),
    )
    return "<!DOCTYPE html>\n" + element("html", head, element("body", element("main", *body)), lang="en") + "\n"


def header(title: str, facts: Sequence[tuple[str, Any]]) -> Markup:
    """Make the top of a page: its title and the facts (name, value) that are known."""
    shown = [(key, value) for key, value in facts if value not in (None, "")]
    items = [element("span", element("b", key), f" {value}") for key, value in shown]
    return element("header", element("h1", title), element("p", *items, class_="facts"))


def section(title: str, *children: object) -> Markup:
    """Make a box with a heading."""
    return element("section", element("h2", title), *children)


def note(*children: object) -> Markup:
    """Make a paragraph in small print."""
    return element("p", *children, class_="note")


def split_sizes(data: Record) -> str:
    """Say how many images each split of a data set has."""
    parts = [(split, data.get(split)) for split in ("train", "validation", "test")]
    return ", ".join(f"{quantity(size)} {split}" for split, size in parts if size is not None)


def state(met: bool | None) -> str:
    """CSS class for met, missed or unknown."""
    return {True: "met", False: "missed", None: "open"}[met]


def csv_link(name: str, head: Sequence[object], rows: Sequence[Sequence[object]]) -> Markup:
    """Make a link that downloads a table as comma-separated values; it lies in the page itself."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return csv_text_link(name, text.getvalue())


def csv_text_link(name: str, text: str) -> Markup:
    """The same for comma-separated values that are there already."""
    data = "data:text/csv;base64," + base64.b64encode(text.encode()).decode()
    return element("p", element("a", "Download as CSV", href=data, download=name), class_="note")


def recipe_section(blocks: Mapping[str, object]) -> Markup:
    """Show the recipe of a run or a sweep, folded away."""
    texts = [
        element("details", element("summary", title), element("pre", element("code", json.dumps(value, indent=2))))
        for title, value in blocks.items()
    ]
    return section("Configuration", *texts)


def seconds_section(record: Record) -> Markup:
    """Show the record's seconds per stage; nothing if it has none."""
    found = [(str(stage), number(value)) for stage, value in (record.get("seconds") or {}).items()]
    known = [(stage, value) for stage, value in found if value is not None]
    if not known:
        return Markup()
    total = sum(value for _, value in known)
    rows: list[list[object]] = [
        [stage, value_cell(value, lambda v: f"{v:,.1f}"), element("td", _bar(value, total), class_="bar")]
        for stage, value in known
    ]
    rows.append(["total", value_cell(total, lambda v: f"{v:,.1f}"), element("td", class_="bar")])
    return section("Time", table(["stage", "seconds", ""], rows, "time"))


def _bar(value: float, total: float) -> Markup:
    share = 100 * value / total if total > 0 else 0
    return element("i", class_="length", style=f"width:{max(0.0, share):.2f}%")


def environment_section(record: Record) -> Markup:
    """Show the record's machine, versions and seed; nothing if it has none."""
    parts = [("Machine", record.get("machine") or {}), ("Versions", record.get("versions") or {})]
    seed = record.get("seed")
    if seed is not None:
        parts[1] = ("Versions", {**parts[1][1], "seed": seed})
    columns = [
        element("div", element("h3", title), table(["", ""], _pairs(values), "facts"))
        for title, values in parts
        if values
    ]
    return section("Environment", element("div", *columns, class_="columns")) if columns else Markup()


def _pairs(values: Record) -> list[list[object]]:
    # Version strings and model names are not quantities: they are shown as recorded.
    return [[str(key), element("td", ABSENT if value is None else value)] for key, value in values.items()]
