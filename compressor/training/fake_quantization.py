"""Training with the rounding of int8: quantisation-aware training (Jacob et al. 2018, arXiv:1712.05877, section 3).

Within `fake_quantized`, convolutions and linear layers round their weights and inputs to what 8 bits can hold, and
gradients pass as if they did not (straight through). Nothing of it is left in the network afterwards: it is exported
and quantised like any other, and its weights are then near values that integers have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LEAST = 1e-12  # of a scale: what is all zeros has one too


@contextmanager
def fake_quantized(model: nn.Module) -> Iterator[list[str]]:
    """Have a network compute as its int8 file will, while the context lasts.

    Weights have 8 signed bits and a scale for each output channel, by which a batch-norm that is folded into them later
    makes no difference. Activations have 8 unsigned bits between the least and the largest value of the batch; nothing
    is remembered of other batches, so an interrupted training goes on to the same weights.

    Args:
        model: trained or to be trained; its parameters stay the same objects

    Yields:
        module paths of the layers that round
    """
    layers = {name: layer for name, layer in model.named_modules() if _rounds(layer)}
    for layer in layers.values():
        _round(layer)
    try:
        yield list(layers)
    finally:
        for layer in layers.values():
            del layer.forward  # the class's own is behind it


def _rounds(layer: nn.Module) -> bool:
    """Whether a layer computes as its class in torch does: whatever else another forward does would be lost."""
    return type(layer).forward in {nn.Linear.forward, *(one.forward for one in _CONVOLUTIONS)}


def _round(layer: nn.Module) -> None:
    # A method, so that a copy of the layer, of a running average say, computes with its own weights.
    kind = _Linear if isinstance(layer, nn.Linear) else _Convolution
    layer.forward = MethodType(kind.forward, layer)


class _Linear:
    @staticmethod
    def forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
        return F.linear(rounded(x), rounded_weight(layer.weight), layer.bias)


class _Convolution:
    @staticmethod
    def forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = layer._conv_forward(rounded(x), rounded_weight(layer.weight), layer.bias)
        return made


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Values rounded to 256 steps between their least and their largest, 0 being one of them.

    Args:
        x: of any shape and floating type; not empty

    Returns:
        of the same shape and type; gradients pass unchanged
    """
    low, high = torch.aminmax(x.detach().float())
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / 255).clamp(min=_LEAST)
    zero = (-low / scale).round().clamp(0, 255).int()
    return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255).to(x.dtype)


def rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """Weights rounded to 255 steps, symmetric around 0, for each index of the first axis (the output channels)."""
    whole = weight.float()
    scale = (whole.detach().flatten(1).abs().amax(1) / 127).clamp(min=_LEAST)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(whole, scale, zero, 0, -127, 127).to(weight.dtype)
