"""What the cells of tables are made of: numbers that experiments left, in the form in which pages show them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from evidence_table import ROOT
from scipy.stats import ttest_ind

from compressor.files import read_json

Rows = list[Sequence[object]]
NONE = "–"
_TITLES = {
    "vgg11_bn": "VGG11",
    "vgg11": "VGG11",
    "mobilenet_v2": "MobileNetV2",
    "torchvision:mobilenet_v2": "MobileNetV2",
    "torchvision:resnet18": "ResNet-18",
    "preact_resnet18": "pre-activation ResNet-18",
}


def numbers(name: str) -> dict[str, Any]:
    """What experiments/NAME.json has."""
    found: dict[str, Any] = read_json(ROOT / "experiments" / f"{name}.json")
    return found


def spread(values: Sequence[float], digits: int = 2, unit: str = " %") -> str:
    """Mean and standard deviation; a single value by itself."""
    behind = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{behind}{unit}"


def ends(values: Sequence[float], form: str, word: str = " – ") -> str:
    """The least and the largest, or the one that both are as shown."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low}{word}{high}"


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    """The p of Welch's test."""
    return float(ttest_ind(one, other, equal_var=False).pvalue)


def deviation(row: dict[str, Any], unit: str = "") -> str:
    """An accuracy with its deviation, as summaries have them, in percent."""
    behind = "" if row["deviation"] is None else f" ± {100 * row['deviation']:.2f}"
    return f"{100 * row['accuracy']:.2f}{behind}{unit}"


def title(network: str) -> str:
    """How pages call a network, with what stands behind its name."""
    name, times, width = network.partition(" x ")
    return _TITLES[name] + (f" × {width}" if times else "")


def of_file(budget: str, method: str, arm: str, column: str = "percent") -> list[float]:
    """One arm over its seeds; budgets other than of latency have that of PyTorch in `kept_weights`."""
    if arm == "torch" and "latency" not in budget:
        rows = [row for row in numbers("kept_weights")["rows"] if (row["network"], row["arm"]) == ("vgg11", "kept")]
    else:
        rows = [row for row in numbers("onnx_accuracy")["rows"] if row["arm"] == arm]
    return [row[column] for row in rows if (row["budget"], row["method"]) == (budget, method)]
