"""What a record says of a latency budget: how it was verified, and what the search measured on the way."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from compressor.report.format import number, significant, value_cell
from compressor.report.rendering import render
from compressor.report.values import Network, Record, conditions, dig, networks

_VERDICTS = {
    "met": "within the limit",
    "missed": "above the limit",
    "inconclusive": "within its error of the limit, so it does not count as met",
}
_CLOCKS = {"cpu": "CPU time of the thread", "wall": "time by the clock"}


def verified_text(network: Network) -> str:
    """One sentence on how the latency of a network was verified against its limit; "" where it was not."""
    found = network.data.get("verification")
    if not found:
        return ""
    ratio = found["ratio"]
    share = f"{significant(ratio['median'], 3)} {_range(ratio['low'], ratio['high'])} of the unscaled network's"
    time = f"{significant(found['median_ms'])} ms {_range(*found['interval_ms'])}"
    if found["share"] is not None:
        text = f"{share}, limit {significant(found['share'])} ({time})"
    else:
        text = f"{time}, limit {significant(found['limit_ms'])} ms ({share})"
    verdict = _VERDICTS.get(found["verdict"], found["verdict"])
    how = f"{found['pairs']} pairs in {found['blocks']} blocks, {_CLOCKS.get(found['clock'], found['clock'])}"
    return f"{text}: {verdict} ({how}; {conditions(found)})"


def verified_line(record: Record) -> str:
    """The same of the result, for the terminal; "" where its latency was not limited."""
    text = verified_text(networks(record)[0])
    return f"latency verified: {text}" if text else ""


def _range(low: Any, high: Any) -> str:
    return f"[{significant(low, 3)} to {significant(high, 3)}]"


def latency_budget_section(record: Record) -> Markup:
    """Show how the limit of the latency was verified, and every network that was measured to find the result."""
    found = [(network.title, text) for network in networks(record) if (text := verified_text(network))]
    measured = dig(record, "latency_search", "measured") or []
    if not found and not measured:
        return Markup()
    limit = number(dig(record, "latency_search", "limit_ms"))
    return render(
        "latency_budget.html.j2",
        verified=found,
        measured=[_measured_row(index, one, limit) for index, one in enumerate(measured, 1)],
        unscaled_ms=dig(record, "latency_search", "unscaled_ms"),
        model=_model_text(dig(record, "latency_search", "layer_model")),
    )


def _model_text(model: Record | None) -> str:
    """What estimates were made with; "" where that is not known."""
    if not model:
        return ""
    median, largest = (f"{100 * model[key]:.1f} %" for key in ("median_error", "largest_error"))
    return (
        f"Estimates came from a model of the layers' times, fitted to {model['probes']} networks that were measured "
        f"before; each of them predicted from the others, it errs by {median} (median), {largest} at most."
    )


def _measured_row(index: int, one: Record, limit: float | None) -> list[object]:
    low, high = one["interval_ms"]
    kind = "as shipped" if one["exact"] else "quick"
    return [
        f"{index}, {kind}",
        value_cell(one["macs"]),
        value_cell(one["ms"], significant),
        f"{significant(low)} to {significant(high)}",
        value_cell(high / limit if limit else None, lambda share: f"{100 * share:.1f} %"),
    ]
