"""What a record says of a latency budget: how it was verified, and what the search measured on the way."""

from __future__ import annotations

from typing import Any

from compressor.report.markup import Markup, element, table
from compressor.report.network_table import value_cell
from compressor.report.sections import note, section
from compressor.report.values import Network, Record, conditions, dig, networks, number, quantity, significant

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
    children: list[object] = [element("p", element("b", title), f": {text}.") for title, text in found]
    if measured:
        limit = number(dig(record, "latency_search", "limit_ms"))
        head: list[object] = ["measured while searching", "MACs", "ms", "interval, ms", "of the limit"]
        lines = [_measured_row(index, one, limit) for index, one in enumerate(measured, 1)]
        children.append(element("div", table(head, lines), class_="wide"))
        children.append(
            note(
                "Untrained networks beside the unscaled one, whose latency then was "
                f"{significant(dig(record, 'latency_search', 'unscaled_ms'))} ms. Quick: exported in the fastest way; "
                "as shipped: exported as the result is. Intervals are 99 % bootstrap intervals over blocks of fresh "
                "sessions; a network is taken if their upper end, and a reserve of 1.5 %, are within the limit. What "
                "an earlier run measured on this machine is taken from the cache."
            )
        )
    return section("Latency budget", *children)


def _measured_row(index: int, one: Record, limit: float | None) -> list[object]:
    low, high = one["interval_ms"]
    kind = "as shipped" if one["exact"] else "quick"
    return [
        f"{index}, {kind}",
        value_cell(one["macs"], quantity),
        value_cell(one["ms"], significant),
        element("td", f"{significant(low)} to {significant(high)}"),
        value_cell(high / limit if limit else None, lambda share: f"{100 * share:.1f} %"),
    ]
