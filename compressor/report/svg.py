"""Inline SVG drawn with matplotlib's object-oriented API; matplotlib is imported when something is drawn.

Lengths are CSS pixels: figures are made at 72 dots per inch, so one SVG unit is one pixel at full width.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from compressor.report.format import compact
from compressor.report.rendering import render

WIDTH = 1040
INK, FAINT, _GRID, _EDGE = "#1f2933", "#5b6570", "#e3e7ec", "#b8c0c9"
BLUE, PALE, GREY = "#0072b2", "#d4d9df", "#8b929c"
PAPER = "#fffffe"  # what lies behind a figure; white itself stays white
# Drawn in these colours; on the page they are the style sheet's variables, which know light and dark.
_VARIABLES = {INK: "ink", FAINT: "faint", _GRID: "grid", _EDGE: "edge", BLUE: "blue", PALE: "pale", GREY: "grey"}
_VARIABLES |= {PAPER: "paper"}

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "axes.edgecolor": _EDGE,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 1,
    "xtick.color": _EDGE,
    "ytick.color": _EDGE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "text.color": INK,
    # Layer names may hold a dollar sign, which would start a formula.
    "text.parse_math": False,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def themed(text: str) -> str:
    """Replace the colours that the style sheet names by its variables."""
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def log_axis_if_wide(axes: Any, values: Sequence[float], axis: str = "y", ratio: float = 20, most: int = 7) -> bool:
    """Give an axis a logarithmic scale if the values (above 0) span more than `ratio`; whether it has one now."""
    wide = bool(values) and min(values) > 0 and max(values) > ratio * min(values)
    if wide:
        log_axis(axes, axis, values, most)
    return wide


def log_axis(axes: Any, axis: str, values: Sequence[float], most: int) -> None:
    """Give an axis ("x" or "y") a logarithmic scale with at most `most` plain ticks within the values."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    getattr(axes, f"set_{axis}scale")("log")
    scale = getattr(axes, f"{axis}axis")
    scale.set_major_locator(FixedLocator(log_ticks(min(values), max(values), most)))
    scale.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    scale.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Choose at least one and at most `most` round numbers between `low` and `high` (both above 0).

    Where there is no round number the two ends are taken.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in (
        (10, 12, 15, 20, 25, 30, 40, 50, 60, 80),
        (10, 20, 30, 50, 70),
        (10, 20, 50),
        (10, 30),
        (10,),
    ):
        # Division keeps 0.3 at 0.3; multiplying by 10**-1 would not.
        ticks = [d * 10.0 ** (p - 1) if p > 0 else d / 10.0 ** (1 - p) for p in powers for d in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    every = math.ceil(len(ticks) / most) or 1
    return ticks[::every] or [low, high][: 1 if low == high else 2]


def draw(
    paint: Callable[[Any], None],
    height: float,
    name: str,
    label: str,
    *,
    width: float = WIDTH,
    constrained: bool = True,
) -> Markup:
    """Let `paint` fill a figure and return it as an <svg> element whose ids start with `name`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A script that matplotlib's font lacks is measured a little wrong, but the browser draws it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained" if constrained else None)
        paint(figure)
        return _inline(_document(figure), width, height, name, label)


def _document(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return buffer.getvalue()


def _inline(document: str, width: float, height: float, name: str, label: str) -> Markup:
    """Turn a whole SVG document into an element of a page that holds several."""
    start = document.index(">", document.index("<svg")) + 1
    body = document[start : document.rindex("</svg>")]
    # The style sheet of an inline SVG would apply to the whole page: the page's own one has these rules.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<[a-zA-Z][^>]*>", lambda tag: _own_ids(tag[0], name), body)
    body = re.sub(r"\n\s*", "\n", body)
    return render("figure.svg.j2", body=Markup(body), width=f"{width:g}", height=f"{height:g}", label=label)


def _own_ids(tag: str, name: str) -> str:
    tag = themed(re.sub(r"; font-family: [^;\"]*", "", tag))
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", tag)
