"""Final training: of the result and of the networks beside it, from scratch or from weights that they begin with."""

from __future__ import annotations

from dataclasses import replace

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
from compressor.training.checkpoint import save_tensors


def train(context: RunContext) -> None:
    """Train every network; leaves training.json and weights.safetensors of each.

    Raises:
        Paused: training was paused
        TrainingError: it diverged
    """
    networks = sorted(context.networks(), key=lambda network: network.distilled)  # the teacher may be among the others
    if not all(network.trained for network in networks):
        try_form(context, next(network.architecture for network in networks if network.name == "result"))
    for place, network in enumerate(networks):
        if network.trained:
            continue
        twin = next((n for n in networks[:place] if _alike(n) == _alike(network)), None)
        if twin is None:
            train_network(context, network)
        else:
            for name in ("training.json", "weights.safetensors"):  # same network, seed and training: the same weights
                copy_atomic(twin.folder / name, network.folder / name)
        run_folder.seal(context.out, "train")  # now: others may take hours


def _alike(network: RunNetwork) -> tuple[object, ...]:
    """What the weights after training depend on, within a run."""
    begins = "fresh" if network.begins == "trained" else network.begins
    return network.architecture, begins, network.finetuning, network.distilled


def train_network(context: RunContext, network: RunNetwork) -> None:
    """Train one network."""
    recipe = context.recipe
    fresh, start = network.begins == "fresh", network.folder / "start.safetensors"
    settings = final_settings(recipe.train) if fresh else finetuning_settings(recipe, network.finetuning)
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
