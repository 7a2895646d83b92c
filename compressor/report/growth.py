"""How a network grew while it trained, and what its training took beside that of the unscaled network ("Growing
Efficient Deep Networks by Structured Continuous Sparsification", ICLR 2021, section 4.4 and A.8).

The record has it under trace.growth, as `compressor.search.methods.growing` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from compressor.recipe.cost import cost_title, costs
from compressor.report.format import ABSENT, Cell, compact, number, quantity, significant, value_cell
from compressor.report.growth_figures import Line, flops_unit, growth_chart
from compressor.report.rendering import render
from compressor.report.values import Record, dig

_UNSCALED = "unscaled network"
_UNSEEN = "not trained in this run"


@dataclass(frozen=True)
class Training:
    """What one training took.

    Attributes:
        title: what the reader calls it
        flops: of every epoch
        seconds: of every epoch; None if that was not measured
    """

    title: str
    flops: tuple[float, ...]
    seconds: tuple[float, ...] | None

    @property
    def total_seconds(self) -> float | None:
        """Seconds of all epochs."""
        return None if self.seconds is None else math.fsum(self.seconds)


def growth_section(record: Record) -> Markup:
    """Show how the network grew and what that took; nothing if it did not grow."""
    growth = dig(record, "trace", "growth")
    if not growth:
        return Markup()
    own, dense = _own_trainings(record), _dense_training(record)
    return render(
        "growth.html.j2",
        totals=_totals(own, dense),
        unscaled_trained=dense.seconds is not None,
        charts=[_channels_chart(record), _costs_chart(record), *_units_chart(growth), *_effort_charts(own, dense)],
        settled=compact(round(_settled(growth), 2)),
        changed=growth.get("settled"),
        draws=len(growth["rounds"]),
        epochs=_epoch_table(growth),
    )


def growth_line(record: Record) -> str:
    """One sentence of plain text on what growing saved; "" if the network did not grow."""
    if not dig(record, "trace", "growth"):
        return ""
    own, dense = _own_trainings(record), _dense_training(record)
    flops, seconds = _savings(own, dense)
    parts = [_saved(flops, "fewer training FLOPs", "more training FLOPs")]
    if seconds is not None:
        parts.append(_saved(seconds, "less time", "more time"))
    what = " and ".join(training.title for training in own)
    return f"{what}: {' and '.join(parts)} than the {_UNSCALED}'s {_epochs(len(dense.flops))}"


# what training took -------------------------------------------------------------------------------------------------


def _own_trainings(record: Record) -> list[Training]:
    """What made the result: growth, and what was trained after it."""
    growth = record["trace"]["growth"]
    rows = growth["epochs"]
    grown = Training("growth", tuple(row["flops"] for row in rows), _seconds(rows))
    finetuning = record.get("finetuning")
    if finetuning is not None and not finetuning["epochs"]:
        return [grown]
    title = "training from scratch" if finetuning is None else "fine-tuning"
    further = record.get("training") or []
    each = growth["reference"]["flops_per_epoch"] * record["macs"] / growth["reference"]["macs"]
    return [grown, Training(title, (each,) * len(further), _seconds(further))]


def _dense_training(record: Record) -> Training:
    """What the unscaled network took, or would have taken if it was not trained."""
    growth, trained = record["trace"]["growth"], dig(record, "baseline", "reference", "training") or []
    epochs = len(trained) or len(growth["epochs"])
    return Training(_UNSCALED, (growth["reference"]["flops_per_epoch"],) * epochs, _seconds(trained))


def _seconds(rows: Iterable[Mapping[str, Any]]) -> tuple[float, ...] | None:
    found = [number(row.get("seconds")) for row in rows]
    known = tuple(value for value in found if value is not None)
    return known if known and len(known) == len(found) else None


def _sum(trainings: list[Training]) -> Training:
    known = [training.seconds for training in trainings if training.seconds is not None]
    return Training(
        "together",
        tuple(value for training in trainings for value in training.flops),
        tuple(value for values in known for value in values) if len(known) == len(trainings) else None,
    )


def _savings(own: list[Training], dense: Training) -> tuple[float, float | None]:
    """How many times the unscaled network's FLOPs and seconds are those of the result; None if not both are known."""
    total = _sum(own)
    ours, theirs = total.total_seconds, dense.total_seconds
    return math.fsum(dense.flops) / math.fsum(total.flops), theirs / ours if ours and theirs is not None else None


def _saved(ratio: float, less: str, more: str) -> str:
    return f"{significant(ratio, 3)}x {less}" if ratio >= 1 else f"{significant(1 / ratio, 3)}x {more}"


def _totals(own: list[Training], dense: Training) -> dict[str, Any]:
    rows = [*own, *([_sum(own)] if len(own) > 1 else []), dense]
    size, unit = flops_unit(max(math.fsum(training.flops) for training in rows))
    flops, seconds = _savings(own, dense)
    lines: list[list[object]] = [
        [
            training.title,
            value_cell(len(training.flops)),
            value_cell(math.fsum(training.flops) / size, significant),
            _UNSEEN if training is dense and dense.seconds is None else value_cell(training.total_seconds, significant),
        ]
        for training in rows
    ]
    lines.append(["savings", Cell(), *(Cell(_times(ratio) if ratio else ABSENT) for ratio in (flops, seconds))])
    return {"unit": unit, "rows": lines}


def _times(ratio: float) -> str:
    return f"{significant(ratio, 3)} ×"


# charts -------------------------------------------------------------------------------------------------------------


def _settled(growth: Record) -> float:
    """Epochs after which the structure is kept."""
    return float(growth["settled_step"] / growth["steps_per_epoch"])


def _stages(record: Record) -> list[tuple[str, list[str]]]:
    """(what the reader calls it, widths) of every stage, the largest maps first: JSON's sorted keys lost the order."""
    found = sorted(record["trace"]["growth"]["stages"].items(), key=lambda pair: -int(pair[0]))
    return [(_map_size(int(positions), record), names) for positions, names in found]


def _map_size(positions: int, record: Record) -> str:
    shape, side = dig(record, "dataset", "input_shape") or [], math.isqrt(positions)
    if len(shape) == 3 and shape[1] == shape[2] and side * side == positions:
        return f"{side} × {side}"
    return f"{quantity(positions)} position{'s' * (positions != 1)}"


def _channels_chart(record: Record) -> dict[str, object]:
    growth = record["trace"]["growth"]
    own, epochs = growth["reference"]["channels"], [row["epoch"] for row in growth["epochs"]]
    lines = []
    for title, names in _stages(record):
        whole = sum(own[name] for name in names)
        shares = [100 * sum(row["channels"][name] for name in names) / whole for row in growth["epochs"]]
        lines.append(Line(title, epochs, shares))
    title, unit = "Channels by size of map", f"% of the {_UNSCALED}'s"
    return growth_chart("growth-channels", title, unit, lines, settled=_settled(growth))


def _costs_chart(record: Record) -> dict[str, object]:
    """Parameters, MACs and whatever else is limited, in shares of the unscaled network's cost."""
    growth, limits = record["trace"]["growth"], dig(record, "budget", "limits") or {}
    lines = []
    for cost in dict.fromkeys(("params", "macs", *limits)):
        whole = _unscaled_cost(cost, record)
        if whole is None:
            continue
        places = _cost_places(cost, record)
        limit = number(limits.get(cost))
        lines.append(
            Line(
                cost_title(cost).partition(",")[0],
                [epoch for epoch, _ in places],
                [100 * value / whole for _, value in places],
                None if limit is None else 100 * limit / whole,
                stepped=cost in growth["rounds"][0],
            )
        )
    title, unit = "Size of the network that trains", f"% of the {_UNSCALED}'s"
    return growth_chart("growth-costs", title, unit, lines, settled=_settled(growth))


def _cost_places(cost: str, record: Record) -> list[tuple[float, float]]:
    """(epoch, cost): after every draw if the cost is limited, else at the ends of the epochs."""
    growth = record["trace"]["growth"]
    rows = growth["epochs"]
    if cost not in growth["rounds"][0]:
        return [(row["epoch"], row[cost]) for row in rows]
    drawn = [(row["step"] / growth["steps_per_epoch"], row[cost]) for row in growth["rounds"]]
    kept = rows[-1].get(cost, dig(record, "budget", "costs", cost))
    return drawn if kept is None else [*drawn, (_settled(growth), kept), (len(rows), kept)]


def _unscaled_cost(cost: str, record: Record) -> float | None:
    growth = record["trace"]["growth"]
    own = growth["reference"].get(cost, dig(record, "baseline", "reference", cost))
    known = costs().get(cost)
    return number(known.of_unscaled(record) if own is None and known is not None else own)


def _units_chart(growth: Record) -> list[dict[str, object]]:
    rows = growth["epochs"]
    if not rows[0]["units"]:
        return []
    epochs = [row["epoch"] for row in rows]
    lines = [Line(stage, epochs, [row["units"][stage] for row in rows]) for stage in sorted(rows[0]["units"])]
    return [growth_chart("growth-units", "Units by stage", "units", lines, settled=_settled(growth))]


def _effort_charts(own: list[Training], dense: Training) -> list[dict[str, object]]:
    """FLOPs and seconds of every epoch."""
    size, unit = flops_unit(max(dense.flops))
    flops, seconds, begun = [], [], 0
    for training in own:
        epochs = range(begun + 1, begun + len(training.flops) + 1)
        flops.append(Line(training.title, epochs, [value / size for value in training.flops]))
        if training.seconds is not None:
            seconds.append(Line(training.title, epochs, training.seconds))
        begun += len(training.flops)
    epochs = range(1, len(dense.flops) + 1)
    whole = Line(_UNSCALED, epochs, [value / size for value in dense.flops])
    charts = [growth_chart("growth-flops", "Training cost", f"{unit} per epoch", flops, unscaled=whole)]
    if seconds:
        clock = None if dense.seconds is None else Line(_UNSCALED, epochs, dense.seconds)
        charts.append(growth_chart("growth-seconds", "Training time", "seconds per epoch", seconds, unscaled=clock))
    return charts


# every epoch --------------------------------------------------------------------------------------------------------


def _epoch_table(growth: Record) -> dict[str, Any]:
    rows, layered = growth["epochs"], bool(growth["epochs"][0]["units"])
    size, unit = flops_unit(max(row["flops"] for row in rows))
    head = ["epoch", "parameters", "MACs", "channels", *(["units"] if layered else []), "added", "removed", unit]
    lines: list[list[object]] = [
        [
            quantity(row["epoch"]),
            value_cell(row["params"]),
            value_cell(row["macs"]),
            value_cell(sum(row["channels"].values())),
            *([value_cell(sum(row["units"].values()))] if layered else []),
            value_cell(row["added"]),
            value_cell(row["removed"]),
            value_cell(row["flops"] / size, significant),
            value_cell(row["seconds"], lambda value: significant(value, 3)),
        ]
        for row in rows
    ]
    return {"title": _epochs(len(rows)), "head": [*head, "seconds"], "rows": lines}


def _epochs(count: int) -> str:
    return f"{quantity(count)} epoch{'s' * (count != 1)}"
