"""Optimizers, their state as named tensors for checkpoints, and the running average of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compressor.training.checkpoint import Tensors

Optimizer = Literal["sgd", "adamw"]


def make_optimizer(
    kind: Optimizer, model: nn.Module, *, lr: float, momentum: float, nesterov: bool, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimizer of all parameters; momentum and Nesterov's variant are SGD's."""
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


def state_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> Tensors:
    """What an optimizer keeps of every parameter: {state/parameter: tensor}."""
    found: Tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                found[f"{key}/{name}"] = value
    return found


def restore_state(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an optimizer what `state_tensors` has told of it."""
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for place, value in tensors.items():
        key, _, name = place.partition("/")
        kept.setdefault(name, {})[key] = value
    for name, parameter in model.named_parameters():
        for key, value in kept.get(name, {}).items():
            # The count of steps has no shape, and stays where the optimizer has it: on the CPU.
            own = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()
            optimizer.state[parameter][key] = own.detach()


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A network whose weights and statistics follow those of another: w ← decay·w + (1 - decay)·(the other's)."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
