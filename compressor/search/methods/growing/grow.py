"""Growing a network to the budget while it trains: the rounds, the draw that is kept, and the record of it all."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compressor.costs import params_macs
from compressor.errors import BudgetError, RunError, TrainingError
from compressor.files import digest_of
from compressor.models import build, units
from compressor.search.methods.growing import GrowingConfig
from compressor.search.methods.growing.grower import Grower, GrowthSettings
from compressor.search.methods.growing.indicators import IndicatorSettings
from compressor.search.methods.growing.selection import select
from compressor.search.methods.growing.space import Space
from compressor.search.problem import Finetuning, Problem, SearchResult, Unfinished
from compressor.training.trainer import EpochRecord, Paused, Settings

_PULL = 0.001  # κ of the utility of channels, beside a penalty of up to 0.05 λ
_FLOOR = 0.75  # of the mean share of a group that is drawn: what is known of a narrow layer is mostly noise
_HALF_FRESH = 0.5
_ROUNDS = 30  # at least, where the recipe leaves their length open and there are as many steps


def grow(problem: Problem, config: GrowingConfig) -> SearchResult:
    """Grow a network from one filter in every layer to the budget, while it trains as long as the recipe says.

    Raises:
        BudgetError: the budget cannot be met, or the unscaled network is below it already
        ModelError: the widths of the network are not independent
        TrainingError: training diverged
        Unfinished: training was paused; holds the network of that moment
    """
    if problem.final is None or problem.final.epochs is None:
        raise RunError("search.method: growing trains the network while it grows, but problem.final does not say how")
    space = Space.of(problem)
    _check_budget(problem, space)
    final = replace(problem.final, keep="last")
    settings = _settings(config, problem, space, final)
    if config.restart:
        final = _restarted(final, settings)
    grower = Grower(problem, space, settings, problem.trainer.prepare)
    model, checkpoint = problem.trainer.prepare(grower.first_network()), _checkpoint(problem, config)
    try:
        history = problem.trainer.fit(
            model, final, seed=problem.seed, label="growing", observer=grower, checkpoint=checkpoint
        )
    except TrainingError:
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)  # it leads to the same end; train.lr may be changed now
        raise
    except Paused as paused:
        weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        raise Unfinished(grower.trained, weights, problem.budget.limits, paused.epochs, final.epochs or 0) from paused
    if grower.selection is None:
        grower.settle()
    assert grower.selection is not None
    architecture, solution = grower.architecture, grower.selection.solution
    fresh = config.weights == "fresh"
    return SearchResult(
        architecture,
        {"iterations": [], "growth": _growth(grower, history)},
        solution.one_channel,
        solution.binding,
        weights=None if fresh else {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        finetuning=None if fresh else Finetuning(config.finetune_epochs, config.finetune_lr),
        history=() if fresh else history,
        trained=not fresh,
    )


def _renewal(problem: Problem) -> float:
    """How much of the weights is to be fresh: half, unless their scale counts, which mixing takes down."""
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    return _HALF_FRESH if any(isinstance(one, norms) for one in build(problem.reference).modules()) else 1.0


def _settings(config: GrowingConfig, problem: Problem, space: Space, final: Settings) -> GrowthSettings:
    """Lay out the rounds."""
    per_epoch, samples = problem.trainer.epoch_size(final.batch_size)
    steps = per_epoch * (final.epochs or 0)
    settled = max(1, steps - round(config.settle * steps))
    each = config.steps_per_round or min(per_epoch, settled // _ROUNDS)
    each = max(1, min(each, settled))
    layered = any(unit.detachable for unit in units(problem.reference).values())
    indicators = IndicatorSettings(
        rounds=max(1, settled // each),
        steps=each,
        start=config.start,
        beta_max=config.beta_max,
        temperature=config.temperature,
        penalty=config.penalty if config.penalty is not None else (1.0 if layered else 0.5),
        layer_penalty=config.layer_penalty,
        redraw=config.redraw,
        lr=config.indicator_lr,
        momentum=config.indicator_momentum,
        seed=problem.seed,
        fixed=_even_chance(problem, space) if config.sampling == "random" else None,
        pull=_PULL if config.signal == "utility" else 0.0,
        returns=config.returns,
        floor=_FLOOR if config.signal == "utility" else 0.0,
        even=config.counts == "expected" and config.sampling == "learned",
    )
    return GrowthSettings(
        indicators=indicators,
        steps=steps,
        settled=settled,
        samples=samples,
        price=config.price,
        pad_to=config.pad_to,
        restart=config.restart,
        renew=_renewal(problem) if config.renew is None else config.renew,
    )


def _restarted(final: Settings, settings: GrowthSettings) -> Settings:
    """The same training, in which the schedule begins anew when growth is over, and ends when training does."""
    left = settings.steps - settings.settled

    def lr_at(step: int, per_epoch: int) -> float:
        if step < settings.settled:
            return final.lr_at(step, per_epoch)
        return final.lr_at((step - settings.settled) * settings.steps // left, per_epoch)

    return replace(final, lr_at=lr_at)


def _even_chance(problem: Problem, space: Space) -> float:
    """The probability of every channel and layer at which the network costs about what the budget allows."""
    kept = select(problem, space, np.ones(space.length, dtype=bool), np.zeros(space.length)).drawn
    return float(kept[: space.channels].mean())


def _check_budget(problem: Problem, space: Space) -> None:
    """Refuse a budget that cannot be met, or that all of the network is within, before any training."""
    limits = problem.budget.limits
    own = {name: float(problem.costs[name](problem.reference)) for name in limits}
    if all(own[name] < limit for name, limit in limits.items()):
        own_costs = ", ".join(f"{name} {own[name]:,.0f} of {limit:,.0f}" for name, limit in limits.items())
        raise BudgetError(
            f"budget: growing ends at the unscaled network, which is below the budget as it is: {own_costs}"
        )
    least = np.ones(space.length, dtype=bool)
    least[space.channels :] = False
    select(problem, space, least, np.zeros(space.length))


def _checkpoint(problem: Problem, config: GrowingConfig) -> Path | None:
    """Where growth to this budget goes on from; searches for other budgets, or otherwise set, have another file."""
    own = [_PULL, _FLOOR, _ROUNDS, _HALF_FRESH]  # another version's growth would go on otherwise
    key = json.dumps([dict(problem.budget.limits), config.model_dump(mode="json"), own], sort_keys=True)
    return problem.checkpoint(f"growing-{digest_of(key, 12)}.safetensors")


def _growth(grower: Grower, history: list[EpochRecord]) -> dict[str, Any]:
    """How the network grew, as JSON values: see `compressor.report.growth`."""
    reference, settings = grower.space.reference, grower.settings
    stage_of = _stages(grower.space)
    per_epoch = settings.steps // max(1, len(history))
    own = {name: int(count(reference)) for name, count in params_macs.COSTS.items()}
    epochs = [{**row, "seconds": record.seconds} for row, record in zip(grower.epochs, history, strict=True)]
    return {
        "epochs": epochs,
        "rounds": [{"step": step, **costs, "excess": excess} for step, costs, excess in grower.rounds],
        "reference": {
            **own,
            "channels": dict(reference.widths),
            "flops_per_epoch": 6 * own["macs"] * settings.samples * per_epoch,
        },
        "stages": stage_of,
        "steps_per_epoch": per_epoch,
        "settled_step": settings.settled,
        "settled": grower.settled,
        "settings": {
            **asdict(settings.indicators),
            "price": settings.price,
            "pad_to": settings.pad_to,
            "restart": settings.restart,
            "renew": settings.renew,
        },
    }


def _stages(space: Space) -> dict[str, list[str]]:
    """{positions of an image: widths}, by the size of the map in which their channels are made."""
    stages: dict[str, list[str]] = {}
    for name, member in zip(space.streams.reference, space.streams.members, strict=True):
        made = space.graph.producers(space.streams.names[member])
        uses = space.graph.uses.get(made[0].tensor, 0) if made else 0
        stages.setdefault(str(uses), []).append(name)
    return stages
