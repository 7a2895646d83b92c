"""How NeuralScale found its widths: the power laws of the last iteration, and the widths after each.

The record has them under trace.iterations, as `compressor.search.methods.neuralscale` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from compressor.report import figures
from compressor.report.markup import Markup, element, table
from compressor.report.network_table import value_cell
from compressor.report.sections import note, section
from compressor.report.values import (
    Record,
    compact,
    dig,
    last_iteration,
    layer_order,
    number,
    numbers,
    quantity,
    short_names,
    significant,
)


def fit_section(record: Record) -> Markup:
    """Show the power laws that were fitted in the last iteration; nothing if there was none."""
    iteration = last_iteration(record)
    if iteration is None:
        return Markup()
    if iteration.get("fallback"):
        why = element("p", "No fit in any iteration, uniform scaling was used: ", str(iteration["fallback"]))
        return section("Width against parameters", why)
    drawn = figures.fitted_layers(iteration)
    if not drawn:
        return Markup()
    count = len(dig(iteration, "records", "params") or [])
    groups = iteration.get("groups") or []
    many = f"{quantity(count)} records" + (f", {figures.MAX_DOTS} of them drawn" if count > figures.MAX_DOTS else "")
    text = (
        f"Dots: widths recorded while pruning ({many}). Line: φ = α·τ^β by least squares on the "
        "logarithms, each layer by itself. Both axes are logarithmic and shared by all panels."
    )
    if record.get("note"):
        text += f" Note: {record['note']}."
    if len(drawn) < len(groups):
        text += f" Of {len(groups)} layers the {len(drawn)} with the lowest R² are drawn."
    rows: list[list[object]] = [
        [str(name), *(value_cell(value, significant) for value in figures.fit_of(iteration, i))]
        for i, name in enumerate(groups)
    ]
    fits = element("details", element("summary", "α, β and R² per layer"), table(["layer", "α", "β", "R²"], rows))
    return section("Width against parameters", figures.fit_figure(iteration), note(text), fits)


def descent_section(record: Record) -> Markup:
    """Widths per iteration as a table whose tint says how far each is from the unscaled network."""
    iterations = dig(record, "trace", "iterations") or []
    if not any(iteration.get("widths") for iteration in iterations):
        return Markup()
    base = record.get("reference_widths") or {}
    result = record.get("widths") or {}
    per_iteration = [_named_widths(iteration) for iteration in iterations]
    head = ["layer", "unscaled", *(str(i + 1) for i in range(len(iterations))), "result"]
    order, most = layer_order(record), 24 if len(iterations) > 8 else 46
    rows: list[list[object]] = [
        [
            element("span", short, title=name),
            value_cell(base.get(name)),
            *(_tinted(w.get(name), base.get(name)) for w in (*per_iteration, result)),
        ]
        for name, short in zip(order, short_names(order, most), strict=True)
    ]
    reference = number(dig(record, "baseline", "reference", "params"))
    sizes = [reference, *(iteration.get("params") for iteration in iterations), record.get("params")]
    rows.append(["parameters", *(value_cell(size, compact) for size in sizes)])
    spent = [sum(numbers((iteration.get("seconds") or {}).values())) for iteration in iterations]
    if any(spent):
        rows.append(["seconds", element("td"), *(value_cell(s, lambda v: f"{v:,.1f}") for s in spent), element("td")])
    text = note(
        "Channels after each iteration, at the parameter count of the unscaled network; the last column is the "
        "network scaled to the budget. Blue: wider than unscaled, orange: narrower; the full tint is a factor of 4."
    )
    return section("Architecture descent", element("div", table(head, rows, "heat"), class_="wide"), text)


def _named_widths(iteration: Record) -> Mapping[str, Any]:
    return dict(zip(iteration.get("groups") or [], iteration.get("widths") or [], strict=False))


def _tinted(width: Any, base: Any) -> Markup:
    found, origin = number(width), number(base)
    if not found or not origin or found < 0 or origin < 0:
        return element("td", quantity(width))
    way = max(-1.0, min(1.0, math.log2(found / origin) / 2))
    red_green_blue = "0,114,178" if way > 0 else "230,120,0"
    return element("td", quantity(width), style=f"background:rgba({red_green_blue},{0.45 * abs(way):.3f})")
