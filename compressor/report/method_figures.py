"""Charts of a comparison: a metric against a cost, a line for each method (Figures 4 and 5 of NeuralScale's paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.report.format import compact
from compressor.report.groups import title_of
from compressor.report.svg import BLUE, GREY, PAPER, draw, log_axis_if_wide, themed
from compressor.report.values import Metric

Look = tuple[str, str, str]
# Okabe and Ito's colours, each with a mark of its own: (colour, matplotlib's marker, the same as a character).
_LOOKS = (
    (BLUE, "o", "●"),
    ("#e69f00", "s", "■"),
    ("#009e73", "^", "▲"),
    ("#cc79a7", "D", "◆"),
    ("#d55e00", "v", "▼"),
    ("#56b4e9", "P", "✚"),
    ("#a58b00", "X", "✖"),
)
UNSCALED_LOOK = (GREY, "*", "★")
TITLES = {"params": "parameters", "macs": "MACs", "latency_median_ms": "latency, ms (median)"}
_WIDTH, _HEIGHT = 344, 310
_APART = 3.0  # pixels between the marks of neighbouring methods


def legend(methods: Sequence[str], unscaled: str | None = None) -> list[dict[str, str]]:
    """Say which colour and mark stands for which method, for `legend` of the templates."""
    known = dict(zip(methods, looks(len(methods)), strict=True))
    return legend_of(known if unscaled is None else {**known, unscaled: UNSCALED_LOOK})


def legend_of(known: Mapping[str, Look]) -> list[dict[str, str]]:
    """The same of names whose looks are given."""
    return [{"name": name, "colour": themed(look[0]), "glyph": look[2]} for name, look in known.items()]


def cost_chart(
    groups: Sequence[Mapping[str, Any]], methods: Mapping[str, Look], cost: str, metric: Metric
) -> dict[str, object]:
    """Draw a metric's mean against the mean of a cost, with the intervals of both.

    Args:
        groups: as `summarise` gives them
        methods: looks in the order of the legend; groups of other methods are the unscaled network
        cost: one of `TITLES`
        metric: what the methods are compared by

    Returns:
        `title`, `figure` and no `legend`, for `charts` of the templates
    """
    known = [group for group in groups if group[metric.column] and group[cost]]
    places = [group[cost]["mean"] for group in known]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for index, (method, look) in enumerate(methods.items()):
            mine = sorted((g for g in known if g["method"] == method), key=lambda g: float(g[cost]["mean"]))
            aside = (index - (len(methods) - 1) / 2) * _APART
            _line(figure, axes, mine, cost=cost, metric=metric, look=look, aside=aside)
        for group in known:
            if group["method"] not in methods:
                _line(figure, axes, [group], cost=cost, metric=metric, look=UNSCALED_LOOK, aside=0)
        _limits(axes, known, cost, metric)
        _cost_axis(axes, places)
        axes.set_xlabel(TITLES[cost])
        axes.set_ylabel(metric.title)
        axes.margins(x=0.09, y=0.08)
        axes.grid()

    front = [title_of(group) if group["budget"] else str(group["method"]) for group in known if group["front"][cost]]
    label = f"{metric.heading} against {TITLES[cost]}; on the Pareto front: {', '.join(front)}"
    return {
        "title": TITLES[cost],
        "figure": draw(paint, _HEIGHT, f"against-{cost}", label, width=_WIDTH),
        "legend": None,
    }


def bars_note(metric: Metric, seeds: int) -> str:
    """What the bars of charts of that metric over so many seeds are."""
    if seeds > 1:
        return "Mean over the seeds; bars are one standard deviation (n − 1)."
    share = "of the share of test images (Wilson) and " if metric.is_accuracy else ""
    return (
        f"Bars are 95 % intervals {share}of the median time of the batches measured: they say nothing of other seeds."
    )


def looks(count: int) -> list[Look]:
    """Colour, matplotlib's marker and the same as a character, for so many lines."""
    return [_LOOKS[index % len(_LOOKS)] for index in range(count)]


def _line(
    figure: Any,
    axes: Any,
    groups: Sequence[Mapping[str, Any]],
    *,
    cost: str,
    metric: Metric,
    look: Look,
    aside: float,
) -> None:
    """One method: its bars and line, then its marks, filled where they are on the Pareto front."""
    from matplotlib.transforms import ScaledTranslation

    colour, marker, _ = look
    xs = [group[cost]["mean"] for group in groups]
    ys = [metric.scale * group[metric.column]["mean"] for group in groups]
    up = _bars([group[metric.column] for group in groups], metric.scale)
    along = _bars([group[cost] for group in groups])
    place = axes.transData + ScaledTranslation(aside / 72, 0, figure.dpi_scale_trans)
    style = {"color": colour, "lw": 1.6, "elinewidth": 1.2, "capsize": 2.5, "transform": place, "zorder": 3}
    axes.errorbar(xs, ys, up, along, **style)
    for x, y, group in zip(xs, ys, groups, strict=True):
        axes.plot(
            [x],
            [y],
            marker,
            color=colour,
            markerfacecolor=colour if group["front"][cost] else PAPER,
            markersize=11 if marker == "*" else 6,
            markeredgewidth=1.4,
            transform=place,
            zorder=4,
        )


def _bars(found: Sequence[Mapping[str, Any]], scale: float = 1) -> list[list[float]]:
    """How far below and above its mean each interval goes."""
    ends = [(one["mean"], one.get("interval") or (one["mean"], one["mean"])) for one in found]
    return [
        [scale * max(mean - low, 0) for mean, (low, _) in ends],
        [scale * max(high - mean, 0) for mean, (_, high) in ends],
    ]


def _limits(axes: Any, groups: Sequence[Mapping[str, Any]], cost: str, metric: Metric) -> None:
    """Show all marks and bars; matplotlib leaves out what is drawn beside its place."""
    for group in groups:
        found = group[metric.column]
        left, right = group[cost].get("interval") or (group[cost]["mean"],) * 2
        low, high = found.get("interval") or (found["mean"],) * 2
        axes.update_datalim([(left, metric.scale * low), (right, metric.scale * high)])
    axes.autoscale_view()


def _cost_axis(axes: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if not log_axis_if_wide(axes, values, axis="x", ratio=4, most=4):
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
