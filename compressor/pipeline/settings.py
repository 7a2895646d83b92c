"""From a recipe's `train` section to how a network is trained."""

from __future__ import annotations

from dataclasses import replace

from compressor.recipe import Recipe, TrainConfig
from compressor.search import Finetuning
from compressor.training.schedules import schedule
from compressor.training.trainer import Settings


def final_settings(config: TrainConfig) -> Settings:
    """How a recipe's `train` section trains the result and its references."""
    smooth = config.schedule == "onecycle"
    return Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr_at=schedule(config.schedule, config.lr, config.epochs),
        momentum=config.momentum if config.momentum is not None else (0.9 if smooth else 0.5),
        weight_decay=config.weight_decay,
        nesterov=smooth,
        label_smoothing=config.label_smoothing,
        keep=config.keep,
        optimizer=config.optimizer,
        average=config.ema,
        clip=config.clip,
        accumulate=config.accumulate,
    )


def finetuning_settings(recipe: Recipe, finetuning: Finetuning | None = None) -> Settings:
    """How trained weights are trained on: as a recipe's `finetune` section says, and for the rest its `train` section.

    Args:
        recipe: of the run
        finetuning: what the search method says of its weights: how long, and at which constant rate, where the recipe's
            section leaves that open
    """
    own = {key: value for key, value in recipe.finetune if value is not None}
    if finetuning is None:
        return final_settings(recipe.train.model_copy(update=own))
    epochs = own.get("epochs", finetuning.epochs)
    settings = final_settings(recipe.train.model_copy(update={**own, "epochs": max(1, epochs)}))
    if {"lr", "schedule"} & set(own):  # the recipe knows better
        return replace(settings, epochs=epochs)
    return replace(settings, epochs=epochs, lr_at=lambda step, per_epoch: finetuning.lr)
