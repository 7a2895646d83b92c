"""From a recipe's `train` section to how a network is trained."""

from __future__ import annotations

from dataclasses import replace

from compressor.recipe import TrainConfig
from compressor.search import Finetuning
from compressor.training.trainer import Settings, schedule


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
    )


def finetuning_settings(settings: Settings, finetuning: Finetuning) -> Settings:
    """How weights that a search hands over are trained on: as from scratch, but so long and at a constant rate."""
    return replace(settings, epochs=finetuning.epochs, lr_at=lambda step, per_epoch: finetuning.lr)
