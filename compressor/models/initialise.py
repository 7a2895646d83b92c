"""Fresh weights for a resized network, in the manner of the network it came from."""

from __future__ import annotations

import math

import torch
from torch import nn

from compressor.dependency.constants import following
from compressor.dependency.inputs import AnyInputs, Inputs


def reinitialise_(model: nn.Module, reference: nn.Module, *, new_only: bool = False) -> None:
    """Give a resized network fresh weights in the manner of the network it came from.

    A parameter that does not train keeps its values, one whose values are equal stays so; those of any other are drawn
    from the reference's values, scaled by the fan that its standard deviation is tied to (Kaiming fan-out, or fan-in as
    torch's defaults). torch's global random state decides the draw.

    Args:
        model: resized; changed in place
        reference: the same network at its own widths, freshly initialised
        new_only: keep the weights that it has and fill in what is NaN, as `compressor.dependency.resize_` leaves new
            channels with `fill=nan`
    """
    with torch.no_grad():
        originals = dict(reference.named_parameters())
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad or (new_only and not bool(parameter.isnan().any())):
                continue
            values = fresh_values(originals[name].detach(), parameter).to(parameter)
            parameter.copy_(torch.where(parameter.isnan(), values, parameter) if new_only else values)
        for norm in following(model):
            if not new_only:
                norm.reset_running_stats()
            elif norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.nan_to_num_(nan=0.0)
                norm.running_var.nan_to_num_(nan=1.0)


def fresh_values(original: torch.Tensor, resized: torch.Tensor) -> torch.Tensor:
    """Values of the shape of `resized`, distributed as those of `original`."""
    if original.numel() == 0 or bool((original == original.flatten()[0]).all()):
        return original.flatten()[:1].expand(resized.shape) if original.numel() else original
    draw = torch.randint(original.numel(), resized.shape, device=original.device)
    return original.flatten()[draw] * _fan_scale(original, resized)


def _fan_scale(original: torch.Tensor, resized: torch.Tensor) -> float:
    """How much the values of a weight change with its fan: √(old fan / new fan), or 1 for a fixed deviation."""
    if original.dim() < 2:
        return 1.0
    taps = original[0, 0].numel()
    variance = float(original.var())
    tolerance = 0.02 + 4 * (2 / original.numel()) ** 0.5  # four deviations of a sample's variance
    nearest, axis = min(
        (abs(math.log(variance * original.shape[axis] * taps / gain)), axis)
        for axis, gains in ((1, (1 / 3, 1.0, 2.0)), (0, (2.0, 1.0)))  # (variance × fan) of the usual schemes
        for gain in gains
    )
    return float((original.shape[axis] / resized.shape[axis]) ** 0.5) if nearest < tolerance else 1.0


@torch.no_grad()
def scatter_(model: nn.Module) -> None:
    """Make the values of all layers differ: the exporter stores equal ones, such as fresh batch-norms', only once."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.01)


def noise_like(example: AnyInputs) -> AnyInputs:
    """The same draw of N(0, 1) at every call, in the shape of images; tokens, and several inputs, stay as they are."""
    if isinstance(example, Inputs) or not example.is_floating_point():
        return example
    return torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
