"""The network that others of a run learn from, as `train.distill` names it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from compressor.errors import ModelError, RecipeError
from compressor.models import build, has_weights, network_with_weights, reference_architecture
from compressor.models.tasks import check_output
from compressor.models.weights_file import load_trained_, read_weights
from compressor.pipeline.context import RunContext
from compressor.pipeline.inherit import trained_weights
from compressor.pipeline.shipping import load_weights
from compressor.recipe.sections import WEIGHTS_FILES
from compressor.training.distillation import Teacher
from compressor.training.trainer import Trainer

REFERENCE = "reference"


def teacher_of(context: RunContext, trainer: Trainer) -> Teacher | None:
    """The teacher of the networks that are trained at the end of a run; None: the recipe has none.

    Args:
        context: of the run
        trainer: that trains with it

    Raises:
        ModelError: it cannot be built, comes without trained weights, or gives no logits of the data's shape
    """
    config = context.recipe.train.distill
    if config is None:
        return None
    model = _network(context, config.teacher).eval().requires_grad_(requires_grad=False)
    return Teacher(model.to(trainer.device), config.temperature, config.weight, config.layers, config.attention)


def check_teacher(context: RunContext, *, trained: bool) -> None:
    """Refuse a teacher that cannot teach, before anything slow begins.

    Args:
        context: of the run
        trained: whether the unscaled network has trained weights

    Raises:
        RecipeError: it is the unscaled network, which has none and is not trained in this run
        ModelError: see `teacher_of`
    """
    config = context.recipe.train.distill
    if config is None:
        return
    if config.teacher == REFERENCE:
        if not trained and REFERENCE not in context.recipe.baselines:
            raise RecipeError(
                "train.distill.teacher: reference, but the unscaled network has no trained weights (model.weights) and "
                "is not trained in this run; valid: add reference to baselines, or name a file or a network"
            )
        return
    data = context.data
    example = torch.zeros(2, *data.input_shape, dtype=torch.float32 if len(data.input_shape) > 1 else torch.int64)
    check_output(config.teacher, _network(context, config.teacher), data.classes, example.to("meta"), data.task)


def _network(context: RunContext, name: str) -> nn.Module:
    recipe, data = context.recipe, context.data
    if name == REFERENCE:
        reference = context.reference()
        folder = context.reference_folders.get(REFERENCE)
        if folder is not None:
            return load_weights(reference, folder / "weights.safetensors", recipe.seed)
        trained = trained_weights(recipe.model, reference, data, recipe.seed)
        assert trained is not None  # see `check_teacher`
        model = build(reference, recipe.seed)
        model.load_state_dict(dict(trained.tensors))
        return model
    if name.endswith(WEIGHTS_FILES):
        model = build(context.reference(), recipe.seed)
        if left := load_trained_(model, read_weights(Path(name)), name, data.classes):
            raise ModelError(f"train.distill.teacher: {name}: {left[0]} is for another number of classes")
        return model
    try:
        teacher = reference_architecture(name, {}, data.classes, data.input_shape)
    except ModelError as error:  # of a network, wherever it is named
        raise ModelError(str(error).replace("model.name: ", "train.distill.teacher: ", 1)) from error
    if not has_weights(teacher):
        raise ModelError(f"train.distill.teacher: {name} comes without trained weights, so it cannot teach")
    return network_with_weights(teacher, recipe.seed)
