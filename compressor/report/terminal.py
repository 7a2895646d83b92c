"""The record in five lines of plain text."""

from __future__ import annotations

from compressor.report.values import (
    Limit,
    Network,
    Record,
    conditions,
    dig,
    limits,
    networks,
    number,
    percent,
    points,
    quantity,
    significant,
    slack_text,
    weights_text,
)


def summary_lines(record: Record) -> list[str]:
    """Say in plain text what came of the budget, the accuracy, the comparison and the latency.

    Lines whose data the record lacks are left out.
    """
    found = networks(record)
    lines = [*_budget(record), *_accuracy(record)]
    if record.get("fallback"):
        lines.append(f"uniform scaling was used instead of {record.get('method')}: {record['fallback']}")
    lines += [line for other in found[1:] for line in _against(other, record)]
    latency = [text for network in found if (text := _latency(network))]
    if latency:
        lines.append("latency: " + "; ".join(latency))
    return lines


def _budget(record: Record) -> list[str]:
    return [_limit(row) for row in limits(record)]


def _limit(row: Limit) -> str:
    if row.met is None:
        return f"budget not checked: {row.title} was not measured (limit {quantity(row.limit)})"
    word = "met" if row.met else "MISSED"
    return f"budget {word}: {row.title} {quantity(row.got)} of {quantity(row.limit)}, {slack_text(row)}"


def _accuracy(record: Record) -> list[str]:
    accuracy = record.get("accuracy")
    if not accuracy:
        return []
    notes = [f"PyTorch {percent(accuracy.get('torch'))}"]
    if accuracy.get("samples") is not None:
        notes.append(f"{quantity(accuracy['samples'])} samples")
    if accuracy.get("weights") is not None:
        notes.append(f"weights of the {weights_text(accuracy['weights'])}")
    return [f"accuracy: {percent(accuracy.get('onnx'))} on the ONNX file ({', '.join(notes)})"]


def _against(other: Network, record: Record) -> list[str]:
    """One line that compares the result with another network, if both were scored or counted."""
    parts = []
    own, its = number(dig(record, "accuracy", "onnx")), number(dig(other.data, "accuracy", "onnx"))
    if own is not None and its is not None:
        parts.append(f"{points(own - its)} of accuracy")
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
