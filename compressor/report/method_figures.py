"""Charts of a comparison: accuracy against a cost, a line for each method (Figures 4 and 5 of NeuralScale's paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.report.markup import Markup, element, join
from compressor.report.svg import BLUE, GREY, PAPER, draw, log_axis_if_wide, themed
from compressor.report.values import compact

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
_UNSCALED = (GREY, "*", "★")
TITLES = {"params": "parameters", "macs": "MACs", "latency_median_ms": "latency, ms (median)"}
_WIDTH, _HEIGHT = 344, 310
_APART = 3.0  # pixels between the marks of neighbouring methods


def legend(methods: Sequence[str], unscaled: str) -> Markup:
    """Say which colour and mark stands for which method."""
    names = [(method, *look) for method, look in zip(methods, _looks(len(methods)), strict=True)]
    items = [
        element("span", element("b", glyph, style=f"color:{themed(colour)}"), f" {name}")
        for name, colour, _, glyph in [*names, (unscaled, *_UNSCALED)]
    ]
    return element("p", join(items), class_="legend")


def cost_chart(groups: Sequence[Mapping[str, Any]], methods: Sequence[str], cost: str) -> Markup:
    """Draw mean accuracy with its standard deviation against the mean of a cost.

    Args:
        groups: as `summarise` gives them
        methods: in the order of the legend; groups of other methods are the unscaled network
        cost: one of `TITLES`
    """
    known = [group for group in groups if group["accuracy"] and group[cost]]
    places = [group[cost]["mean"] for group in known]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for index, (method, look) in enumerate(zip(methods, _looks(len(methods)), strict=True)):
            mine = sorted((g for g in known if g["method"] == method), key=lambda g: float(g[cost]["mean"]))
            aside = (index - (len(methods) - 1) / 2) * _APART
            _line(figure, axes, mine, cost, look, aside)
        for group in known:
            if group["method"] not in methods:
                _line(figure, axes, [group], cost, _UNSCALED, 0)
        _limits(axes, known, cost)
        _cost_axis(axes, places)
        axes.set_xlabel(TITLES[cost])
        axes.set_ylabel("accuracy, %")
        axes.margins(x=0.09, y=0.08)
        axes.grid()

    label = f"Accuracy against {TITLES[cost]}, a line for each of {len(methods)} methods"
    return draw(paint, _HEIGHT, f"against-{cost}", label, width=_WIDTH)


def _looks(count: int) -> list[tuple[str, str, str]]:
    return [_LOOKS[index % len(_LOOKS)] for index in range(count)]


def _line(
    figure: Any, axes: Any, groups: Sequence[Mapping[str, Any]], cost: str, look: tuple[str, str, str], aside: float
) -> None:
    """One method: its bars and line, then its marks, filled where they are on the Pareto front."""
    from matplotlib.transforms import ScaledTranslation

    colour, marker, _ = look
    xs = [group[cost]["mean"] for group in groups]
    ys = [100 * group["accuracy"]["mean"] for group in groups]
    spread = [100 * (group["accuracy"]["std"] or 0) for group in groups]
    place = axes.transData + ScaledTranslation(aside / 72, 0, figure.dpi_scale_trans)
    axes.errorbar(xs, ys, spread, color=colour, lw=1.6, elinewidth=1.2, capsize=2.5, transform=place, zorder=3)
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


def _limits(axes: Any, groups: Sequence[Mapping[str, Any]], cost: str) -> None:
    """Show all marks and bars; matplotlib leaves out what is drawn beside its place."""
    for group in groups:
        x, y, spread = group[cost]["mean"], group["accuracy"]["mean"], group["accuracy"]["std"] or 0
        axes.update_datalim([(x, 100 * (y - spread)), (x, 100 * (y + spread))])
    axes.autoscale_view()


def _cost_axis(axes: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if not log_axis_if_wide(axes, values, axis="x", ratio=4, most=4):
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
