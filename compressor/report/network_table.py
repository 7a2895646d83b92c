"""The table that sets the result beside its references, one column per network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.recipe.cost import cost_title
from compressor.report.figures import colour
from compressor.report.format import ABSENT, Cell, number, numbers, percent, significant, value_cell
from compressor.report.svg import themed
from compressor.report.values import (
    Network,
    Record,
    conditions,
    dig,
    interval,
    metric_of,
    recorded_costs,
    score_of,
    scores,
    weights_text,
)

_MEANINGS = {
    "mIoU": "mIoU: intersection over union of a class, over all pixels of the test images together; the mean over the "
    "classes that occur there or in the predictions.",
    "perplexity": "Perplexity: e to the power of the mean cross-entropy of the next token; less is better. Every "
    "window of the test text starts from an empty state.",
}


@dataclass(frozen=True)
class Row:
    """One number of every network.

    Attributes:
        title: what it is, with its unit; within a group
        cells: of the networks
        meaning: what it means, in small print
    """

    title: str
    cells: Sequence[Cell]
    meaning: str = ""


def network_table(found: Sequence[Network], record: Record) -> dict[str, Any]:
    """One column per network, one row per number; groups that no network has are left out.

    Returns:
        `heads`, title and colour of each network, and `groups`: (title, [(title, meaning, cells)])
    """
    groups = {
        metric_of(record).heading: [*_metric_rows(found, record), *_accuracy_rows(found, record)],
        "Size": _size_rows(found, record),
        "Latency, ms per batch": _latency_rows(found, record),
        "Efficiency": _score_rows(found, record),
        "Parity of ONNX Runtime with PyTorch": _parity_rows(found, record),
    }
    return {
        "heads": heads_of(found),
        "groups": [
            (title, [(row.title, row.meaning, row.cells) for row in rows]) for title, rows in groups.items() if rows
        ],
    }


def heads_of(found: Sequence[Network]) -> list[tuple[str, str]]:
    """(title, colour) of networks, for `columns_of` of the templates."""
    return [(network.title, themed(colour(network))) for network in found]


def network_notes(found: Sequence[Network], record: Record) -> list[str]:
    """What the reader must know to use the table."""
    notes, metric = [], metric_of(record)
    if any(_has_accuracy(network) for network in found):
        ranges = "Ranges are 95 % intervals (Wilson) for the number of samples. " if metric.is_accuracy else ""
        notes.append(f"{ranges}One MAC is one multiply-add.")
    if metric.name in _MEANINGS:
        notes.append(_MEANINGS[metric.name])
    return notes


def _has_accuracy(network: Network) -> bool:
    return number(dig(network.data, "accuracy", "onnx")) is not None


def _row(title: str, found: Sequence[Network], cell: Callable[[Network], Cell], meaning: str = "") -> Row:
    return Row(title, [cell(network) for network in found], meaning)


def _metric_rows(found: Sequence[Network], record: Record) -> list[Row]:
    """The metric, unless that is the accuracy."""
    metric = metric_of(record)
    if metric.is_accuracy:
        return []

    def cell(side: str) -> Callable[[Network], Cell]:
        return lambda network: value_cell(score_of(network.data, side), metric.text)

    sides = {"onnx": "ONNX file", "torch": "PyTorch"}
    return [_row(f"{metric.name}, {title}", found, cell(side)) for side, title in sides.items()]


def _accuracy_rows(found: Sequence[Network], record: Record) -> list[Row]:
    metric = metric_of(record)

    def onnx(network: Network) -> Cell:
        accuracy = network.data.get("accuracy")
        value, samples = number(dig(accuracy, "onnx")), dig(accuracy, "samples")
        # Pixels of an image and tokens of a text are no independent samples.
        if value is None or not samples or not 0 <= value <= 1 or not metric.is_accuracy:
            return value_cell(value, percent)
        low, high = interval(value, samples)
        return value_cell(value, percent, f"{100 * low:.1f} to {100 * high:.1f} %")

    def source(network: Network) -> Cell:
        accuracy = network.data.get("accuracy") or {}
        weights = accuracy.get("weights")
        under = "" if weights is None else f"weights of the {weights_text(weights)}"
        return value_cell(accuracy.get("samples"), under=under)

    title, rows = metric.accuracy_title, list[Row]()
    if metric.is_accuracy or (
        metric.has_accuracy_beside and any(map(_has_accuracy, found))
    ):  # a metric of the user's comes without
        rows.append(_row(f"{title}, ONNX file", found, onnx))
        rows.append(_row(f"{title}, PyTorch", found, lambda n: value_cell(dig(n.data, "accuracy", "torch"), percent)))
    if any(dig(n.data, "accuracy", "samples") for n in found):
        rows.append(_row("samples scored", found, source))
    return rows


def _size_rows(found: Sequence[Network], record: Record) -> list[Row]:
    def size(key: str) -> Callable[[Network], Cell]:
        base = number(dig(record, "baseline", "reference", key))

        def cell(network: Network) -> Cell:
            value = number(network.data.get(key))
            share = "" if not base or value is None or network.key == "reference" else percent(value / base)
            return value_cell(value, under=f"{share} of unscaled" if share else "")

        return cell

    return [_row(cost_title(name), found, size(name)) for name in recorded_costs(found)]


def _latency_rows(found: Sequence[Network], record: Record) -> list[Row]:
    if not any(network.data.get("latency_ms") for network in found):
        return []

    def part(key: str) -> Callable[[Network], Cell]:
        return lambda network: value_cell(dig(network.data, "latency_ms", key), significant)

    def median(network: Network) -> Cell:
        ends = numbers(dig(network.data, "latency_ms", "interval") or [])
        under = f"{significant(ends[0])} to {significant(ends[1])}" if len(ends) == 2 else ""
        return value_cell(dig(network.data, "latency_ms", "median"), significant, under)

    rows = [_row("median", found, median, "half of the batches took less; small print: 95 % interval of it")]
    rows.append(_row("mean", found, part("mean")))
    rows.append(_row("p90", found, part("p90"), "nine in ten batches took less"))
    rows.append(_row("p99", found, part("p99"), "99 in a hundred took less"))
    rows.append(_row("samples per second", found, part("throughput_per_s")))
    rows.append(_row("measured with", found, lambda n: Cell(conditions(n.data.get("latency_ms")) or ABSENT)))
    return rows


def _score_rows(found: Sequence[Network], record: Record) -> list[Row]:
    values = {network.key: scores(network, record) for network in found}
    if all(pair == (None, None) for pair in values.values()):
        return []

    def two_decimals(which: int) -> Callable[[Network], Cell]:
        return lambda network: value_cell(values[network.key][which], lambda value: f"{value:.2f}")

    metric = metric_of(record)
    parts = (metric.name, f"{metric.name} of the unscaled network")
    kept = " / ".join(reversed(parts) if metric.lower else parts)
    titles = {
        "computational efficiency, CE": f"({kept}) × (its MACs / MACs); the unscaled network has 1, more is better",
        "storage efficiency, SE": f"({kept}) × (its parameters / parameters); likewise",
    }
    return [_row(title, found, two_decimals(which), meaning) for which, (title, meaning) in enumerate(titles.items())]


def _parity_rows(found: Sequence[Network], record: Record) -> list[Row]:
    if not any(network.data.get("parity") for network in found):
        return []

    def largest(network: Network) -> Cell:
        parity = network.data.get("parity") or {}
        batches = ", ".join(str(batch) for batch in parity.get("batches") or [])
        parts = [f"batches {batches}" if batches else ""]
        if number(parity.get("tolerance")) is not None:
            parts.append(f"tolerance {_tiny(parity['tolerance'])}")
        return value_cell(parity.get("max_abs_error"), _tiny, "; ".join(part for part in parts if part))

    return [
        _row("largest absolute error", found, largest),
        _row(
            "largest relative error",
            found,
            lambda n: value_cell(dig(n.data, "parity", "max_rel_error"), _tiny),
        ),
    ]


def _tiny(value: Any) -> str:
    return significant(value, 3)
