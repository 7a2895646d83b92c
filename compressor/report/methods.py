"""The page of a comparison of methods: charts, means and spreads, Pareto fronts, every run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from compressor.recipe.cost import cost_title
from compressor.report.aggregate import FRONTS, SAME, cost_columns
from compressor.report.markup import Markup, element, table
from compressor.report.method_figures import TITLES, cost_chart, legend
from compressor.report.network_table import value_cell
from compressor.report.sections import (
    csv_text_link,
    document,
    environment_section,
    header,
    note,
    recipe_section,
    seconds_section,
    section,
    split_sizes,
    state,
)
from compressor.report.values import ABSENT, Metric, Record, conditions, metric_of, quantity, significant

UNSCALED = "unscaled network"
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
Group = Mapping[str, Any]


def render_methods(record: Record) -> str:
    """Render the record of a comparison as one self-contained page."""
    parts = (_header, _verdict, _charts, _means, _fronts, _runs, seconds_section, _recipe, environment_section)
    return document(f"{record['name']}: methods compared", *(part(record) for part in parts))


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


def _score_text(group: Group, metric: Metric) -> str:
    """The metric of a group without its unit."""
    return spread_text(group[metric.column], metric.scale)


def spread_text(found: Mapping[str, Any] | None, scale: float = 1, digits: int = 2) -> str:
    """Write "91.20 ± 0.34"; without the spread if there is one value only."""
    if found is None:
        return ABSENT
    mean = f"{scale * found['mean']:.{digits}f}"
    return mean if found["std"] is None else f"{mean} ± {scale * found['std']:.{digits}f}"


def title_of(group: Group) -> str:
    """Name a method at a budget."""
    return f"{group['method']} {group['budget']}" if group["budget"] else UNSCALED


def _methods(record: Record) -> list[str]:
    """The methods in the order in which they were named, which JSON's sorted keys would lose."""
    return list(dict.fromkeys(group["method"] for group in record["groups"] if group["budget"]))


def _header(record: Record) -> Markup:
    data = record.get("dataset") or {}
    facts = [
        ("methods", ", ".join(_methods(record))),
        ("budgets", ", ".join(record["budgets"])),
        ("seeds", ", ".join(map(str, record["seeds"]))),
        ("data", data.get("name")),
        ("input", " × ".join(str(size) for size in data.get("input_shape") or [])),
        ("classes", data.get("classes")),
        ("samples", split_sizes(data)),
    ]
    return header(f"{record['name']}: methods compared", facts)


def _verdict(record: Record) -> Markup:
    runs = [run for run in record["runs"] if run["budget"]]
    met = sum(run["met"] is True for run in runs)
    title = "All budgets met" if record["met"] else f"{met} of {len(runs)} runs met their budget"
    best, metric = [group for group in record["groups"] if group["best"]], metric_of(record)
    unit = " %" if metric.is_share else f" {metric.name}"
    claims = [
        element(
            "span",
            element("b", _score_text(group, metric), unit),
            f" {title_of(group)}, ahead of every other method",
        )
        for group in best
    ]
    if not claims and len(record["methods"]) > 1:
        few = "One seed says nothing about noise: no method is called best."
        none = "At no budget is one method ahead of all others by more than noise."
        claims = [element("span", few if len(record["seeds"]) < 2 else none)]
    return element(
        "section",
        element("h2", title),
        element("p", *claims, class_="claims"),
        class_=f"verdict {state(record['met'])}",
    )


def _charts(record: Record) -> Markup:
    methods, groups, metric = _methods(record), record["groups"], metric_of(record)
    charts = [element("div", cost_chart(groups, methods, cost, metric)) for cost in FRONTS]
    text = (
        "Mean over the seeds; bars are one standard deviation (n − 1). Filled marks are on the Pareto front of that "
        "chart. Marks of different methods are set a few pixels apart sideways, so that bars do not hide each other. "
        f"Latency: {conditions(record['measured'])}, {record['measured']['interleaved']} networks in turns in one "
        "process."
    )
    title = f"{metric.heading} against cost"
    return section(title, legend(methods, UNSCALED), element("div", *charts, class_="charts"), note(text))


def _means(record: Record) -> Markup:
    found, metric = {(group["method"], group["budget"]): group for group in record["groups"]}, metric_of(record)
    rows: list[list[object]] = [
        [method, *(_mean_cell(found[method, budget], metric) for budget in record["budgets"])]
        for method in _methods(record)
    ]
    span = str(len(record["budgets"]))
    rows += [[UNSCALED, _mean_cell(group, metric, colspan=span)] for group in record["groups"] if not group["budget"]]
    unit, on = ", %" if metric.is_share else "", "images" if metric.is_share else "text"
    rounding = ", at least the rounding to whole images" if metric.is_accuracy else ""
    text = (
        f"{metric.heading} of the ONNX files on the test {on}{unit}, mean ± standard deviation over the seeds. "
        f"“best”: {'below' if metric.lower else 'above'} every other method at that budget by more than noise (Welch's "
        f"t-test on the seeds, two-sided, 95 %{rounding}); no mark: the difference is not significant."
    )
    children = [element("div", table(["", *record["budgets"]], rows, "means"), class_="wide"), note(text)]
    failed = {(run["method"], run["budget"], run["error"]): None for run in record["runs"] if run["error"] is not None}
    children += [note(element("b", f"{method} {budget}: "), error) for method, budget, error in failed]
    return section(f"{metric.heading} by method and budget", *children)


def _mean_cell(group: Group, metric: Metric, **attributes: str) -> Markup:
    if group[metric.column] is None:
        return element("td", ABSENT, element("small", "cannot be met"))
    marks: list[object] = [" ", element("span", "best", class_="badge met")] if group["best"] else []
    if group["met"] is False:
        marks += [" ", element("span", "missed", class_="badge missed")]
    notes = [
        f"{quantity(round(group['params']['mean']))} parameters",
        f"{quantity(round(group['macs']['mean']))} MACs",
        f"{significant(group['latency_median_ms']['mean'])} ms",
    ]
    if group["failed"]:
        notes.append(f"{len(group['seeds'])} of {len(group['seeds']) + len(group['failed'])} seeds")
    return element(
        "td",
        _score_text(group, metric),
        *marks,
        *(element("small", line) for line in notes),
        title=repr(group[metric.column]["mean"]),
        **attributes,
    )


def _fronts(record: Record) -> Markup:
    metric = metric_of(record)
    groups = sorted(
        (group for group in record["groups"] if group[metric.column]), key=lambda group: float(group["params"]["mean"])
    )
    head = ["network", metric.title, *(TITLES[cost] for cost in FRONTS)]
    rows: list[list[object]] = [
        [title_of(group), _score_text(group, metric), *(_front_cell(group, cost) for cost in FRONTS)]
        for group in groups
    ]
    text = (
        f"On the front of a cost is a network unless another one has a {'lower' if metric.lower else 'higher'} mean "
        f"{metric.name} at the same mean cost or less, or the same at less. Costs that differ by less than "
        f"{100 * SAME:.0f} % count as the same: networks under one budget differ by what no further channel fits into."
    )
    return section("Pareto fronts", element("div", table(head, rows), class_="wide"), note(text))


def _front_cell(group: Group, cost: str) -> Markup:
    value = group[cost]["mean"]
    show = significant(value) if cost == "latency_median_ms" else quantity(round(value))
    if not group["front"][cost]:
        return element("td", element("span", show, class_="behind"))
    return element("td", show, " ", element("span", "front", class_="badge met"))


def _runs(record: Record) -> Markup:
    metric = metric_of(record)
    sizes = cost_columns(record["runs"])
    head = ["run", metric.name, *map(cost_title, sizes), "ms, median", "ms, mean", "budget", "remarks"]
    rows = [_run_row(run, metric, sizes) for run in record["runs"]]
    many = element(
        "details",
        element("summary", f"{len(rows)} runs"),
        element("div", table(head, rows, "runs"), class_="wide"),
        note("Each run's own report lies in its folder, runs/METHOD/BUDGET/SEED/report.html."),
    )
    return section("Runs", csv_text_link("comparison.csv", runs_csv(record)), many)


def _run_row(run: Record, metric: Metric, sizes: Sequence[str]) -> list[object]:
    name = f"{title_of(run)}, seed {run['seed']}"
    if run["error"] is not None:
        return [
            name,
            *(element("td", ABSENT) for _ in range(3 + len(sizes))),
            _badge(False),
            element("td", "cannot be met"),
        ]
    remarks = []
    if run.get("binding"):
        remarks.append(f"{run['binding']} binds")
    if run.get("fallback"):
        remarks.append("scaled uniformly")
    if run.get("same_network_as"):
        remarks.append(f"same network as {run['same_network_as']}")
    return [
        element("a", name, href=f"{run['folder']}/report.html"),
        value_cell(run[metric.column], metric.text),
        *(value_cell(run.get(key)) for key in sizes),
        *(value_cell(run[key], significant) for key in ("latency_median_ms", "latency_mean_ms")),
        _badge(run["met"]) if run["budget"] else element("td"),
        element("td", "; ".join(remarks)),
    ]


def _badge(met: bool | None) -> Markup:
    return element(
        "td", element("span", {True: "met", False: "missed", None: "open"}[met], class_=f"badge {state(met)}")
    )


def _recipe(record: Record) -> Markup:
    """What all runs share, and the options of each method."""
    shared: dict[str, Any] = {key: value for key, value in record["recipe"].items() if key not in ("search", "budget")}
    return recipe_section({"methods": record["methods"], "recipe": shared})
