"""A trained file that was measured above its limit is made smaller: a step or more of channels, trained weights kept.

Milliseconds of the shipped file are only known in the end. Where its interval does not lie within the limit, the
network is scaled down by as much as it is above, keeps the channels that rank best, is fine-tuned for a short time,
exported, and measured again; at most twice. What is in the run folder is replaced when the new file is complete: a run
that is interrupted has the old network or the new one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from compressor.costs.budget import amount
from compressor.costs.solver import Bounds
from compressor.errors import BudgetError, CompressorError, ModelError
from compressor.files import copy_atomic, write_atomic
from compressor.models.architecture import Architecture
from compressor.pipeline import run_folder
from compressor.pipeline.context import RunContext
from compressor.pipeline.limits import Limited, limited_costs
from compressor.pipeline.quantization_aware import retraining
from compressor.pipeline.records import ExportRecord, MendedRecord, Mending, TrainRecord, VerificationRecord
from compressor.pipeline.run_network import RunNetwork
from compressor.pipeline.settings import finetuning_settings
from compressor.pipeline.shipping import QAT_WEIGHTS, load_weights, ship
from compressor.pipeline.teacher import teacher_of
from compressor.recipe import costs
from compressor.search import Problem
from compressor.search.inherited import channel_importance, inherited
from compressor.search.scaling import scaled_widths
from compressor.training.checkpoint import load_tensors, save_tensors
from compressor.training.schedules import shortened

MOST = 2  # times that a network is made smaller
RECORD = "mended.json"
_SPARE = 0.99  # of what would just be within the limit: a measurement has its noise
_EPOCHS = 0.25  # of those of fine-tuning
_READY = "ready.json"  # in the folder of a network that is complete: what `RECORD` gets
_TRAINING = "training.safetensors"  # its checkpoint, which the run folder is not given


def finish_replacing(context: RunContext) -> None:
    """Put a complete smaller network in the place of the result, also where a killed process had begun to."""
    for folder in sorted(context.checkpoints.glob("mend-*")):
        if (folder / _READY).exists():
            _replace(context.out, folder)


def make_smaller(context: RunContext, network: RunNetwork, above: Mapping[str, float]) -> bool:
    """Replace the result by a smaller network.

    Args:
        context: of the run
        network: the result, exported
        above: {cost name: what was measured}, of the limits that are not met

    Returns:
        whether there is a new file to measure; why not, if it was not for having been done often enough, is recorded
    """
    done = mendings(context.out)
    if len(done) >= MOST or any(one.refused for one in done):
        return False
    limits = {name: context.searched.limits[name] for name in above}
    folder = context.checkpoints / f"mend-{len(done) + 1}"
    entry = Mending(measured=dict(above), limits=limits)
    try:
        smaller, epochs = _smaller(context, network, {name: limits[name] / above[name] for name in above}, folder)
    except CompressorError as error:  # the network that there is can ship, though it misses its budget
        refused = entry.model_copy(update={"refused": str(error)})
        context.show(f"the result cannot be made smaller: {error}")
        MendedRecord([*done, refused]).write(context.out / RECORD)
        run_folder.seal(context.out, "export")
        return False
    old, new = network.architecture.widths, smaller.widths
    changed = {name: (old[name], new[name]) for name in new if old[name] != new[name]}
    entry = entry.model_copy(update={"widths": changed, "epochs": epochs})
    MendedRecord([*done, entry]).write(folder / _READY)
    _replace(context.out, folder)
    return True


def mendings(out: Path) -> list[Mending]:
    """What was done to the result of a run since it was measured above its limit."""
    return MendedRecord.read(out / RECORD).root if (out / RECORD).exists() else []


def mended_remarks(out: Path) -> list[str]:
    """What the user must know of it, a sentence for each time."""
    found = []
    for one in mendings(out):
        parts = [f"{amount(name, value)} of {amount(name, one.limits[name])}" for name, value in one.measured.items()]
        text = f"its file was measured at {' and '.join(parts)}"
        if one.refused:
            found.append(f"{text}, and it could not be made smaller: {one.refused}")
            continue
        widths = ", ".join(f"{name} {old} to {new}" for name, (old, new) in one.widths.items())
        trained = (
            f"fine-tuned for {one.epochs} epoch" + ("" if one.epochs == 1 else "s") if one.epochs else "not fine-tuned"
        )
        found.append(f"{text}, so it was made smaller ({widths}) and {trained}")
    return found


def _smaller(
    context: RunContext, network: RunNetwork, shares: Mapping[str, float], folder: Path
) -> tuple[Architecture, int]:
    """Leave a complete smaller network in a folder; returns it, and the epochs that it was fine-tuned for.

    Raises:
        ModelError: it has stacked layers, its widths may not fall, or the smaller network cannot have its weights
        TrainingError: fine-tuning diverged
    """
    if network.architecture.stacks:
        raise ModelError("channels of stacked layers cannot be taken out of trained weights")
    limited = limited_costs(context.cost_context(context.reference()))
    try:
        smaller = _scaled_down(network.architecture, limited, shares)
    except BudgetError:
        smaller = None
    if smaller is None:
        raise ModelError("no narrower network that the widths section of the recipe allows costs so much less")
    return smaller, _make(context, network, smaller, limited, folder)


def _scaled_down(own: Architecture, limited: Limited, shares: Mapping[str, float]) -> Architecture | None:
    """The largest network of no wider groups whose costs are these shares of the network's; None if it is the same."""
    bounds, widths = limited.bounds, np.array(list(own.widths.values()))
    least = np.minimum(bounds.least, widths)
    most = np.where(bounds.frozen, widths, np.maximum(widths // bounds.multiple * bounds.multiple, least))
    limits = {name: _SPARE * min(1.0, share) * float(limited.costs[name](own)) for name, share in shares.items()}
    narrower = Bounds(least, most, bounds.multiple)
    found = own.with_widths(
        dict(zip(own.widths, scaled_widths(own, limited.costs, limits, narrower).widths, strict=True))
    )
    return None if found == own else found


def _make(context: RunContext, network: RunNetwork, smaller: Architecture, limited: Limited, folder: Path) -> int:
    """Leave a complete smaller network in a folder; returns the epochs that it was fine-tuned for."""
    recipe, own = context.recipe, network.architecture
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_tensors(network.folder / "weights.safetensors")
    problem = Problem(
        reference=own,
        budget=limited.budget,
        costs=limited.costs,
        trainer=context.trainer(own, narrower=True),
        seed=recipe.seed,
        given=weights,
        engine=recipe.widths.engine,
    )
    context.show("making the result smaller: it was measured above its limit")
    kept = inherited(problem, smaller, channel_importance(problem, getattr(recipe.search, "ranking", "taylor")))
    note = {"architecture": smaller.to_json()}
    start = folder / "start.safetensors"
    save_tensors(start, kept, note)
    trainer = context.trainer(smaller)
    if network.distilled:
        trainer = replace(trainer, teacher=teacher_of(context, trainer))
    model = trainer.prepare(load_weights(smaller, start, recipe.seed))
    settings = finetuning_settings(recipe, network.finetuning)
    if not settings.epochs and recipe.finetune.epochs is None:  # what a method needs after its search is not enough now
        settings = finetuning_settings(recipe)
    history = []
    if settings.epochs:
        history = trainer.fit(
            model,
            shortened(settings, max(1, round(_EPOCHS * settings.epochs))),
            seed=recipe.seed,
            label="fine-tuning the smaller result",
            checkpoint=folder / _TRAINING,
        )
    before = TrainRecord.read(network.folder / "training.json").root
    after = [replace(epoch, epoch=len(before) + epoch.epoch) for epoch in history]
    TrainRecord.of([*before, *after]).write(folder / "training.json")
    save_tensors(folder / "weights.safetensors", model.state_dict(), note)
    write_atomic(folder / "architecture.json", smaller.to_json())
    shipped = ExportRecord.read(network.folder / "export.json").precision
    own_copy = replace(network, folder=folder, architecture=smaller)
    ship(
        network.name,
        folder,
        architecture=smaller,
        recipe=recipe,
        trainer=context.trainer(),
        limits=context.searched.limits,
        precision=shipped.name,  # in which the networks beside it are, too
        before=shipped,
        retrain=retraining(context, own_copy, f"-{folder.name}") if shipped.trained_on else None,
    )
    return len(history)


def _replace(out: Path, folder: Path) -> None:
    """Copy what a complete network consists of; doing it again after a crash does no harm."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (_READY, _TRAINING)]
    names = [path.relative_to(folder).as_posix() for path in files]
    verified = [f"{cost.record}.json" for cost in costs().values() if cost.record]
    run_folder.unseal(out, *names, RECORD, "latency.json", *verified)  # they change, and a crash may come between
    (out / "latency.json").unlink(missing_ok=True)
    for path in (out / name for name in verified):
        if path.exists():  # the other networks are what they were
            others = {name: one for name, one in VerificationRecord.read(path).root.items() if name != "result"}
            VerificationRecord(others).write(path)
    if QAT_WEIGHTS not in names:
        run_folder.unseal(out, QAT_WEIGHTS)
        (out / QAT_WEIGHTS).unlink(missing_ok=True)
    for name, path in zip(names, files, strict=True):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        copy_atomic(path, out / name)
    copy_atomic(folder / _READY, out / RECORD)
    for stage in ("search", "train", "export"):
        run_folder.seal(out, stage)
    shutil.rmtree(folder)
