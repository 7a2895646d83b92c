"""What a task asks of a network's output."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compressor.dependency.inputs import AnyInputs, leaves, run, zeros_of
from compressor.errors import ModelError
from compressor.models.unfilled import filled
from compressor.models.zoo import Shape
from compressor.user_functions import cause_of

# (shape of the inputs, classes) -> shape of the logits
_LOGITS: dict[str, Callable[[Shape, int], Shape]] = {
    "classification": lambda inputs, classes: (inputs[0], classes),
    "segmentation": lambda inputs, classes: (inputs[0], classes, *inputs[2:]),
    "language": lambda inputs, classes: (*inputs, classes),
}


def forward(model: nn.Module, example: AnyInputs, *, training: bool) -> Any:
    """Run a network where it costs nothing, on the meta device; with values, if it looks at them.

    Args:
        model: left as it is
        example: inputs; on the meta device zeros stand for them
        training: in which mode

    Raises:
        Exception: what the network's own code raises with values
    """
    try:
        with torch.no_grad():
            return run(copy.deepcopy(model).to("meta").train(training), example.to("meta").clone())
    except Exception:
        real = copy.deepcopy(model) if all(not tensor.is_meta for tensor in model.parameters()) else filled(model)
        inputs = zeros_of(example, len(example)) if example.is_meta else example.cpu().clone()
        with torch.no_grad():
            return run(real.cpu().train(training), inputs)


def check_output(name: str, model: nn.Module, classes: int, example: AnyInputs, task: str) -> None:
    """Refuse a network whose output is not what a task needs.

    Args:
        name: of the network
        model: on the meta device
        classes: of the task
        example: inputs, on the meta device
        task: classification: logits (N, classes); segmentation: (N, classes, H, W) with the images' H and W;
            language: (N, T, classes)

    Raises:
        ModelError: another output, or the network does not run
    """
    try:
        output = forward(model, example, training=False)
    except Exception as error:  # the network's own code decides what it raises
        raise ModelError(f"model.name: {name} does not run: {cause_of(error)}") from error
    made = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    needed = _LOGITS[task](tuple(example.shape), classes)
    if made != needed:
        raise ModelError(
            f"model.name: {name} gives {made} for inputs of shape {tuple(example.shape)}, "
            f"but the data's task is {task}, which needs logits of shape {needed}"
        )


def check_runs(name: str, model: nn.Module, example: AnyInputs) -> None:
    """Refuse a network that does not run on its own inputs in evaluation, or gives no tensor.

    Raises:
        ModelError: it does not, or there is none
    """
    try:
        output = forward(model, example, training=False)
    except Exception as error:  # the network's own code decides what it raises
        raise ModelError(f"model.name: {name} does not run at these widths: {cause_of(error)}") from error
    if not leaves(output):
        raise ModelError(f"model.name: {name} gives a {type(output).__name__} without a tensor in it")


def check_logits(name: str, model: nn.Module, classes: int, example: AnyInputs) -> None:
    """Refuse a network that gives no task's logits (see `check_output`), in training as in evaluation.

    In training there may be more of them, from auxiliary heads, behind the network's own (`compressor.training`).

    Raises:
        ModelError: another output, or the network does not run
    """
    inputs = tuple(example.shape)
    tasks = ("classification", "language") if len(inputs) == 2 else ("classification", "segmentation")
    allowed = [_LOGITS[task](inputs, classes) for task in tasks]
    for training in (True, False):
        try:
            output = forward(model, example, training=training)
        except Exception as error:  # the network's own code decides what it raises
            raise ModelError(f"model.name: {name} does not run at these widths: {cause_of(error)}") from error
        heads = [head for head in output if head is not None] if training and isinstance(output, tuple) else [output]
        for head in heads:
            shape = tuple(head.shape) if isinstance(head, torch.Tensor) else type(head).__name__
            if shape not in allowed:
                mode = "training" if training else "evaluation"
                raise ModelError(
                    f"model.name: {name} gives {shape} in {mode} for {len(example)} samples, "
                    f"but must give logits of shape {' or '.join(map(str, allowed))}"
                )
