"""Charts of how a network grew, all against the epoch (figures 6, 8 and 10 of "Growing Efficient Deep Networks by
Structured Continuous Sparsification", ICLR 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report.figures import epoch_axis
from compressor.report.format import compact, significant
from compressor.report.method_figures import UNSCALED_LOOK, legend, looks
from compressor.report.svg import FAINT, draw

_WIDTH, _HEIGHT = 344, 250
_MARKS = 6  # of each line, to distinguish it from others without its colour
_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        title: what the reader calls it
        epochs: where its points are; 1 is the end of the first epoch
        values: how high
        limit: what the values may come to, drawn dashed in the line's colour
        stepped: a value holds until the next one
    """

    title: str
    epochs: Sequence[float]
    values: Sequence[float]
    limit: float | None = None
    stepped: bool = False


def growth_chart(
    name: str,
    title: str,
    unit: str,
    lines: Sequence[Line],
    *,
    unscaled: Line | None = None,
    settled: float | None = None,
) -> dict[str, object]:
    """Draw lines against the epoch, both axes from 0.

    Args:
        name: what the ids of the figure start with
        title: the heading
        unit: of the values
        lines: each with a colour and a mark of its own
        unscaled: the line of the unscaled network, in the colour that stands for it
        settled: the epoch to mark as the one from which the structure is kept

    Returns:
        the heading, `title`, the `figure`, and the `legend` that says what each line is
    """
    every = [*lines, *([unscaled] if unscaled is not None else [])]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for line, look in zip(every, [*looks(len(lines)), UNSCALED_LOOK], strict=False):
            _line(axes, line, look)
        top = max([*(value for line in every for value in line.values), *_limits(every)], default=0)
        axes.set_ylim(0, 1.08 * top or 1)
        epoch_axis(axes, [0, *(epoch for line in every for epoch in line.epochs)])
        axes.set_xlim(left=0)
        _value_axis(axes, [value for line in every for value in line.values])
        if settled is not None:
            axes.axvline(settled, color=FAINT, lw=1.2, ls=(0, (1, 2)), zorder=2)
        axes.set_ylabel(unit)
        axes.grid()

    label = f"{title}, {unit}, by epoch; at the end: {', '.join(_end(line) for line in every)}"
    figure = draw(paint, _HEIGHT, name, label, width=_WIDTH)
    key = legend([line.title for line in lines], unscaled.title if unscaled is not None else None)
    return {"title": title, "figure": figure, "legend": key}


def _end(line: Line) -> str:
    limit = "" if line.limit is None else f" (limit {significant(line.limit, 3)})"
    return f"{line.title} {significant(line.values[-1], 3)}{limit}"


def flops_unit(most: float) -> tuple[float, str]:
    """The unit in which so many floating-point operations are best written: (its size, its name)."""
    size, letter = next(((size, letter) for size, letter in _UNITS if most >= size), (1.0, ""))
    return size, f"{letter}FLOPs"


def _line(axes: Any, line: Line, look: tuple[str, str, str]) -> None:
    colour, marker, _ = look
    every = max(1, -(-len(line.epochs) // _MARKS))
    size = 10 if marker == "*" else 5
    style = {
        "marker": marker,
        "markersize": size,
        "mew": 0,
        "markevery": every,
        "color": colour,
        "lw": 1.6,
        "zorder": 3,
    }
    axes.plot(line.epochs, line.values, drawstyle="steps-post" if line.stepped else "default", **style)
    if line.limit is not None:
        axes.axhline(line.limit, color=colour, lw=1.2, ls=(0, (5, 3)), zorder=2)


def _limits(lines: Sequence[Line]) -> list[float]:
    return [line.limit for line in lines if line.limit is not None]


def _value_axis(axes: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(
        MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=all(isinstance(value, int) for value in values))
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
