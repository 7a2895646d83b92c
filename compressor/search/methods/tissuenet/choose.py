"""Choosing a form of the network: every form is scaled to the budget, a few are trained for a moment."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from compressor.costs.solver import Solution, largest_within
from compressor.errors import BudgetError, RunError, TrainingError
from compressor.files import digest_of, read_json, write_json
from compressor.models import build
from compressor.models.architecture import Architecture
from compressor.search.methods.tissuenet import TissueNetConfig
from compressor.search.methods.tissuenet.forms import Form, forms_of
from compressor.search.problem import Problem, SearchResult, agreed, calibrated_costs
from compressor.search.scaling import scale_uniformly

_FULL = 0.98  # of a limit: forms that leave more unused are tried after the others
_ROUNDS = 12  # of solving and measuring, where a cost must be measured


@dataclass(frozen=True)
class _Candidate:
    form: Form
    architecture: Architecture
    solution: Solution
    fullness: float
    capacity: float  # ln(parameters × multiply-adds)
    slowdown: float | None = None  # milliseconds over those of the network scaled uniformly to the budget

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        hidden = [kind.unit.hidden for stack in self.architecture.stacks.values() for kind in stack.kinds]
        return {
            "strategy": self.form.strategy,
            "k": None if self.form.mix == "given" else self.form.k,
            "nodes": None if self.form.mix == "given" else self.form.nodes,
            "hidden": [min(hidden), max(hidden)],
            "mix": self.form.mix,
            "multiplier": self.solution.scale,
            "costs": self.solution.costs,
            "filled": self.fullness,
            "capacity": self.capacity,
            "slowdown": self.slowdown,
        }


def choose(problem: Problem, config: TissueNetConfig) -> SearchResult:
    """Scale every form of the network to the budget, and choose.

    Raises:
        BudgetError: no form meets the budget
        ModelError: no pair of the network's layers can be stacked
        TrainingError: training diverged, with every candidate
    """
    found, refused = [], []
    for form in forms_of(problem, config):
        try:
            found.append(_solved(problem, form))
        except BudgetError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    found.sort(key=lambda candidate: (candidate.fullness < _FULL, -candidate.capacity))
    order = _ordered(found)
    if config.slowdown is not None and problem.side_by_side is not None:
        order = _fast_first(problem, config, order)
    if calibrated_costs(problem):
        order = _all_measured(problem, order, config.trials, refused)
    shortlist = order[: config.trials]
    scores = _trials(problem, config, shortlist)
    best = min(range(len(shortlist)), key=lambda index: scores[index])
    chosen = shortlist[best]
    rows = [c.to_json() | {"trial_loss": _finite(s)} for c, s in zip(shortlist, scores, strict=True)]
    listed = {candidate.form.name for candidate in order}
    rows += [c.to_json() for c in [*order[config.trials :], *(one for one in found if one.form.name not in listed)]]
    trace = {
        "iterations": [],
        "multiplier": chosen.solution.scale,
        "tissue": {
            "chosen": rows[best],
            "candidates": rows,
            "refused": len(refused),
            "trial_epochs": config.trial_epochs,
            "stacks": {first: stack.to_json() for first, stack in chosen.architecture.stacks.items()},
        },
    }
    return SearchResult(chosen.architecture, trace, chosen.solution.one_channel, chosen.solution.binding)


def _solved(problem: Problem, form: Form) -> _Candidate:
    """The largest network of a form within the budget."""
    known: dict[tuple[int, ...], Architecture] = {}

    def architecture(numbers: Any) -> Architecture:
        key = tuple(int(number) for number in numbers)
        if key not in known:
            known[key] = form.architecture(key)
        return known[key]

    def cost(name: str) -> Any:
        return lambda numbers: float(problem.costs[name](architecture(numbers)))

    limits = problem.budget.limits
    solution = largest_within(
        {name: cost(name) for name in limits}, limits, form.scaled, low=0.1, high=1.0, bounds=form.bounds
    )
    result = architecture(solution.widths)
    fullness = max(solution.costs[name] / limit for name, limit in limits.items())
    capacity = math.log(problem.costs["params"](result)) + math.log(problem.costs["macs"](result))
    return _Candidate(form, result, solution, fullness, capacity)


def _all_measured(
    problem: Problem, candidates: list[_Candidate], wanted: int, refused: list[BudgetError]
) -> list[_Candidate]:
    """The first candidates that meet the budget once they are measured; adds to `refused` why others do not.

    Raises:
        BudgetError: none does
    """
    found: list[_Candidate] = []
    for candidate in candidates:
        if len(found) == wanted:
            break
        try:
            found.append(_measured(problem, candidate))
        except BudgetError as error:  # its form was within the budget as an estimate only
            refused.append(error)
    if not found:
        raise refused[-1]
    return found


def _measured(problem: Problem, candidate: _Candidate) -> _Candidate:
    """A candidate's form solved again until its costs are measured ones."""
    least = candidate.form.architecture(candidate.form.bounds.least.tolist())
    for cost in calibrated_costs(problem):
        cost.begin(least)  # every form is a family of its own
    for _ in range(_ROUNDS):
        if agreed(problem, candidate.architecture):
            break
        again = _solved(problem, candidate.form)
        if again.architecture == candidate.architecture:
            break  # no better one is known: the shipped file will be verified
        candidate = replace(again, slowdown=candidate.slowdown)
    costs = {name: float(problem.costs[name](candidate.architecture)) for name in candidate.solution.costs}
    fullness = max(costs[name] / limit for name, limit in problem.budget.limits.items())
    return replace(candidate, solution=replace(candidate.solution, costs=costs), fullness=fullness)


def _fast_first(problem: Problem, config: TissueNetConfig, candidates: list[_Candidate]) -> list[_Candidate]:
    """The candidates in their order, but those that are slow beside a uniformly scaled network last, the fastest first.

    No more are measured than it takes to find as many fast ones as are tried.
    """
    assert config.slowdown is not None
    assert problem.side_by_side is not None
    try:
        uniform, _ = scale_uniformly(problem)
    except BudgetError:  # its least network is too large
        return candidates
    kept = problem.checkpoint("tissuenet-slowdown.json")
    known: dict[str, float] = read_json(kept) if kept is not None and kept.exists() else {}
    fast: list[_Candidate] = []
    slow: list[_Candidate] = []
    for begin in range(0, len(candidates), config.trials):
        some = candidates[begin : begin + config.trials]
        keys = [f"{uniform.to_json()} {candidate.architecture.to_json()}" for candidate in some]
        if any(key not in known for key in keys):
            beside, *taken = problem.side_by_side([uniform, *(candidate.architecture for candidate in some)])
            known |= {key: ms / beside for key, ms in zip(keys, taken, strict=True) if key not in known}
            if kept is not None:
                write_json(kept, known)
        for key, candidate in zip(keys, some, strict=True):
            (fast if known[key] <= config.slowdown else slow).append(replace(candidate, slowdown=known[key]))
        if len(fast) >= config.trials:
            break
    slow.sort(key=lambda candidate: candidate.slowdown or 0.0)
    return [*fast, *candidates[len(fast) + len(slow) :], *slow]


def _ordered(candidates: list[_Candidate]) -> list[_Candidate]:
    """The order in which candidates are tried: the first of every k, then the second of every k, and so on; each once.

    Hybrid units come after equal ones: they cost a Split and a Concat in every layer, many times the latency on a CPU.
    """
    places: dict[tuple[str, int, int], int] = {}
    order: list[tuple[bool, int, int, _Candidate]] = []
    kept: list[_Candidate] = []
    for rank, candidate in enumerate(candidates):
        if all(candidate.architecture != other.architecture for other in kept):
            kept.append(candidate)
            kind = candidate.form.mix, candidate.form.nodes, candidate.form.k
            places[kind] = places.get(kind, 0) + 1
            order.append((candidate.form.mix == "hybrid", places[kind], rank, candidate))
    return [candidate for *_, candidate in sorted(order, key=lambda entry: entry[:3])]


def _trials(problem: Problem, config: TissueNetConfig, candidates: list[_Candidate]) -> list[float]:
    """The validation loss of every candidate after a short training; of a single one none is needed."""
    if len(candidates) == 1:
        return [math.nan]
    if problem.final is None or problem.final.epochs is None:
        raise RunError("search.method: tissuenet trains candidates for a moment, but problem.final does not say how")
    losses = [
        _trial(problem, config, candidate, f"trial {number} of {len(candidates)} ({candidate.form.name})")
        for number, candidate in enumerate(candidates, 1)
    ]
    if all(math.isinf(loss) for loss in losses):
        raise TrainingError("training diverged with every candidate; lower train.lr")
    return losses


def _trial(problem: Problem, config: TissueNetConfig, candidate: _Candidate, label: str) -> float:
    final = problem.final
    assert final is not None
    assert final.epochs is not None
    epochs, pace = config.trial_epochs, final.epochs / config.trial_epochs
    # The whole schedule in fewer steps: a rate that never falls would say little of the end.
    settings = replace(
        final, epochs=epochs, keep="last", lr_at=lambda step, per_epoch: final.lr_at(int(step * pace), per_epoch)
    )
    kept = problem.checkpoint("tissuenet-trials.json")
    known = read_json(kept) if kept is not None and kept.exists() else {}
    key = f"{epochs} epochs {candidate.architecture.to_json()}"
    if key not in known:
        model = problem.trainer.prepare(build(candidate.architecture, problem.seed))
        path = problem.checkpoint(f"tissuenet-trial-{digest_of(key, 16)}.safetensors")
        try:
            last = problem.trainer.fit(model, settings, seed=problem.seed, label=label, checkpoint=path)[-1]
            known[key] = last.loss if last.validation_loss is None else last.validation_loss
        except TrainingError:
            known[key] = None
        if path is not None:
            path.unlink(missing_ok=True)
        if kept is not None:
            write_json(kept, known)
    return math.inf if known[key] is None else float(known[key])


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
