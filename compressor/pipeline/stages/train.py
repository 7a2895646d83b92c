"""Final training: of the result and of the networks beside it, from scratch or from weights that they begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compressor.costs import params_macs
from compressor.errors import TrainingError
from compressor.files import copy_atomic
from compressor.models import build
from compressor.pipeline import run_folder
from compressor.pipeline.context import RunContext
from compressor.pipeline.records import TrainRecord
from compressor.pipeline.run_network import RunNetwork
from compressor.pipeline.settings import final_settings, finetuning_settings
from compressor.pipeline.shipping import load_weights
from compressor.pipeline.teacher import teacher_of
from compressor.pipeline.trial import try_form
from compressor.recipe import Recipe
from compressor.training.checkpoint import save_tensors
from compressor.training.trainer import Settings

# What a sample takes beside its multiply-adds, in such: a guess, for the time that is left of training.
_BESIDE = 4e6


def train(context: RunContext) -> None:
    """Train every network; leaves training.json and weights.safetensors of each.

    Raises:
        Paused: training was paused
        TrainingError: it diverged
    """
    networks = sorted(context.networks(), key=lambda network: network.distilled)  # the teacher may be among the others
    if not all(network.trained for network in networks):
        try_form(context, next(network.architecture for network in networks if network.name == "result"))
    efforts = _efforts(context.recipe, networks)
    for place, network in enumerate(networks):
        if network.trained:
            continue
        twin = next((n for n in networks[:place] if _alike(n) == _alike(network)), None)
        if twin is None:
            context.span = sum(efforts[:place]), efforts[place]
            train_network(context, network)
        else:
            for name in ("training.json", "weights.safetensors"):  # same network, seed and training: the same weights
                copy_atomic(twin.folder / name, network.folder / name)
        run_folder.seal(context.out, "train")  # now: others may take hours


def _efforts(recipe: Recipe, networks: Sequence[RunNetwork]) -> list[float]:
    """The share of every network in all that is trained here, by epochs and multiply-adds; alike where not known."""
    found = []
    for place, network in enumerate(networks):
        epochs = _settings(recipe, network).epochs
        if epochs is None:
            return [1 / len(networks)] * len(networks)
        twin = any(_alike(other) == _alike(network) for other in networks[:place])
        idle = twin or network.trained or network.begins in ("given", "trained")
        each = params_macs.macs(network.architecture) + _BESIDE
        if network.distilled:  # its teacher goes forward alone, which is a third of a step
            each += max(params_macs.macs(other.architecture) for other in networks) / 3
        found.append(0.0 if idle else epochs * each)
    whole = sum(found) or 1.0
    return [effort / whole for effort in found]


def _settings(recipe: Recipe, network: RunNetwork) -> Settings:
    fresh = network.begins == "fresh"
    return final_settings(recipe.train) if fresh else finetuning_settings(recipe, network.finetuning)


def _alike(network: RunNetwork) -> tuple[object, ...]:
    """What the weights after training depend on, within a run."""
    begins = "fresh" if network.begins == "trained" else network.begins
    return network.architecture, begins, network.finetuning, network.distilled


def train_network(context: RunContext, network: RunNetwork) -> None:
    """Train one network."""
    recipe = context.recipe
    fresh, start = network.begins == "fresh", network.folder / "start.safetensors"
    settings = _settings(recipe, network)
    if network.begins in ("given", "trained") or settings.epochs == 0:
        copy_atomic(start, network.folder / "weights.safetensors")
        history = context.searched.training if network.begins in ("found", "trained") else []
        TrainRecord.of(history).write(network.folder / "training.json")
        return
    trainer = context.trainer(network.architecture)
    if network.distilled:
        trainer = replace(trainer, teacher=teacher_of(context, trainer))
    architecture, seed = network.architecture, recipe.seed
    model = trainer.prepare(build(architecture, seed) if fresh else load_weights(architecture, start, seed))
    checkpoint = context.checkpoints / f"train-{network.name}.safetensors"
    try:
        label = f"{'training' if fresh else 'fine-tuning'} {network.name}"
        history = trainer.fit(model, settings, seed=recipe.seed, label=label, checkpoint=checkpoint)
    except TrainingError:
        checkpoint.unlink(missing_ok=True)  # it leads to the same end; train.lr may be changed now
        raise
    TrainRecord.of(history).write(network.folder / "training.json")
    note = {"architecture": network.architecture.to_json()}
    save_tensors(network.folder / "weights.safetensors", model.state_dict(), note)
