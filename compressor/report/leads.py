"""What came of a run or a comparison, in one sentence for whoever reads no further."""

from __future__ import annotations

from compressor.recipe.cost import cost_title
from compressor.report.format import number, numbers, percent, quantity, significant
from compressor.report.groups import Group, score_text
from compressor.report.values import (
    Limit,
    Metric,
    Network,
    Record,
    conditions,
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
    "latency_ms": "ms of latency (upper end of its interval)",
}
_OTHERS = {
    "uniform": "uniform scaling to the same budget",
    "undistilled": "the same network without distillation",
    "reference": "the unscaled network",
}


def run_lead(record: Record) -> str:
    """What the result costs, what it reaches, and how that compares; "" if the record has neither."""
    spent, reached = _spent(record), _reached(record)
    if not spent:
        return f"The result {reached}." if reached else ""
    told = ", ".join(spent)
    if not reached:
        return f"The result has {told}."
    return f"With {told}{',' if len(spent) > 1 else ''} the result {reached}."


def _spent(record: Record) -> list[str]:
    """Of several limits the one that is missed, or else binds: what there is of it, and what that compares with."""
    rows = [row for row in limits(record) if row.got is not None and row.limit is not None]
    if not rows:
        return []
    binding = dig(record, "budget", "binding")
    missed = [row for row in rows if row.met is False]
    row = (missed or [one for one in rows if one.name == binding] or rows)[0]
    assert row.got is not None
    assert row.limit is not None
    write = quantity if quantity(row.got) != quantity(row.limit) or row.got == row.limit else repr
    text, own = f"{write(row.got)} {_words(row)}", _unscaled_cost(row.name, record)
    share = [f"{percent(row.got / own)} of the unscaled network's"] if own else []
    if not missed:
        return [f"{text} of {write(row.limit)} allowed", *share]
    over = f"more than the {write(row.limit)} that are allowed"
    return [text, f"{share[0]} but {over}" if share else over]


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
        parts.append(
            f"reaches {metric.text(own)} {metric.name}"
            if metric.is_share
            else f"reaches {metric.name} {metric.text(own)}"
        )
        parts += [
            f"{_difference(metric, own, its)} {_named(others[key], record)}"
            for key in ("reference", "uniform", "undistilled")
            if key in others and (its := score_of(others[key].data)) is not None
        ]
    speed = _speed(record, others.get("reference"))
    text = parts[0] if parts else ""
    if len(parts) > 1:
        text += f": {', '.join(parts[1:])}{metric.remark}"
    if speed:
        text += f"; it {speed}" if text else speed
    return text


def _named(network: Network, record: Record) -> str:
    """The network in words; uniform scaling may miss a budget that the result meets."""
    if network.key == "uniform" and any(
        row.limit is not None and (its := _cost(network, row.name)) is not None and its > row.limit
        for row in limits(record)
    ):
        return "uniform scaling, which misses the budget"
    return _OTHERS.get(network.key, network.title)


def _cost(network: Network, name: str) -> float | None:
    return number(dig(network.data, name, "median") if name == "latency_ms" else network.data.get(name))


def _difference(metric: Metric, own: float, its: float) -> str:
    told = metric.difference(own, its)
    if not any(digit in told for digit in "123456789"):
        return "as much as"
    return f"{told[1:]} {'more' if told[0] == '+' else 'less'} than"


def _speed(record: Record, reference: Network | None) -> str:
    """How fast the result is beside the unscaled network; "" unless both were measured alike."""
    if reference is None or conditions(record.get("latency_ms")) != conditions(reference.data.get("latency_ms")):
        return ""
    ours, theirs = (number(dig(one, "latency_ms", "median")) for one in (record, reference.data))
    if not ours or not theirs:
        return ""
    batch = dig(record, "latency_ms", "batch")
    took = f"({significant(ours, 3)} against {significant(theirs, 3)} ms{f' for a batch of {batch}' if batch else ''})"
    if _overlap(record, reference.data) or significant(ours / theirs, 3) == "1.00":
        return f"is about as fast as the unscaled network {took}"
    if ours < theirs:
        return f"is {significant(theirs / ours, 3)} times as fast as the unscaled network {took}"
    return f"takes {significant(ours / theirs, 3)} times as long as the unscaled network {took}"


def _overlap(one: Record, other: Record) -> bool:
    """Whether two medians are not known to differ."""
    ends = [numbers(dig(network, "latency_ms", "interval") or []) for network in (one, other)]
    if any(len(found) != 2 for found in ends):
        return bool(dig(one, "latency_ms", "median") == dig(other, "latency_ms", "median"))
    return ends[0][0] <= ends[1][1] and ends[1][0] <= ends[0][1]


def comparison_lead(record: Record) -> str:
    """Which method is ahead at which budget, and whether that is more than the noise of the seeds."""
    metric = metric_of(record)
    own = next((group for group in record["groups"] if not group["budget"] and group[metric.column]), None)
    text = "; ".join(_clause(budget, record, metric, own) for budget in record["budgets"])
    if own is not None:
        text += f"; the unscaled network has {score_text(own, metric)}{_unit(metric)}"
    return f"{text[:1].upper()}{text[1:]}{metric.remark}." if text else ""


def _clause(budget: str, record: Record, metric: Metric, own: Group | None) -> str:
    """What there is to say of a budget."""
    every = [group for group in record["groups"] if group["budget"] == budget]
    done = [group for group in every if group[metric.column]]
    if not done:
        return f"at {budget} no run has a result"
    sign = -1 if metric.lower else 1
    ranked = sorted(done, key=lambda group: (group["best"], sign * float(group[metric.column]["mean"])), reverse=True)
    first, second = ranked[0], ranked[1] if len(ranked) > 1 else None
    score = f"{score_text(first, metric)}{_unit(metric)}"
    if own is not None:
        lag = _difference(metric, first[metric.column]["mean"], own[metric.column]["mean"])
        score += f" ({lag} the unscaled network)"
    if second is None:
        text = f"at {budget} {first['method']} has {score}"
        text = f"{text}, and no other method a result" if len(every) > 1 else text
    else:
        beside = f"{score} against {score_text(second, metric)}{_unit(metric)} of {second['method']}"
        seeds = min(len(first["seeds"]), len(second["seeds"]))
        beside += ", which misses the budget" if second.get("met") is False else ""
        noise = "no method is ahead of all others by more than the noise of"
        noise = f"{noise} {seeds} seeds" if seeds > 1 else "one seed says nothing about noise"
        told = f"{first['method']} has {beside}, but {noise}"
        ahead = f"{first['method']} is ahead of every other method, {beside}"
        text = f"at {budget} {ahead if first['best'] else told}"
    return f"{text}; {first['method']} misses the budget there" if first.get("met") is False else text


def _unit(metric: Metric) -> str:
    return " %" if metric.is_share else f" {metric.name}"
