"""Search: from recipe and data to architectures, of the result and of the networks beside it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from compressor.errors import ModelError, RecipeError, RunError
from compressor.exporters import exporters
from compressor.files import copy_atomic, write_atomic
from compressor.models import check_reference, check_task, remarks
from compressor.models.architecture import Architecture
from compressor.models.examples import given_example
from compressor.pipeline.context import RunContext, identity
from compressor.pipeline.inherit import Trained, trained_weights
from compressor.pipeline.limits import Limited, limited_costs
from compressor.pipeline.records import InputsRecord, SearchRecord
from compressor.pipeline.run_network import Begin
from compressor.pipeline.settings import final_settings, finetuning_settings
from compressor.pipeline.teacher import check_teacher
from compressor.pipeline.trial import try_shipping
from compressor.recipe import Recipe, costs, method_of, methods
from compressor.recipe.stored import problem_of
from compressor.search import Problem, SearchResult
from compressor.search import search as run_method
from compressor.search.calibration import calibrated
from compressor.search.importance import Importance
from compressor.search.inherited import channel_importance, inherited
from compressor.search.methods.uniform import UniformConfig
from compressor.training.checkpoint import save_tensors

_UNDISTILLED = "undistilled"
_NAMED = 3  # layers that a remark names


def search(context: RunContext) -> None:
    """Find the architectures; leaves search.json, architecture.json and, where weights are given, start.safetensors.

    Raises:
        Unfinished: the search was paused, and has a network
        CompressorError: see compressor.errors
    """
    recipe = context.recipe
    references = {name: folder / "architecture.json" for name, folder in context.reference_folders.items()}
    found_before = _found(context, "result", context.out)
    if found_before and all(_found(context, name, path.parent) for name, path in references.items()):
        return
    prepared = prepare(context)
    unscaled, limited, trained, problem = prepared.unscaled, prepared.limited, prepared.trained, prepared.problem
    if not found_before:
        try_shipping(context, problem)
    starts = _Starts(context, problem, trained)
    again = references.pop(_UNDISTILLED, None)
    for name, path in references.items():
        scaled = unscaled if name == "reference" else calibrated(run_method, problem, UniformConfig()).architecture
        starts.write(name, path.parent, scaled)
        write_atomic(path, scaled.to_json())
    if not found_before:
        found = calibrated(context.shared.search, problem, recipe.search)
        _keep(context, starts, limited, found)
    if again is not None:
        _repeat_result(context, again.parent)


@dataclass(frozen=True)
class Prepared:
    """What a search begins with.

    Attributes:
        unscaled: the network that is scaled
        limited: costs, limits and what the unscaled network has of them
        trained: its weights, if there are some
        problem: for the search method
    """

    unscaled: Architecture
    limited: Limited
    trained: Trained | None
    problem: Problem


def prepare(context: RunContext) -> Prepared:
    """Find out what a recipe asks for, and refuse what cannot be; measures the unscaled network where that takes it.

    Raises:
        CompressorError: see compressor.errors
    """
    recipe = context.recipe
    exporters(recipe.export.also)  # now, not after hours of training
    check_reference(recipe.model.name, recipe.model.options)
    unscaled = context.reference()
    check_task(unscaled, context.data.task)
    trained = trained_weights(recipe.model, unscaled, context.data, recipe.seed)
    _check_kept(recipe, trained)
    check_teacher(context, trained=trained is not None)
    limited = limited_costs(context.cost_context(unscaled))
    if needless := limited.budget.needless(limited.own):
        context.show(needless)
    for remark in _remarks(context, unscaled):
        context.show(remark)
    return Prepared(unscaled, limited, trained, _problem(context, unscaled, limited, trained))


def _remarks(context: RunContext, unscaled: Architecture) -> list[str]:
    """What the user must know of how the network and the data are taken."""
    return [*context.data.remarks, *remarks(unscaled)]


def _check_kept(recipe: Recipe, trained: Trained | None) -> None:
    """Refuse to keep trained weights where there are none.

    Raises:
        RecipeError: the recipe asks for it
    """
    known, candidates = methods(), recipe.candidates
    trains_first = method_of(recipe.search).trains_first or (
        bool(candidates) and all(known[name].trains_first for name in candidates)
    )
    if _weights(recipe) == "kept" and trained is None and not trains_first:
        raise RecipeError(
            f"search.weights: kept, but model.weights: {recipe.model.weights} of {recipe.model.name} gives no trained "
            "ones; valid: auto, fresh, or a file in model.weights"
        )


def _weights(recipe: Recipe) -> str:
    """What `search.weights` says; a plug-in's section may lack it."""
    return getattr(recipe.search, "weights", "auto")


def begins_with(recipe: Recipe, problem: Problem, trained: Trained | None) -> tuple[Begin, Begin]:
    """How scaled networks begin, unless the search trains them or no channels can be kept, and the unscaled one."""
    scaled: Begin = "fresh" if problem.given is None or _weights(recipe) == "fresh" else "kept"
    if trained is None or recipe.train.reference == "fresh":
        return scaled, "fresh"
    return scaled, "kept" if trained.fresh else "given"


class _Starts:
    """With which weights the networks of a run begin.

    Args:
        context: of the run
        problem: of the search
        trained: the weights of the unscaled network, if there are some

    Attributes:
        problem: as given
        begins: {network: how it begins}, of those that were written
    """

    def __init__(self, context: RunContext, problem: Problem, trained: Trained | None) -> None:
        self.context, self.problem, self._trained = context, problem, trained
        self.begins: dict[str, Begin] = {}
        self._refused: list[str] = []

    def write(self, name: str, folder: Path, architecture: Architecture) -> None:
        """Decide how a network begins, and write the weights that it begins with, if they are not fresh."""
        trained = self._trained
        scaled, unscaled = begins_with(self.context.recipe, self.problem, trained)
        begins = unscaled if name == "reference" else scaled
        weights: Mapping[str, torch.Tensor] | None = None
        if name == "reference" and trained is not None:
            weights = trained.tensors
        elif begins == "kept":
            try:
                weights = inherited(self.problem, architecture, self._importance(architecture))
            except ModelError as error:
                if _weights(self.context.recipe) == "kept":
                    raise
                self._refused.append(f"{name} begins with fresh weights: {error}")
                begins = "fresh"
        if begins != "fresh" and weights is not None:
            self.hand_over(folder, architecture, weights)
        self.begins[name] = begins

    def hand_over(self, folder: Path, architecture: Architecture, weights: Mapping[str, torch.Tensor]) -> None:
        """Write the weights that a network begins with."""
        save_tensors(folder / "start.safetensors", weights, {"architecture": architecture.to_json()})

    def _importance(self, architecture: Architecture) -> Importance:
        return {} if architecture == self.problem.reference else self._ranked

    @functools.cached_property
    def _ranked(self) -> Importance:
        return channel_importance(self.problem, getattr(self.context.recipe.search, "ranking", "taylor"))

    @property
    def remarks(self) -> list[str]:
        """What the user must know of it, a sentence each."""
        if self._trained is None:
            return []
        recipe, source = self.context.recipe, self._trained.source
        found = [f"the unscaled network is {source} as it is, without further training"]
        if self._trained.fresh:
            new = ", ".join(self._trained.fresh[:_NAMED]) + (" …" if len(self._trained.fresh) > _NAMED else "")
            found = [f"{source} has no trained weights for {new}, so the unscaled network is fine-tuned, too"]
        elif recipe.train.reference == "fresh":
            found = []
        if any(begins == "kept" for name, begins in self.begins.items() if name != "reference"):
            ranking = getattr(recipe.search, "ranking", "taylor")
            return [*found, f"scaled networks keep the channels of {source} that rank best ({ranking})", *self._refused]
        if self.begins.get("result") in ("fresh", "trained") and not self._refused:
            found.append(f"networks but the unscaled one begin with fresh weights, not with those of {source}")
        return [*found, *self._refused]


def _problem(context: RunContext, unscaled: Architecture, limited: Limited, trained: Trained | None) -> Problem:
    recipe = context.recipe
    timed = any("bench" in costs()[name].depends_on for name in limited.budget.limits)
    return Problem(
        reference=unscaled,
        budget=limited.budget,
        costs=limited.costs,
        trainer=context.trainer(unscaled, narrower=True),
        seed=recipe.seed,
        work=context.shared.work or context.checkpoints / "search",
        bounds=limited.bounds,
        final=final_settings(recipe.train),
        finetuning=functools.partial(finetuning_settings, recipe),
        width=recipe.model.width,
        given=trained.tensors if trained is not None and method_of(recipe.search).keeps_weights else None,
        engine=recipe.widths.engine,
        trainer_for=context.trainer,
        alone=recipe.train.distill is None,
        # Under a limit of time all networks found are as fast.
        side_by_side=None if timed else lambda networks: context.runtime(unscaled).side_by_side(networks),
    )


def _keep(context: RunContext, starts: _Starts, limited: Limited, found: SearchResult) -> None:
    """Write what the search found; the architecture comes last: then the stage is done."""
    problem = starts.problem
    cut = method_of(context.recipe.search).keeps_weights and not found.trained
    if found.weights is None or (cut and _weights(context.recipe) == "fresh"):
        starts.write("result", context.out, found.architecture)
        found = replace(found, finetuning=None)
    else:
        starts.hand_over(context.out, found.architecture, found.weights)
        starts.begins["result"] = "trained" if found.finished else "found"
    result = {name: float(limited.costs[name](found.architecture)) for name in limited.budget.limits}
    record = _record(
        context,
        trace=dict(found.trace),
        limits=dict(limited.budget.limits),
        one_channel=dict(found.one_channel),
        binding=found.binding,
        note=limited.budget.needless(limited.own, result),
        dataset=context.data.describe(),
        images=identity(context.data),
        reference_widths=dict(problem.reference.widths),
        inputs=None if (given := given_example(problem.reference.model)) is None else InputsRecord.of(given),
        begins=_with_undistilled(context, starts.begins),
        finetuning=found.finetuning,
        training=list(found.history),
        round_to=problem.bounds.multiple.tolist(),
        remarks=[*_remarks(context, problem.reference), *starts.remarks],
        **_of_costs(limited.costs),
    )
    record.write(context.out / "search.json")
    write_atomic(context.out / "architecture.json", found.architecture.to_json())
    shutil.rmtree(context.checkpoints / "search", ignore_errors=True)
    shutil.rmtree(context.current, ignore_errors=True)


def _with_undistilled(context: RunContext, begins: Mapping[str, Begin]) -> dict[str, Begin]:
    """How networks begin, with the one that begins as the result does."""
    more = {_UNDISTILLED: begins["result"]} if _UNDISTILLED in context.reference_folders else {}
    return {**begins, **more}


def _repeat_result(context: RunContext, folder: Path) -> None:
    """Let the network that is trained without a teacher begin as the result does."""
    for name in ("start.safetensors", "architecture.json"):
        if (source := context.out / name).exists():
            copy_atomic(source, folder / name)


def _record(context: RunContext, **values: Any) -> SearchRecord:
    """What search.json will hold.

    Raises:
        RunError: the search method gives something that it cannot hold
    """
    try:
        return SearchRecord.model_validate(values)
    except ValidationError as error:
        raise RunError(f"search.method: {context.recipe.search.method} gives {problem_of(error)}") from error


def _of_costs(evaluators: Mapping[str, Any]) -> dict[str, Any]:
    """What those costs have kept that were limited, as JSON values; None of the others."""
    known = {cost.search_record: name for name, cost in costs().items() if cost.search_record}
    return {key: evaluators[name].to_json() if name in evaluators else None for key, name in known.items()}


def _found(context: RunContext, name: str, folder: Path) -> bool:
    """Whether a network of a finished search is there, with the weights that it begins with."""
    if not all(path.exists() for path in (context.out / "search.json", folder / "architecture.json")):
        return False
    return context.searched.begins.get(name) == "fresh" or (folder / "start.safetensors").exists()
