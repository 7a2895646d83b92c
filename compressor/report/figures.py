"""Figures as inline SVG, drawn with matplotlib's object-oriented API; matplotlib is imported when one is drawn.

Lengths are CSS pixels: figures are made at 72 dots per inch, so one SVG unit is one pixel at full width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from compressor.report.format import compact, number, numbers, short_names, significant
from compressor.report.svg import BLUE, FAINT, GREY, INK, PALE, WIDTH, draw, log_axis, log_axis_if_wide
from compressor.report.values import Network, Record, dig, metric_of, widths_of

# Okabe and Ito's colours: distinct with any colour vision, and in grey by their lightness.
COLOURS = {"result": BLUE, "uniform": "#e69f00", "reference": GREY}
_MORE_COLOURS = ("#009e73", "#cc79a7", "#56b4e9")
MAX_PANELS, MAX_DOTS = 60, 40


def colour(network: Network) -> str:
    """Return the colour that stands for a network on the whole page."""
    return COLOURS.get(network.key) or _MORE_COLOURS[sum(network.key.encode()) % len(_MORE_COLOURS)]


def channels_figure(order: Sequence[str], found: Sequence[Network], record: Record) -> Markup:
    """Draw channels per layer: the unscaled network as a wide bar, the result as a narrow one, others as marks."""
    rows = [(network, widths_of(network, record)) for network in found]
    height = 20 * len(order) + 74

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for network, widths in rows:
            at = [i for i, name in enumerate(order) if number(widths.get(name)) is not None]
            if at:
                _widths(axes, network, at, [widths[order[i]] for i in at])
        axes.set_yticks(range(len(order)), short_names(order, 46), fontsize=11, color=INK)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, pad=7)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("channels")
        axes.grid(axis="x")
        axes.margins(x=0.09)
        axes.set_xlim(left=0)
        _direct_labels(axes, order, rows)
        _legend_above(figure, axes)

    return draw(paint, height, "channels", f"Bar chart of channels per layer, {len(order)} layers")


def _widths(axes: Any, network: Network, at: list[int], values: list[int]) -> None:
    if network.key == "reference":
        axes.barh(at, values, height=0.78, color=PALE, label=network.title, zorder=2)
    elif network.key == "result":
        axes.barh(at, values, height=0.4, color=colour(network), label=network.title, zorder=3)
    else:
        style = {"markersize": 13, "markeredgewidth": 2.5, "linestyle": "none", "zorder": 4}
        axes.plot(values, at, marker="|", color=colour(network), label=network.title, **style)


def _direct_labels(axes: Any, order: Sequence[str], rows: Sequence[tuple[Network, Mapping[str, int]]]) -> None:
    """Write "64 → 31" behind the longest mark of each layer, so that no value has to be read off the axis."""
    named = {network.key: widths for network, widths in rows}
    for i, name in enumerate(order):
        before, after = (named.get(key, {}).get(name) for key in ("reference", "result"))
        text = " → ".join(str(value) for value in (before, after) if value is not None)
        end = max(numbers(widths.get(name) for _, widths in rows), default=0)
        axes.annotate(text, (end, i), (8, 0), textcoords="offset points", va="center", fontsize=11, color=FAINT)


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


def training_figure(found: Sequence[Network]) -> Markup:
    """Draw training loss and the validation metric against the epoch, for every network that recorded them."""
    metric = metric_of(found[0].data)
    measured = _measured(found[0])
    parts = [("loss", "training loss"), (measured, f"validation {metric.title}")]
    curves = {key: [(n, c) for n in found if (c := _curve(n, key))[0]] for key, _ in parts}
    parts = [(key, title) for key, title in parts if curves[key]]

    def paint(figure: Any) -> None:
        grid = figure.subplots(1, len(parts), squeeze=False)
        for axes, (key, title) in zip(grid.flat, parts, strict=True):
            for network, (epochs, values) in curves[key]:
                shown = [metric.scale * value for value in values] if key == measured else values
                dot = "o" if len(epochs) == 1 else ""
                axes.plot(epochs, shown, dot + "-", color=colour(network), lw=1.8, label=network.title)
            if key == "loss" or not metric.is_share:
                log_axis_if_wide(axes, [value for _, (_, values) in curves[key] for value in values])
            epoch_axis(axes, [epoch for _, (epochs, _) in curves[key] for epoch in epochs])
            axes.set_title(title, loc="left")
            axes.grid()
        _legend_above(figure, grid.flat[0])

    return draw(paint, 310, "training", f"Line charts of training loss and validation {metric.name} by epoch")


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


def latency_figure(found: Sequence[Network]) -> Markup:
    """Draw the raw latency samples of every network as overlaid histograms, medians as dashed lines."""
    import numpy as np

    samples = {network.key: latency_samples(network) for network in found}
    everything = np.array([value for values in samples.values() for value in values])

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        edges = _bins(everything)
        for network in found:
            values = samples[network.key]
            if not values:
                continue
            recorded = number(dig(network.data, "latency_ms", "median"))
            median = float(np.median(values)) if recorded is None else recorded
            label = f"{network.title}: median {significant(median)} ms, {len(values)} samples"
            axes.hist(values, bins=edges, histtype="stepfilled", color=colour(network), alpha=0.3)
            axes.hist(values, bins=edges, histtype="step", color=colour(network), lw=1.4, label=label)
            axes.axvline(median, color=colour(network), linestyle=(0, (4, 3)), linewidth=1.4)
        log_axis_if_wide(axes, list(edges), axis="x", ratio=5)
        axes.set_xlabel("milliseconds per batch")
        axes.set_ylabel("samples")
        axes.grid(axis="y")
        _legend_above(figure, axes, columns=3)

    return draw(paint, 300, "latency", "Histogram of latency samples in milliseconds")


def latency_samples(network: Network) -> list[float]:
    """Return the raw latency samples of a network, ms."""
    return [value for value in numbers(dig(network.data, "latency_ms", "samples") or []) if value > 0]


def _bins(values: Any) -> Any:
    """Edges of 80 bins over all samples, equally wide on the scale that `log_axis_if_wide` will choose."""
    import numpy as np

    low, high = float(values.min()), float(values.max())
    pad = 0.02 * (high - low) or 0.05 * high
    if high > 5 * low:
        return np.geomspace(low * 0.95, high * 1.05, 81)
    return np.linspace(max(low - pad, 0), high + pad, 81)


def _legend_above(figure: Any, axes: Any, columns: int = 5) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        # matplotlib lists lines before bars whatever they show; the result is to come first.
        pairs = sorted(zip(labels, handles, strict=True), key=lambda pair: not pair[0].startswith("result"))
        labels, handles = zip(*pairs, strict=True)
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=12, borderpad=0.2)
