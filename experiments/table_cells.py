"""What the cells of tables are made of: numbers that experiments left, in the form in which pages show them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

from evidence_table import ROOT
from scipy.stats import ttest_ind

from compressor.files import read_json

Rows = list[Sequence[object]]
NONE = "–"
TABLES: dict[str, Callable[[], Rows]] = {}
_COUNTS = {1: "one seed", 2: "two seeds", 3: "three seeds", 4: "four seeds", 5: "five seeds"}
_TITLES = {
    "vgg11_bn": "VGG11",
    "vgg11": "VGG11",
    "mobilenet_v2": "MobileNetV2",
    "torchvision:mobilenet_v2": "MobileNetV2",
    "torchvision:resnet18": "ResNet-18",
    "preact_resnet18": "pre-activation ResNet-18",
}


def table(rows: Callable[[], Rows]) -> Callable[[], Rows]:
    """Register a table under the name of the function that gives its rows."""
    TABLES[rows.__name__] = rows
    return rows


def numbers(name: str) -> dict[str, Any]:
    """What experiments/NAME.json has."""
    found: dict[str, Any] = read_json(ROOT / "experiments" / f"{name}.json")
    return found


def earlier(*names: str) -> str:
    """The sign of numbers whose code has changed since, as docs/measured.md says of any of these experiments."""
    page = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    return "" if all(re.search(rf"\| {name}\.json \| \S+ \| same( bits)? \|", page) for name in names) else " †"


def spread(values: Sequence[float], digits: int = 2, unit: str = " %") -> str:
    """Mean and standard deviation; a single value by itself."""
    behind = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{behind}{unit}"


def ends(values: Sequence[float], form: str, word: str = " – ") -> str:
    """The least and the largest, or the one that both are as shown."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low}{word}{high}"


def p_of(one: Sequence[float], other: Sequence[float]) -> str:
    """The p of Welch's test, `p 0.05`; nothing where a side has a single value."""
    if min(len(one), len(other)) < 2:
        return "one seed"
    return f"p {ttest_ind(one, other, equal_var=False).pvalue:.2g}"


def seeds(values: Sequence[object]) -> str:
    """How many there are: `three seeds`."""
    return _COUNTS.get(len(values), f"{len(values)} seeds")


def number(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return NONE if value is None else format(value, form)


def gain(one: Sequence[float], other: Sequence[float]) -> str:
    """The difference of two means in points: `+1.2` or `−1.2`."""
    text = f"{mean(one) - mean(other):+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def deviation(row: dict[str, Any]) -> str:
    """An accuracy with its deviation, as summaries have them, in percent."""
    behind = "" if row["deviation"] is None else f" ± {100 * row['deviation']:.2f}"
    return f"{100 * row['accuracy']:.2f}{behind}"


def title(network: str) -> str:
    """How pages call a network, with what stands behind its name."""
    name, times, width = network.partition(" x ")
    return _TITLES[name] + (f" × {width}" if times else "")


def of_file(budget: str, method: str, arm: str, column: str = "percent") -> list[float]:
    """One arm over its seeds; but for latency that of PyTorch is in `kept_weights`, of which the same seeds count."""
    files = [row for row in numbers("onnx_accuracy")["rows"] if (row["budget"], row["method"]) == (budget, method)]
    if arm == "torch" and "latency" not in budget:
        mine = {row["seed"] for row in files}
        rows = [row for row in numbers("kept_weights")["rows"] if (row["network"], row["arm"]) == ("vgg11", "kept")]
        rows = [row for row in rows if (row["budget"], row["method"]) == (budget, method) and row["seed"] in mine]
    else:
        rows = [row for row in files if row["arm"] == arm]
    return [row[column] for row in rows]
