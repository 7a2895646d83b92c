"""Training a network on with the rounding of its file's precision, where that would cost it too much accuracy."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from compressor.errors import TrainingError
from compressor.pipeline.context import RunContext
from compressor.pipeline.file_maker import Retrain
from compressor.pipeline.run_network import RunNetwork
from compressor.pipeline.settings import final_settings
from compressor.pipeline.shipping import load_weights
from compressor.pipeline.teacher import teacher_of
from compressor.recipe import Recipe
from compressor.recipe.precision import precisions
from compressor.training.schedules import schedule
from compressor.training.trainer import Settings

_SHARE = 0.1  # of the learning rate that a network was trained with: it is near where it should be


def retraining(context: RunContext, network: RunNetwork, again: str = "") -> Retrain | None:
    """What trains a network on as `export.qat_epochs` says; None: the recipe, or the precision, has nothing of it.

    An interrupted training goes on from its checkpoint; one that diverged leaves none.

    Args:
        context: of the run
        network: trained
        again: tells the checkpoint from that of another network of this name
    """
    recipe = context.recipe
    simulated = precisions()[recipe.export.precision].simulated
    if not recipe.export.qat_epochs or simulated is None:
        return None

    def retrain() -> nn.Module:
        trainer = context.trainer(network.architecture)
        if network.distilled:
            trainer = replace(trainer, teacher=teacher_of(context, trainer))
        trained = load_weights(network.architecture, network.folder / "weights.safetensors", recipe.seed)
        model = trainer.prepare(trained)
        name = f"qat-{network.name}{again}-{recipe.export.qat_epochs}.safetensors"
        checkpoint = context.checkpoints / name
        try:
            with simulated(model):
                trainer.fit(
                    model,
                    settings_of(recipe),
                    seed=recipe.seed,
                    label=f"quantisation-aware training of {network.name}",
                    checkpoint=checkpoint,
                )
        except TrainingError:
            checkpoint.unlink(missing_ok=True)
            raise
        return model.cpu().eval()

    return retrain


def settings_of(recipe: Recipe) -> Settings:
    """As the recipe's `train` section says, for `export.qat_epochs` at a tenth of the learning rate, without averaging.

    The average of weights that were rounded each in their way is near no value that integers have; and what is scored
    after an epoch is what the file may lose: the last one counts, as its learning rate is the smallest.
    """
    epochs, config = recipe.export.qat_epochs, recipe.train
    lr_at = schedule("onecycle", _SHARE * config.lr, epochs)
    return replace(final_settings(config), epochs=epochs, lr_at=lr_at, average=0.0, keep="last")
