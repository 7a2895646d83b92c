"""What a run record says, in the words and digits that the page and the terminal share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.recipe.cost import cost_title, costs
from compressor.report.format import natural, number, percent, points, quantity, significant

Record = Mapping[str, Any]

_TITLES = {
    "uniform": "uniform, same budget",
    "undistilled": "result, not distilled",
    "reference": "unscaled network",
}
_WEIGHTS = {"last": "last epoch", "best": "best epoch on the validation set"}


@dataclass(frozen=True)
class Network:
    """One of the networks that a record compares.

    Attributes:
        key: "result", or its name under "baseline"
        title: what the reader calls it
        data: its part of the record; for the result that is the record itself
    """

    key: str
    title: str
    data: Record


@dataclass(frozen=True)
class Limit:
    """One limit of the budget and what became of it; numbers in the unit of `name`, None where unknown.

    Attributes:
        name: the cost, as in the recipe
        limit: the most that was allowed
        got: what the result costs
        slack: limit minus cost; negative when the limit is missed
        channels: the slack in channels of the cheapest layer
    """

    name: str
    limit: float | None
    got: float | None
    slack: float | None
    channels: float | None

    @property
    def met(self) -> bool | None:
        """Whether the cost is within the limit; None when it was not measured."""
        return None if self.slack is None else self.slack >= 0

    @property
    def title(self) -> str:
        """The cost in words, with its unit."""
        known = costs().get(self.name)
        return cost_title(self.name) if known is None else known.title_of_result or known.title


@dataclass(frozen=True)
class Metric:
    """The number that networks are compared by: accuracy, mIoU or perplexity.

    Attributes:
        name: as people call it
        lower: less is better
    """

    name: str
    lower: bool

    @property
    def is_accuracy(self) -> bool:
        """Whether it is the accuracy that every record has."""
        return self.name == "accuracy"

    @property
    def is_share(self) -> bool:
        """Whether it is a fraction, which people read in percent."""
        return self.name in ("accuracy", "agreement", "mIoU")

    @property
    def title(self) -> str:
        """Its name with the unit of its numbers in tables and on axes."""
        return f"{self.name}, %" if self.is_share else self.name

    @property
    def heading(self) -> str:
        """Its name at the beginning of a sentence."""
        return self.name.capitalize() if self.name in ("accuracy", "agreement", "perplexity") else self.name

    @property
    def scale(self) -> int:
        """What a value is multiplied by to be in that unit."""
        return 100 if self.is_share else 1

    @property
    def has_accuracy_beside(self) -> bool:
        """Whether the accuracy of every record is another number than it."""
        return self.name not in ("accuracy", "agreement")

    @property
    def accuracy_title(self) -> str:
        """What the accuracy beside it is a share of."""
        return {"mIoU": "pixel accuracy", "perplexity": "next-token accuracy"}.get(self.name, "accuracy")

    @property
    def column(self) -> str:
        """Where a run of a comparison has it."""
        return "accuracy" if self.is_accuracy else "value"

    def text(self, value: Any) -> str:
        """A value with its unit."""
        return percent(value) if self.is_share else significant(value)

    def gain(self, own: float, its: float) -> str:
        """That difference in words, such as "+1.39 points of accuracy"."""
        difference = self.difference(own, its)
        return f"{difference} of {self.name}" if self.is_share else f"{self.name} {difference}{self.remark}"

    @property
    def remark(self) -> str:
        """What the reader must know where more is not better."""
        return " (less is better)" if self.lower else ""

    def difference(self, own: float, its: float) -> str:
        """How far a value is from another: "+1.39 points", "-3.20 %" where values are no shares, "-0.3" where none
        of them is a base for per cent; signs in ASCII.
        """
        if self.is_share:
            return points(own - its)
        return (
            f"{100 * (own / its - 1):+.2f} %"
            if min(own, its) > 0
            else f"{'-' if own < its else '+'}{significant(abs(own - its))}"
        )


ACCURACY = Metric("accuracy", lower=False)


def metric_of(record: Any) -> Metric:
    """What the networks of a record are compared by."""
    name = dig(record, "metric", "name")
    return ACCURACY if name is None else Metric(str(name), dig(record, "metric", "better") == "lower")


def score_of(network: Any, side: str = "onnx") -> float | None:
    """A network's value of that metric, from its record: of the ONNX file, or in "torch"."""
    return number(dig(network, "accuracy" if metric_of(network).is_accuracy else "metric", side))


def dig(data: Any, *keys: str) -> Any:
    """Follow `keys` down nested mappings; None as soon as one is missing or null."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def networks(record: Record) -> list[Network]:
    """List the result, the references at the same budget, and the unscaled network, in this order."""
    references = {key: data for key, data in (record.get("baseline") or {}).items() if data}
    order = sorted(references, key=lambda key: (key == "reference", key != "uniform"))
    return [
        Network("result", "result", record),
        *(Network(key, _TITLES.get(key, str(key)), references[key]) for key in order),
    ]


def recorded_costs(found: Sequence[Network]) -> list[str]:
    """The costs that tables list: those of every network, and others that one of these has."""
    return [name for name, cost in costs().items() if any(map(cost.shown_in, ({}, *(one.data for one in found))))]


def widths_of(network: Network, record: Record) -> Mapping[str, int]:
    """Channels per group of one network; those of the unscaled one may stand at the top of the record."""
    own = network.data.get("widths")
    if not own and network.key == "reference":
        own = record.get("reference_widths")
    return own or {}


def limits(record: Record) -> list[Limit]:
    """Compare every limit of the budget with the cost of the result."""
    budget = record.get("budget") or {}
    return [_limit(name, number(limit), budget) for name, limit in (budget.get("limits") or {}).items()]


def _limit(name: str, limit: float | None, budget: Record) -> Limit:
    got, slack = number(dig(budget, "costs", name)), number(dig(budget, "slack", name))
    if slack is None and limit is not None and got is not None:
        slack = limit - got
    one = number(dig(budget, "one_channel", name))
    return Limit(name, limit, got, slack, slack / one if slack is not None and one else None)


def budget_met(record: Record) -> bool | None:
    """Whether the budget is met; None when there is none, or nothing was measured against it."""
    rows = [row.met for row in limits(record)]
    stated = dig(record, "budget", "met")
    if not rows:
        return None
    if stated is False or False in rows:
        return False
    return None if stated is None and None in rows else True


def slack_text(limit: Limit) -> str:
    """Say how far from its limit a cost is, such as "over by 500 (5.5 channels of the cheapest layer)"."""
    if limit.slack is None:
        return "not measured"
    amount = quantity(abs(limit.slack))
    worth = ""
    # Of several limits one binds; far under the others, the unit would be a number without meaning.
    known = costs().get(limit.name)
    if limit.channels is not None and abs(limit.channels) < 100 and (known is None or known.by_channel):
        many = abs(limit.channels)
        unit = "of one channel" if 0 < many < 1 else "channels"
        worth = f" ({significant(many, 2)} {unit} of the cheapest layer)"
    return f"{amount} left{worth}" if limit.slack >= 0 else f"over by {amount}{worth}"


def efficiency(
    accuracy: float, macs: float, params: float, *, base_accuracy: float, base_macs: float, base_params: float
) -> tuple[float, float]:
    """Computational and storage efficiency against the unscaled network (TissueNet, section on metrics).

    CE = (accuracy / base_accuracy) * (base_macs / macs) and SE = (accuracy / base_accuracy) * (base_params / params):
    the unscaled network scores 1, more is better. Units cancel, so any will do as long as both networks use it.

    Raises:
        ValueError: a number that is divided by is not above zero
    """
    for name, value in {"base_accuracy": base_accuracy, "macs": macs, "params": params}.items():
        if not value > 0:
            raise ValueError(f"efficiency: {name} is {value!r}, it must be above 0")
    kept = accuracy / base_accuracy
    return kept * base_macs / macs, kept * base_params / params


def efficiency_of(network: Record, reference: Record) -> dict[str, float] | None:
    """CE and SE of one network's record against another's; None where a value has no share of the other's: the other
    is never right, or one is below 0, as log-likelihoods are.
    """
    own, base = _merit(network), _merit(reference)
    if own is None or base is None or own < 0 or base <= 0:
        return None
    ce, se = efficiency(
        own,
        network["macs"],
        network["params"],
        base_accuracy=base,
        base_macs=reference["macs"],
        base_params=reference["params"],
    )
    return {"ce": ce, "se": se}


def _merit(network: Any) -> float | None:
    """What stands for the accuracy in CE and SE: the metric, or its reciprocal where less is better."""
    score = score_of(network)
    if score is None or not metric_of(network).lower:
        return score
    return 1 / score if score > 0 else None


def scores(network: Network, record: Record) -> tuple[float | None, float | None]:
    """CE and SE of one network: as recorded, else against the unscaled one, else None."""
    recorded = network.data.get("efficiency")
    if recorded:
        return number(recorded.get("ce")), number(recorded.get("se"))
    own = _efficiency_inputs(network.data)
    base = _efficiency_inputs(dig(record, "baseline", "reference"))
    if own is None or base is None:
        return None, None
    return efficiency(*own, base_accuracy=base[0], base_macs=base[1], base_params=base[2])


def _efficiency_inputs(data: Any) -> tuple[float, float, float] | None:
    """Accuracy (or what stands for it), MACs and parameters, or None unless all three are above zero."""
    found = _merit(data), number(dig(data, "macs")), number(dig(data, "params"))
    accuracy, macs, params = (value or 0 for value in found)
    return (accuracy, macs, params) if accuracy > 0 and macs > 0 and params > 0 else None


def interval(accuracy: float, samples: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for an accuracy, as fractions, measured on `samples` samples."""
    from scipy.stats import binomtest  # half a second of import time that only pages need

    found = binomtest(round(accuracy * samples), samples).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def weights_text(weights: Any) -> str:
    """Say which weights an accuracy belongs to."""
    return _WEIGHTS.get(str(weights), str(weights))


def conditions(latency: Any) -> str:
    """Say how a latency was measured, such as "batch 100, cpu, 1 thread"."""
    batch, provider, threads = (dig(latency, key) for key in ("batch", "provider", "threads"))
    parts = [f"batch {batch}" if batch is not None else "", str(provider or "")]
    if threads is not None:
        parts.append(f"{threads} {'thread' if threads == 1 else 'threads'}")
    return ", ".join(part for part in parts if part)


def unsteady(latency: Any) -> bool:
    """Whether one in ten batches took half as long again as the median: the machine was busy with other work."""
    median, p90 = number(dig(latency, "median")), number(dig(latency, "p90"))
    return median is not None and p90 is not None and p90 > 1.5 * median


def layer_order(record: Record) -> list[str]:
    """Names of the width groups in the order of the network, as far as the record knows it.

    The search trace lists them in order. Without one the order of the widths is kept, except when it is merely
    alphabetical (JSON with sorted keys): then layer 10 is put behind layer 9.
    """
    names = [str(name) for name in record.get("widths") or record.get("reference_widths") or {}]
    traced = [str(name) for name in (last_iteration(record) or {}).get("groups") or []]
    if traced and set(traced) == set(names):
        return traced
    return sorted(names, key=natural) if names == sorted(names) else names


def last_iteration(record: Record) -> Record | None:
    """Return the last iteration of the search that gave a fit, or else the last; None when the method has none."""
    iterations = dig(record, "trace", "iterations") or []
    fitted = [iteration for iteration in iterations if not iteration.get("fallback")]
    last: Record | None = (fitted or iterations or [None])[-1]
    return last
