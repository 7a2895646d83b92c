"""Which pairs of layers were stacked, of which units, why these, and in which form they lie in the file (TissueNet).

The record has it under trace.tissue, as `compressor.search.methods.tissuenet` writes it, and under stacked, as
`compressor.exporters.layouts` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor.recipe.cost import cost_title
from compressor.report.markup import Markup, element, table
from compressor.report.network_table import value_cell
from compressor.report.sections import note, section
from compressor.report.values import Record, conditions, dig, natural, number, quantity, significant

_FORMS = {
    "grouped": "groups, one for each unit",
    "blocks": "groups of 16 channels or more, with zeros between their units",
    "dense": "dense, with zeros between all units",
}


def tissue_section(record: Record) -> Markup:
    """Show the stacked layers, the candidates and the forms; nothing if no layer was stacked."""
    tissue = dig(record, "trace", "tissue")
    if not tissue:
        return Markup()
    return section(
        "Stacked layers",
        element("div", _layer_table(tissue), class_="wide"),
        note(
            "A unit (n0, n1, n2) has n0 inputs, n1 hidden nodes and n2 outputs; no weight crosses from one to another."
        ),
        *_forms(record),
        element("h3", "Candidates"),
        element("div", _candidate_table(tissue), class_="wide"),
        note(_choice(tissue)),
    )


def tissue_line(record: Record) -> str:
    """One sentence of plain text on what was stacked and how it was exported; "" if nothing was."""
    tissue = dig(record, "trace", "tissue")
    if not tissue:
        return ""
    chosen, stacks = tissue["chosen"], tissue["stacks"]
    units = sum(row[0] for stack in stacks.values() for row in stack["units"])
    sentence = f"{len(stacks)} stacked layers of {quantity(units)} units ({_title(chosen)})"
    form = dig(record, "stacked", "chosen")
    return f"{sentence}, exported as {form}" if form else sentence


def _layer_table(tissue: Record) -> Markup:
    rows = [
        [first, stack["second"], ", ".join(f"{row[0]:,} × ({row[1]}, {row[2]}, {row[3]})" for row in stack["units"])]
        for first, stack in sorted(tissue["stacks"].items(), key=lambda item: natural(item[0]))
    ]
    return table(
        ["first layer", "second layer", "units"], [[row[0], *(element("td", c) for c in row[1:])] for row in rows]
    )


def _forms(record: Record) -> list[Markup]:
    stacked = record.get("stacked")
    if not stacked:
        return []
    rows = [
        [
            name + (" (chosen)" if name == stacked["chosen"] else ""),
            element("td", _FORMS.get(name, name)),
            value_cell(number(form["median_ms"]), significant),
            value_cell(number(form["onnx_bytes"]), quantity),
        ]
        for name, form in stacked["forms"].items()
    ]
    heading = element("h3", "Form in the ONNX file")
    found = element("div", table(["form", "what it is", "median ms", "bytes"], rows), class_="wide")
    return [heading, found, note(f"Measured side by side at export: {conditions(stacked)}.")]


def _candidate_table(tissue: Record) -> Markup:
    limited = list(tissue["chosen"]["costs"])
    rows = []
    for row in tissue["candidates"]:
        name = _title(row) + (" (chosen)" if row == tissue["chosen"] else "")
        costs = [value_cell(number(row["costs"][cost]), quantity) for cost in limited]
        shares = [value_cell(number(row["multiplier"]), significant), value_cell(number(row["filled"]), _share)]
        rows.append([name, *costs, *shares, value_cell(number(row.get("trial_loss")), significant)])
    heads = ["candidate", *(cost_title(cost) for cost in limited), "width ×", "of the limit", "trial loss"]
    return table(heads, rows)


def _title(row: Mapping[str, Any]) -> str:
    units = (
        "given units" if row["mix"] == "given" else f"k = {row['k']}" + (", hybrid" if row["mix"] == "hybrid" else "")
    )
    return f"{row['strategy']}, {units}"


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


def _choice(tissue: Record) -> str:
    tried = [row for row in tissue["candidates"] if row.get("trial_loss") is not None]
    sentence = "Every candidate is scaled to the budget; width × is the multiplier of all other widths."
    if not tried:
        return sentence
    return (
        f"{sentence} {len(tried)}, those of most capacity (parameters × multiply-adds) for each k, were trained "
        f"for {tissue['trial_epochs']} epochs; the one of least validation loss was chosen and trained from scratch."
    )
