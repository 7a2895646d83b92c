"""The record in five lines of plain text."""

from __future__ import annotations

from compressor.recipe.cost import cost_title, costs
from compressor.recipe.method import lines_of
from compressor.report.distillation import distillation_line
from compressor.report.format import number, percent, quantity, significant
from compressor.report.groups import errors_of, spread_text, title_of, why_without
from compressor.report.precision import precision_line
from compressor.report.values import (
    Limit,
    Network,
    Record,
    conditions,
    dig,
    limits,
    metric_of,
    networks,
    score_of,
    slack_text,
    weights_text,
)


def summary_lines(record: Record) -> list[str]:
    """Say in plain text what came of the budget, the metric, the comparison and the latency.

    Lines whose data the record lacks are left out.
    """
    found = networks(record)
    lines = [*_budget(record), *_accuracy(record), *(record.get("remarks") or [])]
    if line := precision_line(record):
        lines.append(line)
    if line := distillation_line(record):
        lines.append(line)
    if record.get("note"):
        lines.append(f"search: {record['note']}")
    if record.get("fallback"):
        lines.append(f"uniform scaling was used instead of {record.get('method')}: {record['fallback']}")
    lines += [line for other in found[1:] for line in _against(other, record)]
    lines += [text for line in lines_of(record) if (text := line(record))]
    latency = [text for network in found if (text := _latency(network))]
    if latency:
        lines.append("latency: " + "; ".join(latency))
    if record.get("slow"):
        lines.append(record["slow"])
    lines += [text for cost in costs().values() for line in cost.lines if (text := line(record))]
    return lines


def comparison_lines(record: Record) -> list[str]:
    """A table of a comparison: a line for each method at each budget, then why runs have no result."""
    metric = metric_of(record)
    rows: list[tuple[str, ...]] = [("", metric.title, "parameters", "MACs", "ms", "")]
    for group in record["groups"]:
        if group[metric.column] is None:
            rows.append((title_of(group), why_without(errors_of(group, record)), "", "", "", ""))
            continue
        sizes = (quantity(round(group[key]["mean"])) for key in ("params", "macs"))
        remarks = ["best"] * group["best"] + ["MISSED"] * (group["met"] is False)
        latency = significant(group["latency_median_ms"]["mean"])
        score = spread_text(group[metric.column], metric.scale)
        rows.append((title_of(group), score, *sizes, latency, " ".join(remarks)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    errors = {(title_of(run), run["error"]): None for run in record["runs"] if run["error"] is not None}
    return [line.rstrip() for line in lines] + [f"{title}: {error}" for title, error in errors]


def _budget(record: Record) -> list[str]:
    rows, binding, note = limits(record), dig(record, "budget", "binding"), dig(record, "budget", "note")
    lines = [_limit(row) for row in rows]
    if len(rows) > 1 and binding:
        lines.append(f"of these limits {cost_title(binding)} is the one that stops growth")
    return [*lines, note] if note else lines


def _limit(row: Limit) -> str:
    if row.met is None:
        return f"budget not checked: {row.title} was not measured (limit {quantity(row.limit)})"
    word = "met" if row.met else "MISSED"
    return f"budget {word}: {row.title} {quantity(row.got)} of {quantity(row.limit)}, {slack_text(row)}"


def _accuracy(record: Record) -> list[str]:
    accuracy = record.get("accuracy")
    if not accuracy:
        return []
    metric = metric_of(record)
    notes = [f"PyTorch {metric.text(score_of(record, 'torch'))}"]
    if metric.has_accuracy_beside and number(accuracy.get("onnx")) is not None:
        notes.append(f"{metric.accuracy_title} {percent(accuracy.get('onnx'))}")
    if accuracy.get("samples"):
        notes.append(f"{quantity(accuracy['samples'])} samples")
    if accuracy.get("weights") is not None:
        notes.append(f"weights of the {weights_text(accuracy['weights'])}")
    return [f"{metric.name}: {metric.text(score_of(record))} on the ONNX file ({', '.join(notes)})"]


def _against(other: Network, record: Record) -> list[str]:
    """One line that compares the result with another network, if both were scored or counted."""
    parts = []
    metric, own, its = metric_of(record), score_of(record), score_of(other.data)
    if own is not None and its is not None:
        parts.append(metric.gain(own, its))
    for key, unit in (("params", "parameters"), ("macs", "MACs")):
        own, its = number(record.get(key)), number(other.data.get(key))
        if own is not None and its:
            parts.append(f"{percent(own / its)} of its {unit}")
    return [f"against {other.title}: {', '.join(parts)}"] if parts else []


def _latency(network: Network) -> str:
    median, p99 = (number(dig(network.data, "latency_ms", key)) for key in ("median", "p99"))
    if median is None:
        return ""
    text = f"{network.title} median {significant(median)} ms, p99 {significant(p99)} ms"
    how = conditions(network.data.get("latency_ms")) if network.key == "result" else ""
    return f"{text} ({how})" if how else text
