"""How NeuralScale found its widths: the power laws of the last iteration, and the widths after each.

The record has them under trace.iterations, as `compressor.search.methods.neuralscale` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from compressor.recipe.cost import cost_title
from compressor.report import figures
from compressor.report.format import (
    Cell,
    compact,
    number,
    numbers,
    quantity,
    short_names,
    significant,
    value_cell,
)
from compressor.report.rendering import render
from compressor.report.values import Record, dig, last_iteration, layer_order


def fit_section(record: Record) -> Markup:
    """Show the power laws that were fitted in the last iteration; nothing if there was none."""
    iteration = last_iteration(record)
    if iteration is None:
        return Markup()
    fallback, drawn = iteration.get("fallback"), figures.fitted_layers(iteration)
    if not fallback and not drawn:
        return Markup()
    return render(
        "fit.html.j2",
        fallback=fallback,
        figure=None if fallback else figures.fit_figure(iteration, _along(record)),
        along=_along(record),
        count=len(dig(iteration, "records", "params") or []),
        most_dots=figures.MAX_DOTS,
        remark=record.get("note"),
        drawn=len(drawn),
        rows=[
            [name, *(value_cell(value, significant) for value in figures.fit_of(iteration, i))]
            for i, name in enumerate(iteration.get("groups") or [])
        ],
    )


def descent_section(record: Record) -> Markup:
    """Widths per iteration as a table whose tint says how far each is from the unscaled network."""
    iterations = dig(record, "trace", "iterations") or []
    if not any(iteration.get("widths") for iteration in iterations):
        return Markup()
    base = record.get("reference_widths") or {}
    after = [*map(_named_widths, iterations), record.get("widths") or {}]
    order, most = layer_order(record), 24 if len(iterations) > 8 else 46
    reference = number(dig(record, "baseline", "reference", "params"))
    sizes = [reference, *(iteration.get("params") for iteration in iterations), record.get("params")]
    spent = [sum(numbers((iteration.get("seconds") or {}).values())) for iteration in iterations]
    return render(
        "descent.html.j2",
        iterations=list(range(1, len(iterations) + 1)),
        layers=[
            (name, short, [value_cell(base.get(name)), *(_tinted(w.get(name), base.get(name)) for w in after)])
            for name, short in zip(order, short_names(order, most), strict=True)
        ],
        sizes=[value_cell(size, compact) for size in sizes],
        along=_along(record),
        seconds=[value_cell(s, lambda v: f"{v:,.1f}") for s in spent] if any(spent) else None,
    )


def _along(record: Record) -> str:
    """What widths were fitted to, in words."""
    names = [str(name) for name in dig(record, "trace", "along") or []] or ["params"]
    if len(names) > 1:
        return f"the share of the most violated limit ({', '.join(names)})"
    return "parameters" if names == ["params"] else cost_title(names[0])


def _named_widths(iteration: Record) -> Mapping[str, Any]:
    return dict(zip(iteration.get("groups") or [], iteration.get("widths") or [], strict=False))


def _tinted(width: Any, base: Any) -> Cell:
    found, origin = number(width), number(base)
    if not found or not origin or found < 0 or origin < 0:
        return Cell(quantity(width))
    way = max(-1.0, min(1.0, math.log2(found / origin) / 2))
    red_green_blue = "0,114,178" if way > 0 else "230,120,0"
    return Cell(quantity(width), style=f"background:rgba({red_green_blue},{0.45 * abs(way):.3f})")
