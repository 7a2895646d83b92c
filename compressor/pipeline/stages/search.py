"""Search: from recipe and data to architectures, of the result and of the networks beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compressor.errors import RunError
from compressor.exporters import exporters
from compressor.files import write_atomic
from compressor.models import check_reference, check_task, has_weights, remarks
from compressor.models.architecture import Architecture
from compressor.pipeline.calibration import calibrated
from compressor.pipeline.context import RunContext, identity
from compressor.pipeline.inherit import given_weights, inherited
from compressor.pipeline.limits import Limited, limited_costs
from compressor.pipeline.records import SearchRecord
from compressor.pipeline.settings import final_settings
from compressor.pipeline.trial import try_shipping
from compressor.recipe import costs
from compressor.recipe.stored import problem_of
from compressor.search import Problem, SearchResult
from compressor.search import search as run_method
from compressor.search.methods.uniform import UniformConfig
from compressor.training.checkpoint import save_tensors


def search(context: RunContext) -> None:
    """Find the architectures; leaves search.json, architecture.json and, where weights are given, start.safetensors.

    Raises:
        Unfinished: the search was paused, and has a network
        CompressorError: see compressor.errors
    """
    recipe = context.recipe
    references = {name: folder / "architecture.json" for name, folder in context.reference_folders.items()}
    found_before = _found_before(context)
    if found_before and all(path.exists() for path in references.values()):
        return
    exporters(recipe.export.also)  # now, not after hours of training
    check_reference(recipe.model.name, recipe.model.options)
    unscaled = context.reference()
    check_task(unscaled, context.data.task)
    limited = limited_costs(context.cost_context(unscaled))
    if needless := limited.budget.needless(limited.own):
        context.show(needless)
    for remark in _remarks(context, unscaled):
        context.show(remark)
    problem = _problem(context, unscaled, limited)
    if not found_before:
        try_shipping(context, problem)
    for name, path in references.items():
        scaled = unscaled if name == "reference" else calibrated(run_method, problem, UniformConfig()).architecture
        _keep_start(context, path.parent, problem, scaled)
        write_atomic(path, scaled.to_json())
    if not found_before:
        found = calibrated(context.shared.search, problem, recipe.search)
        _keep(context, problem, limited, found)


def _remarks(context: RunContext, unscaled: Architecture) -> list[str]:
    """What the user must know of how the network and the data are taken."""
    found = [*context.data.remarks, *remarks(unscaled)]
    if has_weights(unscaled) and not context.recipe.model.inherits:
        name = unscaled.model
        found.append(
            f"the weights that {name} comes with are not used: every network is trained from scratch (model.weights: "
            "given keeps them)"
        )
    return found


def _problem(context: RunContext, unscaled: Architecture, limited: Limited) -> Problem:
    recipe = context.recipe
    return Problem(
        reference=unscaled,
        budget=limited.budget,
        costs=limited.costs,
        trainer=context.trainer(unscaled, narrower=True),
        seed=recipe.seed,
        work=context.shared.work or context.checkpoints / "search",
        bounds=limited.bounds,
        final=final_settings(recipe.train),
        width=recipe.model.width,
        given=given_weights(unscaled, context.data, recipe.seed) if recipe.model.inherits else None,
        engine=recipe.widths.engine,
    )


def _keep(context: RunContext, problem: Problem, limited: Limited, found: SearchResult) -> None:
    """Write what the search found; the architecture comes last: then the stage is done."""
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
        finetuning=found.finetuning,
        training=list(found.history),
        round_to=problem.bounds.multiple.tolist(),
        remarks=_remarks(context, problem.reference),
        **_of_costs(limited.costs),
    )
    record.write(context.out / "search.json")
    if found.weights is None:
        _keep_start(context, context.out, problem, found.architecture)
    else:
        note = {"architecture": found.architecture.to_json()}
        save_tensors(context.out / "start.safetensors", found.weights, note)
    write_atomic(context.out / "architecture.json", found.architecture.to_json())
    shutil.rmtree(context.checkpoints / "search", ignore_errors=True)
    shutil.rmtree(context.current, ignore_errors=True)


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


def _keep_start(context: RunContext, folder: Path, problem: Problem, architecture: Architecture) -> None:
    """Write the weights that a network of this run begins with, if the unscaled one comes with some."""
    if problem.given is not None:
        weights = inherited(problem.reference, problem.given, architecture, context.recipe.seed, problem.engine)
        save_tensors(folder / "start.safetensors", weights, {"architecture": architecture.to_json()})


def _found_before(context: RunContext) -> bool:
    if not all((context.out / name).exists() for name in ("search.json", "architecture.json")):
        return False
    begins = context.searched.finetuning is not None or context.recipe.model.inherits
    return not begins or (context.out / "start.safetensors").exists()
