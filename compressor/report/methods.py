"""The page of a comparison of methods: charts, means and spreads, Pareto fronts, every run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from compressor.recipe.cost import cost_title
from compressor.report.aggregate import FRONTS, SAME, cost_columns
from compressor.report.format import ABSENT, Cell, quantity, significant, value_cell
from compressor.report.groups import UNSCALED, Group, errors_of, methods_of, score_text, title_of, why_without
from compressor.report.leads import comparison_lead
from compressor.report.method_figures import TITLES, UNSCALED_LOOK, bars_note, cost_chart, legend_of, looks
from compressor.report.rendering import render_page
from compressor.report.sections import (
    blocks_of,
    csv_text_file,
    environment_of,
    input_shape,
    seconds_of,
    split_sizes,
    state,
)
from compressor.report.values import Metric, Record, conditions, metric_of

_COLUMNS = (
    "method",
    "budget",
    "seed",
    "accuracy",
    "latency_mean_ms",
    "latency_median_ms",
    "met",
    "binding",
    "fallback",
    "same_network_as",
    "error",
)


def render_methods(record: Record) -> str:
    """Render the record of a comparison as one self-contained page."""
    metric = metric_of(record)
    return render_page(
        "comparison.html.j2",
        title=f"{record['name']}: methods compared",
        metric=metric,
        facts=_facts(record),
        verdict=_verdict(record, metric),
        charts=_charts(record, metric),
        means=_means(record, metric),
        fronts=_fronts(record, metric),
        runs=_runs(record, metric),
        seconds=seconds_of(record),
        configuration=_configuration(record),
        environment=environment_of(record),
    )


def runs_csv(record: Record) -> str:
    """Every run as a line of comma-separated values; nothing where a number is not known.

    Where the metric is not the accuracy, its name and its value stand behind that.
    """
    text, metric, columns = io.StringIO(), metric_of(record), list(_COLUMNS)
    columns[3:3] = cost_columns(record["runs"])
    if not metric.is_accuracy:
        behind = columns.index("accuracy") + 1
        columns[behind:behind] = ["metric", "value"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**run, "metric": metric.name} for run in record["runs"])
    return text.getvalue()


def _facts(record: Record) -> list[tuple[str, Any]]:
    data = record.get("dataset") or {}
    return [
        ("methods", ", ".join(methods_of(record))),
        ("budgets", ", ".join(record["budgets"])),
        ("seeds", ", ".join(map(str, record["seeds"]))),
        ("data", data.get("name")),
        ("input", input_shape(data)),
        ("classes", data.get("classes")),
        ("samples", split_sizes(data)),
    ]


def _verdict(record: Record, metric: Metric) -> dict[str, Any]:
    runs = [run for run in record["runs"] if run["budget"]]
    met = sum(run["met"] is True for run in runs)
    return {
        "state": state(record["met"]),
        "title": "All budgets met" if record["met"] else f"{met} of {len(runs)} runs met their budget",
        "lead": comparison_lead(record),
    }


def _charts(record: Record, metric: Metric) -> dict[str, Any]:
    methods = methods_of(record)
    known = dict(zip(methods, looks(len(methods)), strict=True))
    return {
        "legend": legend_of({**known, UNSCALED: UNSCALED_LOOK}),
        "figures": [cost_chart(record["groups"], known, cost, metric) for cost in FRONTS],
        "bars": bars_note(metric, seeds=len(record["seeds"])),
        "conditions": conditions(record["measured"]),
        "interleaved": record["measured"]["interleaved"],
    }


def _means(record: Record, metric: Metric) -> dict[str, Any]:
    found = {(group["method"], group["budget"]): group for group in record["groups"]}

    def cell(group: Group, colspan: int | None = None) -> Cell:
        return _mean_cell(group, metric, errors_of(group, record), colspan)

    rows: list[list[object]] = [
        [method, *(cell(found[method, budget]) for budget in record["budgets"])] for method in methods_of(record)
    ]
    span = len(record["budgets"])
    rows += [[UNSCALED, cell(group, span)] for group in record["groups"] if not group["budget"]]
    failed = {(run["method"], run["budget"], run["error"]): None for run in record["runs"] if run["error"] is not None}
    return {
        "head": ["", *record["budgets"]],
        "rows": rows,
        "failed": [(f"{method} {budget}", error) for method, budget, error in failed],
    }


def _mean_cell(group: Group, metric: Metric, errors: Sequence[str], colspan: int | None = None) -> Cell:
    if group[metric.column] is None:
        return Cell(ABSENT, [why_without(errors)])
    badges = [("best", "met")] * group["best"] + [("missed", "missed")] * (group["met"] is False)
    notes = [
        f"{quantity(round(group['params']['mean']))} parameters",
        f"{quantity(round(group['macs']['mean']))} MACs",
        f"{significant(group['latency_median_ms']['mean'])} ms",
    ]
    if group["failed"]:
        notes.append(f"{len(group['seeds'])} of {len(group['seeds']) + len(group['failed'])} seeds")
    exact = repr(group[metric.column]["mean"])
    return Cell(score_text(group, metric), notes, exact, badges, colspan=colspan)


def _fronts(record: Record, metric: Metric) -> dict[str, Any]:
    groups = sorted(
        (group for group in record["groups"] if group[metric.column]), key=lambda group: float(group["params"]["mean"])
    )
    return {
        "head": ["network", metric.title, *(TITLES[cost] for cost in FRONTS)],
        "rows": [
            [title_of(group), score_text(group, metric), *(_front_cell(group, cost) for cost in FRONTS)]
            for group in groups
        ],
        "same": f"{100 * SAME:.0f}",
    }


def _front_cell(group: Group, cost: str) -> Cell:
    value = group[cost]["mean"]
    show = significant(value) if cost == "latency_median_ms" else quantity(round(value))
    if group["front"][cost]:
        return Cell(show, title=repr(value), badges=[("front", "met")])
    return Cell(show, title=repr(value), class_="behind")


def _runs(record: Record, metric: Metric) -> dict[str, Any]:
    sizes = cost_columns(record["runs"])
    return {
        "csv": csv_text_file("comparison.csv", runs_csv(record)),
        "head": ["run", metric.name, *map(cost_title, sizes), "ms, median", "ms, mean", "budget", "remarks"],
        "rows": [_run_row(run, metric, sizes) for run in record["runs"]],
    }


def _run_row(run: Record, metric: Metric, sizes: Sequence[str]) -> list[object]:
    name = f"{title_of(run)}, seed {run['seed']}"
    if run["error"] is not None:
        return [name, *(ABSENT for _ in range(3 + len(sizes))), _badge(False), why_without([run["error"]])]
    remarks = []
    if run.get("binding"):
        remarks.append(f"{run['binding']} binds")
    if run.get("fallback"):
        remarks.append("scaled uniformly")
    if run.get("same_network_as"):
        remarks.append(f"same network as {run['same_network_as']}")
    return [
        Markup('<a href="{}/report.html">{}</a>').format(run["folder"], name),
        value_cell(run[metric.column], metric.text),
        *(value_cell(run.get(key)) for key in sizes),
        *(value_cell(run[key], significant) for key in ("latency_median_ms", "latency_mean_ms")),
        _badge(run["met"]) if run["budget"] else "",
        "; ".join(remarks),
    ]


def _badge(met: bool | None) -> Cell:
    return Cell(badges=[({True: "met", False: "missed", None: "open"}[met], state(met))])


def _configuration(record: Record) -> dict[str, str]:
    """What all runs share, and the options of each method."""
    shared = {key: value for key, value in record["recipe"].items() if key not in ("search", "budget")}
    return blocks_of({"methods": record["methods"], "recipe": shared})
