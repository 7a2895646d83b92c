"""Figures as inline SVG, drawn with matplotlib's object-oriented API; matplotlib is imported when one is drawn.

Lengths are CSS pixels: figures are made at 72 dots per inch, so one SVG unit is one pixel at full width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from compressor.report.format import compact, number, numbers, short_names, significant
from compressor.report.method_figures import UNSCALED_LOOK, Look, looks
from compressor.report.svg import BLUE, FAINT, GREY, INK, WIDTH, draw, log_axis, log_axis_if_wide
from compressor.report.values import Network, Record, dig, metric_of

# Okabe and Ito's colours: distinct with any colour vision, and in grey by their lightness.
COLOURS = {"result": BLUE, "uniform": "#e69f00", "reference": GREY}
_MORE_COLOURS = ("#009e73", "#cc79a7", "#56b4e9")
MAX_PANELS, MAX_DOTS = 60, 40
_SMALL = (344, 250)  # pixels of a chart beside which there are others
_MARKS = 6  # of each line, which distinguish it without its colour


def colour(network: Network) -> str:
    """Return the colour that stands for a network on the whole page."""
    return COLOURS.get(network.key) or _MORE_COLOURS[sum(network.key.encode()) % len(_MORE_COLOURS)]


def look(network: Network, place: int) -> Look:
    """Its colour, matplotlib's mark for it and the same as a character, which distinguish it without its colour.

    Args:
        network: of a page
        place: among the networks of the page
    """
    if network.key == "reference":
        return UNSCALED_LOOK
    _, marker, glyph = looks(place + 1)[place]
    return colour(network), marker, glyph


def looks_of(found: Sequence[Network]) -> dict[str, Look]:
    """The looks of networks by their titles."""
    return {network.title: look(network, place) for place, network in enumerate(found)}


def fit_figure(iteration: Record, title: str) -> Markup:
    """Draw the records and the fitted curve of every layer, one small log-log panel each.

    Args:
        iteration: of the search
        title: of the cost that the widths were fitted to
    """
    shown = fitted_layers(iteration)
    columns = len(shown) if len(shown) <= 3 else 4 if len(shown) <= 12 else 6
    lines = math.ceil(len(shown) / columns)
    panel = 170 if columns <= 4 else 128

    def paint(figure: Any) -> None:
        # Own margins: the automatic layouts need seconds for sixty panels.
        height = panel * lines + 46
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        figure.subplots_adjust(
            left=62 / WIDTH,
            right=1 - 8 / WIDTH,
            top=1 - 26 / height,
            bottom=46 / height,
            wspace=0.1,
            hspace=0.32,
        )
        panels = list(grid.flat)
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        for axes, layer in zip(panels, shown, strict=False):
            _fit_panel(axes, iteration, layer, title_length=126 // columns)
        _fit_scales(panels[0], iteration, shown, dense=columns <= 4)
        # A column that ends one line early shows its own ticks: the panel below it is not there.
        for axes in panels[: len(shown)][-columns:]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel(f"{title} τ", fontsize=12, color=FAINT, y=6 / height, va="bottom")
        figure.supylabel("channels φ", fontsize=12, color=FAINT, x=2 / WIDTH, ha="left")

    label = f"Fitted width against {title}, {len(shown)} layers, both axes logarithmic"
    return draw(paint, panel * lines + 46, "fit", label, constrained=False)


def fitted_layers(iteration: Record) -> list[int]:
    """Positions of the layers to draw: all with a fit and records, or the worst fitted ones if there are too many."""
    groups = iteration.get("groups") or []
    found = [i for i in range(len(groups)) if None not in fit_of(iteration, i)[:2] and _records(iteration, i)[0]]
    if len(found) <= MAX_PANELS:
        return found
    worst = sorted(found, key=lambda i: fit_of(iteration, i)[2] or 0)
    return sorted(worst[:MAX_PANELS])


def fit_of(iteration: Record, layer: int) -> tuple[float | None, float | None, float | None]:
    """Return alpha, beta and R² of one layer; None for each that the record lacks."""
    alpha, beta, r2 = (
        number(values[layer]) if layer < len(values := iteration.get(key) or []) else None
        for key in ("alpha", "beta", "r2")
    )
    return alpha, beta, r2


def _fit_panel(axes: Any, iteration: Record, layer: int, title_length: int) -> None:
    alpha, beta, r2 = fit_of(iteration, layer)
    sizes, widths = _records(iteration, layer)
    drawn = thinned(range(len(sizes)), MAX_DOTS)
    dots = [sizes[i] for i in drawn], [widths[i] for i in drawn]
    axes.plot(*dots, "o", markersize=4.5, color=COLOURS["result"], alpha=0.6, mew=0, zorder=3)
    if sizes and alpha is not None and beta is not None:
        ends = [min(sizes), max(sizes)]
        axes.plot(ends, [alpha * tau**beta for tau in ends], color=INK, linewidth=1.2)
    name = short_names([str(iteration["groups"][layer])], title_length)[0]
    axes.set_title(name, fontsize=11, loc="left", pad=4)
    note = f"β {significant(beta, 3)}" + ("" if r2 is None else f", R² {r2:.3f}")
    corner = {"transform": axes.transAxes, "ha": "right", "va": "bottom"}
    axes.text(0.98, 0.05, note, fontsize=10, color=FAINT, **corner)
    axes.grid()


def thinned(items: Sequence[int], most: int) -> list[int]:
    """Take at most `most` items at even distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _records(iteration: Record, layer: int) -> tuple[list[float], list[float]]:
    """The cost fitted to and the channels of one layer, record by record, where both are above zero."""
    found = dig(iteration, "records") or {}
    sizes, rows = found.get("cost") or found.get("params") or [], found.get("widths") or []
    pairs = [(number(size), number(row[layer])) for size, row in zip(sizes, rows, strict=False)]
    kept = [(size, width) for size, width in pairs if size and width and size > 0 and width > 0]
    return [size for size, _ in kept], [width for _, width in kept]


def _fit_scales(axes: Any, iteration: Record, shown: Sequence[int], *, dense: bool) -> None:
    """Give the shared axes a logarithmic scale with few plain ticks."""
    taken = [_records(iteration, layer) for layer in shown]
    log_axis(axes, "x", [size for sizes, _ in taken for size in sizes], 4 if dense else 2)
    log_axis(axes, "y", [width for _, widths in taken for width in widths], 5 if dense else 4)


def training_figures(found: Sequence[Network]) -> list[dict[str, object]]:
    """Draw training loss and the validation metric against the epoch, for every network that recorded them."""
    metric = metric_of(found[0].data)
    measured, known = _measured(found[0]), looks_of(found)
    charts: list[dict[str, object]] = []
    for key, title in (("loss", "training loss"), (measured, f"validation {metric.title}")):
        curves = [(network, curve) for network in found if (curve := _curve(network, key))[0]]
        if not curves:
            continue
        scale = metric.scale if key == measured else 1
        lines = {network.title: (epochs, [scale * y for y in values]) for network, (epochs, values) in curves}
        wide = key == "loss" or not metric.is_share
        ends = ", ".join(f"{name} {significant(values[-1], 3)}" for name, (_, values) in lines.items())
        paint = partial(_paint_training, lines=lines, known=known, wide=wide)
        figure = draw(paint, _SMALL[1], f"training-{key}", f"{title} by epoch; at the end: {ends}", width=_SMALL[0])
        charts.append({"title": title, "figure": figure, "legend": None})
    return charts


def _paint_training(
    figure: Any, lines: Mapping[str, tuple[list[float], list[float]]], known: Mapping[str, Look], wide: bool
) -> None:
    axes = figure.subplots()
    for title, (epochs, values) in lines.items():
        shade, marker, _ = known[title]
        axes.plot(epochs, values, color=shade, lw=1.8, marker=marker, markersize=9 if marker == "*" else 6, mew=0,
                  markevery=max(1, -(-len(epochs) // _MARKS)))  # fmt: skip
    if wide:
        log_axis_if_wide(axes, [value for _, values in lines.values() for value in values])
    epoch_axis(axes, [epoch for epochs, _ in lines.values() for epoch in epochs])
    axes.grid()


def has_training(network: Network) -> bool:
    """Whether there is a curve to draw for this network."""
    return any(_curve(network, key)[0] for key in ("loss", _measured(network)))


def _measured(network: Network) -> str:
    """Where an epoch's record has the metric."""
    return "validation_accuracy" if metric_of(network.data).is_accuracy else "validation_metric"


def _curve(network: Network, key: str) -> tuple[list[float], list[float]]:
    pairs = [(number(row.get("epoch")), number(row.get(key))) for row in network.data.get("training") or []]
    kept = [(epoch, value) for epoch, value in pairs if epoch is not None and value is not None]
    return [epoch for epoch, _ in kept], [value for _, value in kept]


def epoch_axis(axes: Any, epochs: Sequence[float]) -> None:
    """Mark whole epochs on the x axis."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    if min(epochs) == max(epochs):
        axes.set_xticks([epochs[0]], [compact(epochs[0])])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))


def latency_figures(found: Sequence[Network]) -> list[dict[str, object]]:
    """Draw the raw latency samples of every network as overlaid histograms, medians as dashed lines."""
    import numpy as np

    samples = {network.key: latency_samples(network) for network in found}
    everything = np.array([value for values in samples.values() for value in values])
    medians = {
        network.title: number(dig(network.data, "latency_ms", "median")) or float(np.median(samples[network.key]))
        for network in found
    }

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        edges = _bins(everything)
        for network in found:
            shade = colour(network)
            axes.hist(samples[network.key], bins=edges, histtype="stepfilled", color=shade, alpha=0.3)
            axes.hist(samples[network.key], bins=edges, histtype="step", color=shade, lw=1.4)
            axes.axvline(medians[network.title], color=shade, linestyle=(0, (4, 3)), linewidth=1.4)
        log_axis_if_wide(axes, list(edges), axis="x", ratio=5, most=4)
        axes.set_xlabel("milliseconds per batch")
        axes.set_ylabel("batches")
        axes.grid(axis="y")

    told = ", ".join(f"{title} {significant(median)} ms" for title, median in medians.items())
    figure = draw(paint, _SMALL[1], "latency", f"Histogram of the times of batches; medians: {told}", width=_SMALL[0])
    return [{"title": "times of batches", "figure": figure, "legend": None}]


def latency_samples(network: Network) -> list[float]:
    """Return the raw latency samples of a network, ms."""
    return [value for value in numbers(dig(network.data, "latency_ms", "samples") or []) if value > 0]


def _bins(values: Any) -> Any:
    """Edges of 60 bins over all samples, equally wide on the scale that `log_axis_if_wide` will choose."""
    import numpy as np

    low, high = float(values.min()), float(values.max())
    pad = 0.02 * (high - low) or 0.05 * high
    if high > 5 * low:
        return np.geomspace(low * 0.95, high * 1.05, 61)
    return np.linspace(max(low - pad, 0), high + pad, 61)
