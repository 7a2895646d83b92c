"""The race of `search: {method: auto}`: what its candidates found, and how they did on validation data.

The record has it under trace.race, as `compressor.search.methods.auto` writes it.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from compressor.recipe.cost import cost_title, costs
from compressor.report.format import Cell, number, quantity, value_cell
from compressor.report.rendering import render
from compressor.report.values import Record, dig, metric_of


def race_section(record: Record) -> Markup:
    """A table of the candidates: costs, and the validation metric after every round; nothing without a race."""
    race = dig(record, "trace", "race")
    if not race:
        return Markup()
    rounds, metric = race.get("rounds") or [], None if _by_loss(record) else metric_of(record)
    limited = list(next(iter((race.get("costs") or {}).values()), {}))
    heads = [f"{'training loss' if metric is None else metric.title}, {_epochs(one)}" for one in rounds]
    return render(
        "race.html.j2",
        chosen=race.get("chosen"),
        head=["candidate", *map(cost_title, limited), *heads],
        judged="by the training loss" if metric is None else "on validation data",
        rows=[_row(name, race, limited, rounds, record) for name in race.get("networks") or {}],
        refused=list((race.get("refused") or {}).items()),
    )


def race_line(record: Record) -> str:
    """One sentence of plain text; "" without a race."""
    race = dig(record, "trace", "race")
    if not race:
        return ""
    rounds = race.get("rounds") or []
    if not rounds:
        refused = "".join(f"; {name} took no part: {why}" for name, why in (race.get("refused") or {}).items())
        return f"{race.get('chosen')} was the only candidate{refused}"
    last = rounds[-1]
    scores = ", ".join(f"{name} {_shown(score, record)}" for name, score in last["scores"].items())
    return f"{race.get('chosen')} won the race of {len(race['networks'])} candidates ({_epochs(last)}: {scores})"


def _epochs(one: Record) -> str:
    count = one.get("epochs")
    return f"{count} epoch" + ("" if count == 1 else "s")


def _row(name: str, race: Record, limited: list[str], rounds: list[Any], record: Record) -> list[object]:
    known, chosen = costs(), name == race.get("chosen")
    title = f"{name}, the result" if chosen else name
    of_network = race["costs"].get(name) or {}
    sizes = [value_cell(of_network.get(cost), known[cost].text if cost in known else quantity) for cost in limited]
    ran = [(one.get("scores") or {}) for one in rounds]
    scores = [Cell(_shown(one[name], record)) if name in one else value_cell(None) for one in ran]
    return [title, *sizes, *scores]


def _by_loss(record: Record) -> bool:
    """Whether candidates were judged by their training loss, since nothing judges networks on validation data."""
    epochs = record.get("training") or []
    return bool(epochs) and all(one.get("validation_metric") is None for one in epochs)


def _shown(score: Any, record: Record) -> str:
    """A validation metric, or a training loss; of that the race has the negative where more of the metric is better."""
    found, metric = number(score), metric_of(record)
    if found is None:
        return "diverged"
    if _by_loss(record):
        return f"loss {found if metric.lower else -found:.3f}"
    return metric.text(found)
