"""Runs of a comparison taken together: mean and spread over the seeds, the Pareto fronts, the best of every budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from compressor.recipe.cost import costs
from compressor.report.format import number, numbers
from compressor.report.values import ACCURACY, Metric, Record, interval

METRICS = ("accuracy", "value", "latency_mean_ms", "latency_median_ms")  # beside the costs
SAME = 0.01  # costs that differ by a smaller share are the same: leftovers of a budget, noise of a clock
_LEVEL = 0.05  # of the test whether one method is ahead of another
FRONTS = ("params", "macs", "latency_median_ms")


def summarise(runs: Sequence[Record], metric: Metric = ACCURACY) -> list[dict[str, Any]]:
    """Take the runs of one method and budget together.

    Args:
        runs: each with `method`, `budget`, `seed`, `met`, `error` (None unless it failed) `METRICS` and costs
        metric: what they are compared by

    Returns:
        one group for each method and budget, in order of appearance: `seeds` and `failed` (lists of seeds), `met`
        (whether every run met its budget; None for the unscaled network), {metric: {"mean", "std", "interval"}} where
        known, the last as `interval_of` gives it,
        `front` {cost: whether no other group is better in the metric or that cost and as good in both, where costs are
        the same if they differ by less than `SAME`} and `best` (whether its metric is better than that of every other
        method at its budget by more than noise, see `ahead`)
    """
    order = dict.fromkeys((run["method"], run["budget"]) for run in runs)
    members = {key: [run for run in runs if (run["method"], run["budget"]) == key] for key in order}
    groups = [_group(key, members[key], metric) for key in order]
    mark_fronts(groups, metric)
    for group in groups:
        rivals = [g for g in groups if g is not group and g["budget"] == group["budget"]]
        own = members[group["method"], group["budget"]]
        group["best"] = bool(rivals) and all(
            ahead(_merits(own, metric), _merits(members[g["method"], g["budget"]], metric), _samples(own, metric))
            for g in rivals
        )
    return groups


def mark_fronts(groups: Sequence[dict[str, Any]], metric: Metric) -> None:
    """Set `front` of every group: {cost: whether no other is better in the metric or it and as good in both}."""
    for group in groups:
        group["front"] = {cost: _on_front(group, groups, cost, metric) for cost in FRONTS}


def interval_of(key: str, values: Sequence[float], run: Record, metric: Metric) -> tuple[float, float] | None:
    """How well a mean is known: one standard deviation of several values; of one run, the interval of its measurement.

    Args:
        key: of `METRICS`, or a cost
        values: of the runs
        run: the first of them: `samples`, and `latency_interval_ms` of its median (95 %)
        metric: an accuracy of one run has Wilson's interval (95 %) for so many samples

    Returns:
        lower and upper end; None: nothing is known
    """
    if len(values) > 1:
        mean, spread = fmean(values), stdev(values)
        return mean - spread, mean + spread
    samples = number(run.get("samples"))
    if key in ("accuracy", "value") and metric.is_accuracy and samples and 0 <= values[0] <= 1:
        return interval(values[0], int(samples))
    ends = numbers(run.get("latency_interval_ms") or []) if key == "latency_median_ms" else []
    return (ends[0], ends[1]) if len(ends) == 2 else None


def cost_columns(runs: Sequence[Record]) -> list[str]:
    """The costs that tables of runs list: those of every network, and others that one of these was limited by."""
    return [name for name, cost in costs().items() if any(map(cost.shown_in, ({}, *runs)))]


def _group(key: tuple[str, str], runs: Sequence[Record], metric: Metric) -> dict[str, Any]:
    done: list[Record] = [run for run in runs if run["error"] is None]
    verdicts = [run["met"] for run in runs if run["met"] is not None]
    group: dict[str, Any] = {
        "method": key[0],
        "budget": key[1],
        "seeds": [run["seed"] for run in done],
        "failed": [run["seed"] for run in runs if run["error"] is not None],
        "met": all(verdicts) if verdicts else None,
    }
    for name in (*cost_columns(runs), *METRICS):
        group[name] = summary(name, done, metric)
        if group[name] and len(runs) > len(done) == 1:  # of the others' bars this would be another kind
            group[name]["interval"] = None
    return group


def summary(name: str, runs: Sequence[Record], metric: Metric) -> dict[str, Any] | None:
    """One number of several runs: `mean`, `std` and `interval`; None: no run has it."""
    known = [run for run in runs if number(run.get(name)) is not None]
    values = numbers(run[name] for run in known)
    if not values:
        return None
    return {
        "mean": fmean(values),
        "std": deviation(values),
        "interval": interval_of(name, values, known[0], metric),
    }


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation with n-1 in its denominator; None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def _merits(runs: Sequence[Record], metric: Metric) -> list[float]:
    """The metric of the runs that ended, turned so that more is better."""
    found = numbers(run.get(metric.column) for run in runs if run["error"] is None)
    return [-value for value in found] if metric.lower else found


def _samples(runs: Sequence[Record], metric: Metric) -> float:
    """Samples whose count an accuracy is rounded to; other metrics are not rounded, nor what functions of the user's
    find on data that they alone can count.
    """
    if not metric.is_accuracy:
        return math.inf
    counted = numbers(run.get("samples") for run in runs if run["error"] is None)
    return min((count for count in counted if count > 0), default=math.inf)


def ahead(ours: Sequence[float], theirs: Sequence[float], samples: float = math.inf) -> bool:
    """Whether our mean is above theirs by more than noise: Welch's t-test, two-sided, 95 %.

    Args:
        ours: accuracies as fractions, or what else is better the higher it is, one for each seed
        theirs: likewise; if there is none, ours are ahead
        samples: images that each was measured on; its rounding to whole images is the least noise that is assumed

    Returns:
        False as well if either has one value only: nothing is known about its noise
    """
    if not ours or not theirs:
        return bool(ours)
    if min(len(ours), len(theirs)) < 2:
        return False
    if fmean(ours) <= fmean(theirs):
        return False
    rounding = 1 / (math.sqrt(12) * samples)
    spreads = [max(stdev(values), rounding) for values in (ours, theirs)]
    if not any(spreads):
        return True
    from scipy.stats import ttest_ind_from_stats  # half a second of import time that only comparisons need

    own, other = ((fmean(values), spread, len(values)) for values, spread in zip((ours, theirs), spreads, strict=True))
    return bool(ttest_ind_from_stats(*own, *other, equal_var=False).pvalue < _LEVEL)


def _on_front(group: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], cost: str, metric: Metric) -> bool:
    own = _point(group, cost, metric)
    if own is None:
        return False
    others = [point for other in groups if other is not group and (point := _point(other, cost, metric)) is not None]
    return not any(_beats(other, own) for other in others)


def _beats(other: tuple[float, float], own: tuple[float, float]) -> bool:
    """Whether another (cost, merit) is better in one and not worse in the other."""
    (its, its_merit), (cost, merit) = other, own
    if its_merit > merit:
        return its <= cost * (1 + SAME)
    return its_merit == merit and its * (1 + SAME) < cost


def _point(group: Mapping[str, Any], cost: str, metric: Metric) -> tuple[float, float] | None:
    spent, found = (number((group[key] or {}).get("mean")) for key in (cost, metric.column))
    return None if spent is None or found is None else (spent, -found if metric.lower else found)
