"""Of how many bits the shipped file is, and why of these integers.

The record has it under precision, as `compressor.pipeline.shipping` writes it.
"""

from __future__ import annotations

from compressor.report.markup import Markup, element, table
from compressor.report.network_table import value_cell
from compressor.report.sections import note, section
from compressor.report.values import Record, dig, quantity

_TITLES = {"fp16": "16-bit floating point", "int8": "8-bit integers"}


def precision_section(record: Record) -> Markup:
    """Show the precision of the shipped file and the schemes tried; nothing for float32."""
    precision = record.get("precision") or {}
    if precision.get("name") not in _TITLES:
        return Markup()
    return section(
        f"Precision: {_TITLES[precision['name']]}",
        *_schemes(precision),
        note(f"{_errors(record, precision)}{' Note: ' + precision['note'] + '.' if precision.get('note') else ''}"),
    )


def precision_line(record: Record) -> str:
    """One sentence of plain text on the precision; "" for float32."""
    precision = record.get("precision") or {}
    if precision.get("name") not in _TITLES:
        return ""
    scheme, plain = dig(precision, "scheme", "chosen"), dig(precision, "scheme", "fp32", "median_ms")
    parts = [f"precision: {precision['name']}"]
    if scheme:
        parts[0] += f" ({scheme})"
        chosen = dig(precision, "scheme", "schemes", scheme, "median_ms")
        if plain and chosen:
            parts.append(f"{plain / chosen:.2f} times as fast as its fp32 file")
    if precision.get("note"):
        parts.append(precision["note"])
    return "; ".join(parts)


def _schemes(precision: Record) -> list[Markup]:
    schemes = dig(precision, "scheme", "schemes")
    if not schemes:
        return []
    chosen, plain = precision["scheme"]["chosen"], precision["scheme"]["fp32"]
    rows: list[list[object]] = []
    for name, entry in {"fp32": plain, **schemes}.items():
        title = element("b", f"{name} (shipped)") if name == chosen else name
        rows.append(
            [
                title,
                value_cell(entry.get("median_ms"), lambda v: f"{v:.3f}"),
                value_cell(entry.get("onnx_bytes"), quantity),
                value_cell(entry.get("score"), lambda v: f"{v:.4f}"),
            ]
        )
    heads = ["activations, weights", "median ms", "bytes", str(precision.get("metric") or "score")]
    calibrated, compared = (quantity(precision.get(key) or 0) for key in ("calibration", "judged"))
    legend = note(
        f"Ranges of activations are those of {calibrated} training images; schemes are compared on {compared} images "
        "that are not of the test split: the fastest of those that lose little, the more accurate one where two are as "
        "fast."
    )
    refused = precision["scheme"].get("refused") or {}
    more = [note(f"{name}: {why}") for name, why in refused.items()]
    return [element("div", table(heads, rows), class_="wide"), legend, *more]


def _errors(record: Record, precision: Record) -> str:
    shipped, plain = dig(record, "parity", "max_rel_error"), dig(precision, "parity_of_fp32", "max_rel_error")
    if shipped is None or plain is None:
        return ""
    return (
        f"Largest difference to PyTorch, of the largest output: {shipped:.2g}; of the float32 file it was made from: "
        f"{plain:.2g}. Accuracies in this report are those of the shipped files."
    )
