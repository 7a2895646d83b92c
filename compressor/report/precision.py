"""Of how many bits the shipped file is, and why of these integers.

The record has it under precision, as `compressor.pipeline.shipping` writes it.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from compressor.recipe.precision import Precision, precisions
from compressor.report.format import value_cell
from compressor.report.rendering import render
from compressor.report.values import Record, dig


def precision_section(record: Record) -> Markup:
    """Show the precision of the shipped file and the schemes tried; nothing for float32."""
    precision = record.get("precision") or {}
    known = _known(precision)
    if known is None:
        return Markup()
    return render(
        "precision.html.j2",
        title=known.title,
        gate=_gate(precision),
        schemes=_schemes(precision),
        errors=_errors(record, precision),
        remark=precision.get("note"),
    )


def precision_line(record: Record) -> str:
    """One sentence of plain text on the precision; "" for float32."""
    precision = record.get("precision") or {}
    if _known(precision) is None:
        return ""
    scheme, plain = dig(precision, "scheme", "chosen"), dig(precision, "scheme", "fp32", "median_ms")
    parts = [f"precision: {precision['name']}"]
    gate = _gate(precision)
    if scheme:
        parts[0] += f" ({scheme})"
        chosen = dig(precision, "scheme", "schemes", scheme, "median_ms")
        if plain and chosen:
            parts.append(f"{plain / chosen:.2f} times as fast as its fp32 file")
    if gate is not None and (trained := gate["qat"]):
        text = f"quantisation-aware training for {trained['epochs']} epochs"
        if trained["failed"]:
            text += " failed"
        elif not trained["taken"]:
            lost = "had no finite score" if trained["points"] is None else f"still lost {trained['points']:.2f} points"
            text += f" was not enough: {gate['asked']} {lost}"
        parts.append(text)
    if gate is not None and gate["shipped"] is not None:
        lost = gate["shipped"]["points"]
        parts.append(f"{lost:.2f} points lost of {gate['tolerance']:g} allowed" if lost > 0 else "no points lost")
    if precision.get("note"):
        parts.append(precision["note"])
    return "; ".join(parts)


def _known(precision: Record) -> Precision | None:
    """The precision of a record, unless it is the plain one and no other was asked for."""
    known = precisions().get(str(precision.get("name")))
    return None if known is None or (known.plain and not precision.get("gate")) else known


def _gate(precision: Record) -> dict[str, Any] | None:
    """What was weighed against float32 before this precision was taken; None: it was asked for without conditions."""
    gate = precision.get("gate")
    if not gate:
        return None
    weighed = {one["name"]: one for one in gate["tried"]}
    own = weighed.get(precision["name"])
    return {
        "asked": gate["asked"],
        "tolerance": gate["tolerance_points"],
        "judged": gate["judged"],
        "metric": gate["metric"],
        "shipped": None if own is None or own["rejected"] or precisions()[own["name"]].plain else own,
        "rows": [
            (
                name,
                name == precision["name"],
                (
                    value_cell(one["points"], lambda v: f"{v:.2f}"),
                    value_cell(one["ratio"][0], lambda v: f"{v:.3f}"),
                ),
                one["rejected"] or "",
            )
            for name, one in weighed.items()
            if name in precisions() and not precisions()[name].plain
        ],
        "unmet": gate["unmet"],
        "qat": {"failed": None} | gate["qat"] if gate.get("qat") else None,
    }


def _schemes(precision: Record) -> dict[str, Any] | None:
    schemes = dig(precision, "scheme", "schemes")
    if not schemes:
        return None
    chosen, plain = precision["scheme"]["chosen"], precision["scheme"]["fp32"]
    return {
        "metric": precision.get("metric") or "score",
        "rows": [
            (
                name,
                name == chosen,
                (
                    value_cell(entry.get("median_ms"), lambda v: f"{v:.3f}"),
                    value_cell(entry.get("onnx_bytes")),
                    value_cell(entry.get("score"), lambda v: f"{v:.4f}"),
                ),
            )
            for name, entry in {"fp32": plain, **schemes}.items()
        ],
        "calibrated": precision.get("calibration") or 0,
        "compared": precision.get("judged") or 0,
        "refused": precision["scheme"].get("refused") or {},
    }


def _errors(record: Record, precision: Record) -> dict[str, str] | None:
    shipped, plain = dig(record, "parity", "max_rel_error"), dig(precision, "parity_of_fp32", "max_rel_error")
    if shipped is None or plain is None:
        return None
    return {"shipped": f"{shipped:.2g}", "plain": f"{plain:.2g}"}
