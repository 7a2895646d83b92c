"""Which pairs of layers were stacked, of which units, why these, and in which form they lie in the file (TissueNet).

The record has it under trace.tissue, as `compressor.search.methods.tissuenet` writes it, and under stacked, as
`compressor.exporters.layouts` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from compressor.recipe.cost import cost_title
from compressor.report.format import natural, number, quantity, significant, value_cell
from compressor.report.rendering import render
from compressor.report.values import Record, conditions, dig

_FORMS = {
    "grouped": "groups, one for each unit",
    "blocks": "groups of 16 channels or more, with zeros between their units",
    "dense": "dense, with zeros between all units",
    "per layer": "each stacked layer in the layout that is fastest for it alone",
}


def tissue_section(record: Record) -> Markup:
    """Show the stacked layers, the candidates and the forms; nothing if no layer was stacked."""
    tissue = dig(record, "trace", "tissue")
    if not tissue:
        return Markup()
    return render("tissue.html.j2", layers=_layers(tissue), forms=_forms(record), candidates=_candidates(tissue))


def tissue_line(record: Record) -> str:
    """One sentence of plain text on what was stacked and how it was exported; "" if nothing was."""
    tissue = dig(record, "trace", "tissue")
    if not tissue:
        return ""
    chosen, stacks = tissue["chosen"], tissue["stacks"]
    units = sum(row[0] for stack in stacks.values() for row in stack["units"])
    sentence = f"{len(stacks)} stacked layers of {quantity(units)} units ({_title(chosen)})"
    form = dig(record, "stacked", "chosen")
    return f"{sentence}; layout in the file: {form}" if form else sentence


def _layers(tissue: Record) -> list[list[object]]:
    return [
        [first, stack["second"], ", ".join(f"{row[0]:,} × ({row[1]}, {row[2]}, {row[3]})" for row in stack["units"])]
        for first, stack in sorted(tissue["stacks"].items(), key=lambda item: natural(item[0]))
    ]


def _forms(record: Record) -> dict[str, Any] | None:
    stacked = record.get("stacked")
    if not stacked:
        return None
    rows = [
        [
            name + (" (chosen)" if name == stacked["chosen"] else ""),
            _FORMS.get(name, name),
            value_cell(number(form["median_ms"]), significant),
            value_cell(number(form["onnx_bytes"])),
        ]
        for name, form in stacked["forms"].items()
    ]
    return {"rows": rows, "conditions": conditions(stacked)}


def _candidates(tissue: Record) -> dict[str, Any]:
    limited, rows = list(tissue["chosen"]["costs"]), tissue["candidates"]
    timed = any(number(row.get("slowdown")) is not None for row in rows)
    cells = [
        [
            _title(row) + (" (chosen)" if row == tissue["chosen"] else ""),
            *(value_cell(number(row["costs"][cost])) for cost in limited),
            value_cell(number(row["multiplier"]), significant),
            value_cell(number(row["filled"]), lambda share: f"{100 * share:.2f} %"),
            *([value_cell(number(row.get("slowdown")), significant)] if timed else []),
            value_cell(number(row.get("trial_loss")), significant),
        ]
        for row in rows
    ]
    titles = [cost_title(cost) for cost in limited]
    return {
        "head": [
            "candidate",
            *titles,
            "width ×",
            "of the limit",
            *(["time / uniform"] if timed else []),
            "trial loss",
        ],
        "rows": cells,
        "timed": timed,
        "tried": sum(row.get("trial_loss") is not None for row in rows),
        "epochs": tissue.get("trial_epochs"),
    }


def _title(row: Mapping[str, Any]) -> str:
    text = f"{row['strategy']}, {units_text(row['mix'], row.get('nodes'), row['k'])}"
    least, most = row.get("hidden") or (row["k"], row["k"])
    return text if row["mix"] != "single" or least == most == row["k"] else f"{text} ({least} to {most})"


def units_text(mix: str, nodes: int | None, k: int | None) -> str:
    """What people call units: of how many hidden nodes, and of how many inputs if these are not the paper's two."""
    if mix == "given":
        return "given units"
    return f"k = {k}" + (f", n0 = {nodes}" if nodes not in (None, 2) else "") + (", hybrid" if mix == "hybrid" else "")
