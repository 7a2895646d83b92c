"""What came of a run or a comparison, in one sentence for whoever reads no further."""

from __future__ import annotations

from compressor.recipe.cost import cost_title
from compressor.report.format import number, percent, quantity, significant
from compressor.report.groups import Group, methods_of, score_text
from compressor.report.values import (
    Limit,
    Metric,
    Network,
    Record,
    dig,
    limits,
    metric_of,
    networks,
    score_of,
)

_WORDS = {
    "params": "parameters",
    "macs": "multiply-adds",
    "onnx_bytes": "bytes of ONNX file",
    "activation_bytes": "bytes of activations",
    "latency_ms": "ms of latency",
}
_OTHERS = {
    "uniform": "uniform scaling to the same budget",
    "undistilled": "the same network without distillation",
    "reference": "the unscaled network",
}
_SAME_SPEED = 0.005  # shares of a time that nobody notices


def run_lead(record: Record) -> str:
    """What the result costs, what it reaches, and how that compares; "" if the record has neither."""
    spent, reached = _spent(record), _reached(record)
    if not spent:
        return f"The result {reached}." if reached else ""
    return f"With {spent} the result {reached}." if reached else f"The result has {spent}."


def _spent(record: Record) -> str:
    """Of several limits the one that is missed, or else binds."""
    rows = limits(record)
    if not rows:
        return ""
    binding = dig(record, "budget", "binding")
    missed = [row for row in rows if row.met is False]
    row = next(iter(missed), None) or next((one for one in rows if one.name == binding), rows[0])
    if row.got is None:
        return ""
    text = f"{quantity(row.got)} {_words(row)} of {quantity(row.limit)} allowed"
    if missed:
        text = f"{quantity(row.got)} {_words(row)}, more than the {quantity(row.limit)} that are allowed"
    own = _unscaled_cost(row.name, record)
    return f"{text}, {percent(row.got / own)} of the unscaled network's," if own else f"{text},"


def _words(row: Limit) -> str:
    return _WORDS.get(row.name) or cost_title(row.name)


def _unscaled_cost(name: str, record: Record) -> float | None:
    if name == "latency_ms":  # verified apart from what the page measures, beside the unscaled network
        return None
    return number(dig(record, "baseline", "reference", name)) or None


def _reached(record: Record) -> str:
    metric, own = metric_of(record), score_of(record)
    others = {network.key: network for network in networks(record)[1:]}
    parts = []
    if own is not None:
        value = metric.text(own) if metric.is_share else f"{metric.name} {metric.text(own)}"
        parts.append(f"reaches {value} {metric.name}" if metric.is_share else f"reaches {value}")
        parts += [
            f"{_difference(metric, own, its)} {_OTHERS.get(key, network.title)}"
            for key in ("reference", "uniform", "undistilled")
            if (network := others.get(key)) is not None and (its := score_of(network.data)) is not None
        ]
    speed = _speed(record, others.get("reference"))
    text = parts[0] if parts else ""
    if len(parts) > 1:
        text += f": {', '.join(parts[1:])}{metric.remark}"
    if speed:
        text += f"{'; it' if text else ''} {speed}"
    return text.strip()


def _difference(metric: Metric, own: float, its: float) -> str:
    told = metric.difference(own, its)
    if not any(digit in told for digit in "123456789"):
        return "as much as"
    return f"{told[1:]} {'more' if told[0] == '+' else 'less'} than"


def _speed(record: Record, reference: Network | None) -> str:
    ours, theirs = (number(dig(one, "latency_ms", "median")) for one in (record, reference and reference.data))
    if not ours or not theirs:
        return ""
    times = theirs / ours
    took = f"({significant(ours, 3)} against {significant(theirs, 3)} ms for a batch of {_batch(record)})"
    if abs(times - 1) < _SAME_SPEED:
        return f"is as fast as that one {took}"
    return (
        f"is {significant(times, 3)} times as fast as the unscaled network {took}"
        if times > 1
        else f"takes {significant(1 / times, 3)} times as long as the unscaled network {took}"
    )


def _batch(record: Record) -> str:
    return str(dig(record, "latency_ms", "batch") or 1)


def comparison_lead(record: Record) -> str:
    """Which method is ahead at which budget, beyond the noise of the seeds."""
    metric = metric_of(record)
    parts, level = [], []
    for budget in record["budgets"]:
        found = [group for group in record["groups"] if group["budget"] == budget and group[metric.column]]
        best = next((group for group in found if group["best"]), None)
        if best is None:
            level.append(budget)
        else:
            parts.append(f"at {budget} {best['method']} is ahead of every other method, {_beside(best, found, metric)}")
    if level and len(methods_of(record)) > 1:
        where = f"at {', '.join(level)} " if parts else ""
        if len(record["seeds"]) < 2:
            parts.append(f"{where}one seed says nothing about noise, and no method is called best")
        else:
            parts.append(
                f"{where}no method is ahead of all others by more than the noise of {len(record['seeds'])} seeds"
            )
    elif level:
        parts += [f"at {b} {_scores(record, b, metric)}" for b in level]
    own = next((group for group in record["groups"] if not group["budget"] and group[metric.column]), None)
    if own is not None:
        parts.append(f"the unscaled network has {score_text(own, metric)}{_unit(metric)}")
    text = "; ".join(part for part in parts if part)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _beside(best: Group, found: list[Group], metric: Metric) -> str:
    others = [group for group in found if group is not best]
    told = f"{score_text(best, metric)}{_unit(metric)}"
    if not others:
        return told
    sign = -1 if metric.lower else 1
    second = max(others, key=lambda group: sign * float(group[metric.column]["mean"]))
    return f"{told} against {score_text(second, metric)}{_unit(metric)} of {second['method']}"


def _scores(record: Record, budget: str, metric: Metric) -> str:
    return ", ".join(
        f"{group['method']} has {score_text(group, metric)}{_unit(metric)}"
        for group in record["groups"]
        if group["budget"] == budget and group[metric.column]
    )


def _unit(metric: Metric) -> str:
    return " %" if metric.is_share else f" {metric.name}"
