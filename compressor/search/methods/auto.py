"""Several methods search for the budget, what they find races, mostly shortened, and the best is trained in full.

The race is successive halving (Jamieson and Talwalkar, AISTATS 2016) on validation data: all networks are trained for a
small share of the final epochs, the better half of them, from the start again, for twice as long, and so on until one
is left. Who is behind by no more than two standard errors of a share of the validation samples stays in (a statistical
race, after Maron and Moore, NIPS 1993); where all do, the next round is as long as the final training and decides.
Every training has the whole learning-rate schedule in its time. A round has 200 steps at least, or else half of the
final epochs. A candidate that trains while it searches, such as growing, is trained in full by that: it meets the best
of the others in a last round, for which that one is trained as long. Who wins a round of the whole training from fresh
weights is not trained again, unless a teacher takes part in the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from compressor.errors import BudgetError, ModelError, RecipeError, TrainingError, not_one_of
from compressor.files import digest_of, read_json, write_json
from compressor.recipe.method import Method, MethodConfig, methods
from compressor.report.descent import descent_section, fit_section
from compressor.report.growth import growth_line, growth_section
from compressor.report.race import race_line, race_section
from compressor.report.removal import removal_line, removal_section
from compressor.search.problem import Problem, SearchResult
from compressor.search.pruning_config import PruningConfig

if TYPE_CHECKING:
    from torch import nn

    from compressor.training.trainer import EpochRecord, Settings

_FRESH, _KEPT = ("uniform", "neuralscale"), ("uniform", "neuralscale", "taylor")
_LEAST_STEPS = 200  # of training, unless the final training has fewer: after less, networks are alike
_PRETRAINED, _PRUNED = 1 / 8, 1 / 2  # of the final epochs, which a pruning method trains before, and while, it prunes


class AutoConfig(MethodConfig):
    """Methods that suit the budget race on validation data; the best network is trained in full."""

    method: Literal["auto"] = "auto"
    candidates: tuple[str, ...] = Field(
        (),
        description="search methods, each with settings that suit a short search; none: uniform and neuralscale, and "
        "taylor where the network has trained weights; growing may be named too, which takes a whole training",
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.125,
        description="of the epochs of final training, for each network in the first round of the race; more where that "
        "is less than 200 steps, up to a half of them",
    )

    @field_validator("candidates")
    @classmethod
    def _can_race(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        able = [name for name, one in methods().items() if name != "auto" and (one.keeps_weights or one.anytime)]
        for name in names:
            if name not in able:
                raise ValueError(not_one_of(name, able))
        return tuple(dict.fromkeys(names))


def search(problem: Problem, config: AutoConfig) -> SearchResult:
    """Let the candidates search, and let what they find race.

    Raises:
        BudgetError: no candidate can meet the budget
        ModelError: no candidate can change this network
        RecipeError: the user's functions tell nothing by which candidates could be compared
        TrainingError: all trainings diverged
    """
    from compressor.search import search as run_method
    from compressor.search.calibration import calibrated

    kept = problem.given is not None and config.weights != "fresh"
    if problem.work is not None:  # these searches are shorter than those that other recipes ask for
        work = problem.work / "auto"
        work.mkdir(parents=True, exist_ok=True)
        problem = replace(problem, work=work)
    found: dict[str, SearchResult] = {}
    refused: dict[str, BudgetError | ModelError | TrainingError] = {}
    for name in config.candidates or (_KEPT if kept else _FRESH):
        own = problem if methods()[name].keeps_weights else replace(problem, given=None)
        try:
            found[name] = calibrated(run_method, own, _config_of(name, own, config))
        except (BudgetError, ModelError, TrainingError) as error:
            refused[name] = error
    if not found:
        raise next(iter(refused.values()))
    winner, rounds = _race(problem, config, found, kept)
    chosen = found[winner]
    if config.weights == "fresh" and not chosen.trained:
        chosen = replace(chosen, weights=None, finetuning=None)
    whole = _whole(problem, kept)
    in_full = rounds[-1]["scores"] if rounds and rounds[-1]["epochs"] == whole else {}
    fresh = chosen.weights is None and not kept
    if winner in in_full and fresh and problem.alone and problem.work is not None:
        chosen = _finished(problem, config, winner, chosen)
    for name in in_full:
        if name != winner or not chosen.finished:  # that one's checkpoint serves a search that is repeated
            _forget(problem, _key(problem, name, found[name], whole, kept))
    race = {
        "rounds": rounds,
        "chosen": winner,
        "networks": {name: dict(result.architecture.widths) for name, result in found.items()},
        "costs": {
            name: {cost: float(problem.costs[cost](result.architecture)) for cost in problem.budget.limits}
            for name, result in found.items()
        },
        "refused": {name: str(error) for name, error in refused.items()},
    }
    return replace(chosen, trace={**chosen.trace, "race": race})


def _config_of(name: str, problem: Problem, config: AutoConfig) -> Any:
    """Settings of a candidate: those of methods that prune while they train follow the length of the final training."""
    own = methods()[name].config(method=name)
    kept = methods()[name].keeps_weights and hasattr(own, "weights")
    changes: dict[str, Any] = {"weights": config.weights} if kept else {}
    if not isinstance(own, PruningConfig) or problem.final is None or problem.final.epochs is None:
        return own.model_copy(update=changes)
    epochs, batch, steps = problem.final.epochs, problem.final.batch_size, _steps(problem, problem.final)
    channels = sum(problem.reference.widths.values())
    events = max(1, channels // own.prune_channels)
    changes |= {
        "pretrain_epochs": max(1, round(_PRETRAINED * epochs)),
        "batch_size": batch,
        "lr": problem.final.lr_at(steps * epochs // 2, steps) if problem.final.optimizer == "sgd" else own.lr,
        "prune_every": max(1, min(own.prune_every, round(_PRUNED * epochs * steps / events))),
    }
    if "iterations" in type(own).model_fields:
        changes["iterations"] = 1
    return own.model_copy(update=changes)


def _steps(problem: Problem, settings: Settings) -> int:
    """Of an epoch of a training."""
    from compressor.models import build

    steps, _ = problem.trainer.epoch_size(settings.batch_size, build(problem.reference, problem.seed))
    return steps


def _in_the_end(problem: Problem, kept: bool) -> Settings:
    """How networks are trained in the end: those that keep weights are fine-tuned."""
    assert problem.final is not None
    return problem.finetuning(None) if kept and problem.finetuning is not None else problem.final


def _whole(problem: Problem, kept: bool) -> int:
    """Epochs of that."""
    return _in_the_end(problem, kept).epochs or 1


def _race(
    problem: Problem, config: AutoConfig, found: Mapping[str, SearchResult], kept: bool
) -> tuple[str, list[dict[str, Any]]]:
    """Who wins, and the rounds of the race: epochs, {network: metric, or None where training diverged}, and which are
    left, the best first.

    Raises:
        TrainingError: training diverged for all
    """
    done = {name: _score_of(one.history, problem.trainer.better) for name, one in found.items() if one.trained}
    alive, rounds = [name for name in found if name not in done], []
    whole = _whole(problem, kept)
    enough = min(math.ceil(_LEAST_STEPS / _steps(problem, _in_the_end(problem, kept))), math.ceil(whole / 2))
    epochs = max(1, round(config.share * whole), enough)
    diverged: TrainingError | None = None
    sign = -1 if problem.trainer.better == "higher" else 1
    while len(alive) + len(done) > 1:
        last = epochs >= whole or len(alive) < 2
        epochs = whole if last else epochs
        scores: dict[str, float | None] = dict(done) if last else {}
        for name in alive:
            try:
                scores[name] = _score(problem, config, name, found[name], epochs, kept)
            except TrainingError as error:
                scores[name], diverged = None, error
        judged = {name: sign * score for name, score in scores.items() if score is not None}
        if not judged and (last or not done):
            raise diverged or TrainingError("search.method: auto: no validation metric in the race is a finite number")
        ranked = sorted(judged, key=lambda name: judged[name])
        racing, alive = len(alive), ranked[:1]
        if not last and ranked:
            margin = _noise(problem, abs(judged[ranked[0]]))
            half = math.ceil(racing / 2)
            alive = [name for place, name in enumerate(ranked) if place < half or _behind(judged, name) <= margin]
        rounds.append({"epochs": epochs, "scores": scores, "alive": alive})
        if last:
            break
        epochs = whole if len(alive) == racing else min(whole, 2 * epochs)
    return (alive or list(done))[0], rounds


def _behind(judged: Mapping[str, float], name: str) -> float:
    """How far a network is from the best, whose value is the smallest."""
    return judged[name] - min(judged.values())


def _noise(problem: Problem, score: float) -> float:
    """What a share of the validation samples may differ by though the networks are as good: two standard errors.

    0 where the metric is no such share, or is lower where it is better.
    """
    samples = problem.trainer.validation_samples
    if not samples or problem.trainer.better != "higher" or not 0 <= score <= 1:
        return 0.0
    return 2 * math.sqrt(score * (1 - score) / samples)


def _score(
    problem: Problem, config: AutoConfig, name: str, result: SearchResult, epochs: int, kept: bool
) -> float | None:
    """The validation metric of a network after a short training; without validation data, its training loss.

    What was trained before an interruption is not trained again.
    """
    key = _key(problem, name, result, epochs, kept)
    path = problem.checkpoint("auto-race.json")
    known: dict[str, float | None] = read_json(path) if path is not None and path.exists() else {}
    if key in known:
        return known[key]
    _, history = _fit(problem, config, name, result, epochs, kept)
    if history[-1].validation_metric is None and history[-1].loss is None:
        raise RecipeError(
            "search.method: auto: nothing tells the candidates apart: evaluate.function has no argument split, and so "
            "judges no validation data, and train.function calls no on_step(loss); valid: one of the two, or another "
            "method"
        )
    score = _score_of(history, problem.trainer.better)
    if path is not None:
        write_json(path, known | {key: score})
    if epochs < _whole(problem, kept):
        _forget(problem, key)
    return score


def _key(problem: Problem, name: str, result: SearchResult, epochs: int, kept: bool) -> str:
    """Of a training in the race."""
    limits = sorted(problem.budget.limits.items())
    return digest_of(repr((name, result.architecture.to_json(), epochs, kept, limits)), 24)


def _fit(
    problem: Problem, config: AutoConfig, name: str, result: SearchResult, epochs: int, kept: bool
) -> tuple[nn.Module, list[EpochRecord]]:
    """Train what was found for some epochs, from where a checkpoint is; the checkpoint stays."""
    from compressor.training.schedules import shortened

    trainer = problem.trainer if problem.trainer_for is None else problem.trainer_for(result.architecture)
    model, settings = _beginning(problem, config, result, kept)
    model = trainer.prepare(model)
    checkpoint = problem.checkpoint(f"auto-{_key(problem, name, result, epochs, kept)}.safetensors")
    history = trainer.fit(
        model, shortened(settings, epochs), seed=problem.seed, label=f"race: {name}", checkpoint=checkpoint
    )
    return model, history


def _forget(problem: Problem, key: str) -> None:
    """Remove the checkpoint of a training."""
    checkpoint = problem.checkpoint(f"auto-{key}.safetensors")
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


def _finished(problem: Problem, config: AutoConfig, name: str, result: SearchResult) -> SearchResult:
    """What was found with the weights that the whole training in the race gave it."""
    model, history = _fit(problem, config, name, result, _whole(problem, kept=False), kept=False)
    weights = {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()}
    return replace(result, weights=weights, finetuning=None, history=history, trained=True, finished=True)


def _beginning(problem: Problem, config: AutoConfig, result: SearchResult, kept: bool) -> tuple[nn.Module, Settings]:
    """The network that a result is before its final training, and how that trains."""
    from compressor.models import build
    from compressor.search.inherited import channel_importance, inherited

    assert problem.final is not None
    model = build(result.architecture, problem.seed)
    weights = None if config.weights == "fresh" else result.weights
    if weights is None and kept:
        weights = inherited(problem, result.architecture, channel_importance(problem, config.ranking))
    if weights is None:
        return model, problem.final
    model.load_state_dict(dict(weights))
    settings = problem.final if problem.finetuning is None else problem.finetuning(result.finetuning)
    if settings.epochs == 0:  # it is the result as it is: an epoch that changes no weights judges it
        settings = replace(settings, epochs=1, lr_at=lambda step, per_epoch: 0.0)
    return model, settings


def _score_of(history: Sequence[EpochRecord], better: str) -> float | None:
    """The last validation metric, else the training loss with the sign that makes it comparable; None: no number."""
    last = history[-1]
    found = last.validation_metric
    if found is None and last.loss is not None:
        found = -last.loss if better == "higher" else last.loss
    return found if found is not None and math.isfinite(found) else None


METHOD = Method(
    AutoConfig,
    search,
    depends_on=("train", "finetune", "evaluate"),
    sections=(race_section, growth_section, fit_section, descent_section, removal_section),
    lines=(race_line, growth_line, removal_line),
)
