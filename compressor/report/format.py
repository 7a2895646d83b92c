"""Numbers and names as people read them, and the cells of tables that hold them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "–"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says
        under: lines in small print below that
        title: what is shown when it is pointed at
        badges: words behind the text, each with the state ("met", "missed" or "open") that colours it
        style: CSS
        class_: CSS class
        colspan: columns that it takes; None: one
    """

    text: object = ""
    under: Sequence[str] = ()
    title: str | None = None
    badges: Sequence[tuple[str, str]] = ()
    style: str | None = None
    class_: str | None = None
    colspan: int | None = None


def value_cell(value: Any, show: Callable[[Any], str] | None = None, under: str = "") -> Cell:
    """Make the cell of a number: as people read it, in full when pointed at, and a remark under it.

    Args:
        value: the number; anything else is shown as absent
        show: how to write it; without one, as `quantity` does
        under: the remark
    """
    extra = (under,) if under else ()
    if number(value) is None:
        return Cell(ABSENT, extra)
    return Cell((show or quantity)(value), extra, title=repr(value))


def number(value: Any) -> float | None:
    """Return `value` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def numbers(values: Iterable[Any]) -> list[float]:
    """Keep the finite numbers."""
    return [found for found in map(number, values) if found is not None]


def quantity(value: Any) -> str:
    """Write a number: whole ones in full with thousands separators, others with four digits that count."""
    found = number(value)
    if found is None:
        return ABSENT
    if found == int(found) and abs(found) < 1e15:
        return f"{int(found):,}"
    text = significant(found)
    return text if "e" in text else text.rstrip("0").rstrip(".")


def significant(value: Any, digits: int = 4) -> str:
    """Write a number with `digits` digits that count, without an exponent where that can be read."""
    found = number(value)
    if found is None:
        return ABSENT
    if found == 0:
        return "0"
    if not 1e-3 <= abs(found) < 1e9:
        return f"{found:.{digits}g}"
    return f"{found:,.{max(0, digits - 1 - math.floor(math.log10(abs(found))))}f}"


def duration(seconds: float) -> str:
    """Write a time as people do who do not know it well: "40 s", "12 min", "3 h"."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def percent(fraction: Any) -> str:
    """Write a fraction as a percentage with two decimals."""
    found = number(fraction)
    return ABSENT if found is None else f"{100 * found:.2f} %"


def points(difference: float) -> str:
    """Write a difference of two fractions in percentage points, with its sign in ASCII."""
    return f"{100 * difference:+.2f} points"


def compact(value: float) -> str:
    """Write a number for an axis: 58000 becomes 58k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which "conv10" follows "conv9"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def short_names(names: Sequence[str], most: int) -> list[str]:
    """Cut names to `most` characters in their middle, unless two of them would then look the same."""
    names = [re.sub(r"\s+|[\x00-\x1f\x7f]", " ", name) for name in names]
    head = most // 3
    cut = [n if len(n) <= most else f"{n[:head]}…{n[head + 1 - most :]}" for n in names]
    return cut if len(set(cut)) == len(set(names)) else list(names)
