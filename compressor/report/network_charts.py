"""What a run's page shows of its networks beside the table: the metric against costs, and channels per layer."""

from __future__ import annotations

from typing import Any

from compressor.report import figures
from compressor.report.aggregate import FRONTS, mark_fronts, summary
from compressor.report.format import number, numbers, short_names, value_cell
from compressor.report.method_figures import bars_note, cost_chart, legend_of
from compressor.report.svg import PALE, themed
from compressor.report.values import Metric, Network, Record, dig, layer_order, metric_of, networks, score_of, widths_of


def fronts_of(record: Record) -> dict[str, Any] | None:
    """The metric against every cost that two networks have."""
    metric, found = metric_of(record), networks(record)
    groups = [_group(network, metric) for network in found]
    mark_fronts(groups, metric)
    shown = [group for group in groups if group[metric.column]]
    drawn = [cost for cost in FRONTS if sum(bool(group[cost]) for group in shown) > 1]
    if not drawn:
        return None
    known = {network.title: figures.look(network, place) for place, network in enumerate(found)}
    return {
        "legend": legend_of({title: known[title] for title in known if any(g["method"] == title for g in shown)}),
        "figures": [cost_chart(shown, known, cost, metric) for cost in drawn],
        "bars": bars_note(metric, seeds=1),
    }


def _group(network: Network, metric: Metric) -> dict[str, Any]:
    """A network as a comparison has the only run of a method."""
    data = network.data
    run = {
        "accuracy": score_of(data),
        "value": score_of(data),
        "samples": dig(data, "accuracy", "samples"),
        "latency_median_ms": dig(data, "latency_ms", "median"),
        "latency_interval_ms": dig(data, "latency_ms", "interval"),
        **{cost: data.get(cost) for cost in FRONTS[:2]},
    }
    summaries = {name: summary(name, [run], metric) for name in (metric.column, *FRONTS)}
    return {"method": network.title, "budget": "", "samples": run["samples"], **summaries}


def channels_of(record: Record) -> dict[str, Any] | None:
    """A row for every layer: its name, whole and short, the channels in every network, and bars of those."""
    order = layer_order(record)
    found = [network for network in networks(record) if widths_of(network, record)]
    if record.get("reference_widths") and not any(network.key == "reference" for network in found):
        found.append(Network("reference", "unscaled network", {}))
    if not order or not found:
        return None
    # The unscaled network comes first, as what the others are made from; its bars lie behind theirs.
    found = sorted(found, key=lambda network: network.key != "reference")
    columns = [widths_of(network, record) for network in found]
    most = max(numbers(width for widths in columns for width in widths.values()), default=0) or 1
    rows = []
    for layer, short in zip(order, short_names(order, 46), strict=True):
        cells = [value_cell(widths.get(layer)) for widths in columns]
        bars = [
            (network.key if network.key in ("reference", "result") else "mark", themed(_bar_colour(network)), share)
            for network, widths in zip(found, columns, strict=True)
            if (width := number(widths.get(layer))) is not None and (share := f"{100 * width / most:.2f}")
        ]
        rows.append((layer, short, cells, bars))
    return {"heads": [(network.title, themed(_bar_colour(network))) for network in found], "rows": rows}


def _bar_colour(network: Network) -> str:
    return PALE if network.key == "reference" else figures.colour(network)
