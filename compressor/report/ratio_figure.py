"""The picture of a comparison of two models: how much slower the candidate was in each block, and the verdict."""

from __future__ import annotations

import io
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from compressor.report.svg import BLUE, FAINT, GREY, INK, PALE, PAPER, STYLE

_WIDTH, _PANEL, _DPI = 720, 250, 144
_COLOURS = {"ok": "#00754f", "improvement": "#00754f", "regression": "#b23c00", "inconclusive": FAINT}
_FENCE = 3.0  # interquartile ranges beyond the quartiles, after which a block is drawn at the edge


def ratio_picture(record: Mapping[str, Any], kind: Literal["svg", "png"] | str) -> bytes:
    """Draw what `compressor compare --json` writes, a panel for each batch.

    Args:
        record: its "comparisons" are records of `Comparison.to_json`
        kind: "svg" or "png"

    Returns:
        the content of the file
    """
    import matplotlib
    from matplotlib.figure import Figure

    found, buffer = record["comparisons"], io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "ratio"}), warnings.catch_warnings():
        # Names may be in a script that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(_WIDTH / 72, _PANEL * len(found) / 72), dpi=72, layout="constrained")
        for axes, comparison in zip(figure.subplots(len(found), squeeze=False).flat, found, strict=True):
            _panel(axes, comparison)
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type")) if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=_DPI if kind == "png" else 72, facecolor=PAPER, metadata=metadata)
    return buffer.getvalue()


def block_percents(comparison: Mapping[str, Any]) -> list[float]:
    """How much longer the candidate took in each block, the median of its pairs in percent."""
    times = comparison["cpu_ms" if comparison["clock"] == "cpu" else "wall_ms"]
    logs = [statistics.median(math.log(pair[1] / pair[0]) for pair in block) for block in times]
    return [100 * math.expm1(value) for value in logs]


def _panel(axes: Any, comparison: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    percents = block_percents(comparison)
    low, middle, high = (100 * (comparison["ratio"][key] - 1) for key in ("low", "median", "high"))
    allowed, level = 100 * comparison["max_regression"], 100 * comparison["ratio"]["level"]
    bottom, top = _limits(percents, [low, high, allowed, 0])
    axes.axhspan(low, high, color=PALE, label=f"interval of the median, {level:g} %", lw=0, zorder=1)
    axes.axhline(middle, color=INK, lw=1.4, label="median", zorder=2)
    axes.axhline(allowed, color="#b23c00", lw=1.4, ls=(0, (4, 3)), label=f"allowed, {_signed(allowed)}", zorder=2)
    axes.axhline(0, color=GREY, lw=0.8, zorder=1)
    _dots(axes, percents, bottom, top)
    axes.set_ylim(bottom, top)
    axes.set_xlim(0.5, len(percents) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _signed(value)))
    axes.set_xlabel(f"block of {len(comparison['wall_ms'][0])} pairs, fresh sessions")
    axes.set_ylabel("candidate against base")
    axes.set_title(_title(comparison, low, middle, high), loc="left", color=_COLOURS[comparison["verdict"]], pad=24)
    axes.annotate(_subtitle(comparison), (0, 1), (0, 9), "axes fraction", "offset points", fontsize=10.5, color=FAINT)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=10.5)


def _dots(axes: Any, percents: Sequence[float], bottom: float, top: float) -> None:
    """One dot for each block; a triangle at the edge stands for a block beyond it."""
    places = list(enumerate(percents, start=1))
    marks = [("o", [p for p in places if bottom <= p[1] <= top], "median of a block")]
    marks += [
        ("^", [(x, top) for x, y in places if y > top], "above"),
        ("v", [(x, bottom) for x, y in places if y < bottom], "below"),
    ]
    for marker, found, label in marks:
        if found:
            style = {"color": BLUE, "markersize": 5, "mew": 0, "label": label, "zorder": 3, "clip_on": False}
            axes.plot([x for x, _ in found], [y for _, y in found], marker, **style)


def _limits(percents: Sequence[float], wanted: Sequence[float]) -> tuple[float, float]:
    """Show what is wanted and all blocks but far ones, which would press the others together."""
    first, _, third = statistics.quantiles(percents, n=4) if len(percents) > 1 else (percents[0],) * 3
    reach = _FENCE * (third - first)
    near = [value for value in percents if first - reach <= value <= third + reach]
    low, high = min(*near, *wanted), max(*near, *wanted)
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def _title(comparison: Mapping[str, Any], low: float, middle: float, high: float) -> str:
    return (
        f"batch {comparison['batch']}: {comparison['verdict']}, {_signed(middle)} "
        f"({_signed(low)} to {_signed(high)}; allowed {_signed(100 * comparison['max_regression'])})"
    )


def _subtitle(comparison: Mapping[str, Any]) -> str:
    base, candidate = (comparison[side]["median_ms"] for side in ("base", "candidate"))
    clock = "CPU time" if comparison["clock"] == "cpu" else "wall time"
    threads = f", {comparison['threads']} thread{'s' * (comparison['threads'] != 1)}"
    where = comparison["provider"] + (threads if comparison["provider"] == "cpu" else "")
    effort = f"{comparison['pairs']} pairs in {comparison['seconds']:.0f} s"
    return f"median {base:.4g} → {candidate:.4g} ms per batch, {clock}; {where}; {effort}"


def _signed(percent: float) -> str:
    rounded = round(percent, 2) if abs(percent) < 10 else round(percent, 1)
    return "0 %" if rounded == 0 else f"{rounded:+.15g} %"
