"""Groups of a comparison, each the runs of a method at a budget, as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from compressor.report.format import ABSENT
from compressor.report.values import Metric, Record

UNSCALED = "unscaled network"
Group = Mapping[str, Any]


def title_of(group: Group) -> str:
    """Name a method at a budget."""
    return f"{group['method']} {group['budget']}" if group["budget"] else UNSCALED


def why_without(errors: Sequence[str]) -> str:
    """In few words why runs have no result, of what was said of each."""
    return "cannot be met" if all("cannot be met" in error for error in errors) else "failed"


def errors_of(group: Group, record: Record) -> list[str]:
    """What was said of the runs of a group that have no result."""
    own = [run for run in record["runs"] if (run["method"], run["budget"]) == (group["method"], group["budget"])]
    return [run["error"] for run in own if run["error"] is not None]


def methods_of(record: Record) -> list[str]:
    """The methods in the order in which they were named, which JSON's sorted keys would lose."""
    return list(dict.fromkeys(group["method"] for group in record["groups"] if group["budget"]))


def score_text(group: Group, metric: Metric) -> str:
    """The metric of a group without its unit."""
    return spread_text(group[metric.column], metric.scale)


def spread_text(found: Mapping[str, Any] | None, scale: float = 1, digits: int = 2) -> str:
    """Write "91.20 ± 0.34"; without the spread if there is one value only."""
    if found is None:
        return ABSENT
    if 0 < abs(scale * found["mean"]) < 0.1:  # as many digits as count
        digits += math.ceil(-math.log10(abs(scale * found["mean"])))
    mean = f"{scale * found['mean']:.{digits}f}"
    return mean if found["std"] is None else f"{mean} ± {scale * found['std']:.{digits}f}"
