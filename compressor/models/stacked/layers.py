"""Stacked layers as modules: equal units are one grouped convolution or one batched product, kinds lie side by side.

A stacked layer of units (TissueNet, section 3.2) takes the place of two weight layers. Each of these becomes a layer of
its own here; what a network has between them (batch-norm, activation, depth-wise convolution) works channel by
channel and stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from compressor.errors import ModelError
from compressor.models.stacked.spec import Stack

Piece = tuple[int, int, int]  # units, inputs and outputs of each
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class StackedLinear(nn.Module):
    """(…, units · inputs) → (…, units · outputs): equal linear units as one batched product.

    Args:
        units: side by side
        inputs: of each
        outputs: of each
        bias: whether each output has one
        device: of the weights (units, outputs, inputs) and biases (units · outputs,)
        dtype: of both
    """

    def __init__(
        self,
        units: int,
        inputs: int,
        outputs: int,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.units, self.inputs, self.outputs = units, inputs, outputs
        self.in_features, self.out_features = units * inputs, units * outputs  # as nn.Linear calls them
        self.weight = nn.Parameter(torch.empty(units, outputs, inputs, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(units * outputs, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights as torch.nn.Linear does, by the inputs of one unit."""
        bound = 1 / math.sqrt(self.inputs)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply each piece of the last dimension with its unit's weights."""
        pieces = x.reshape(-1, self.units, self.inputs).transpose(0, 1)
        made = torch.bmm(pieces, self.weight.transpose(1, 2)).transpose(0, 1)
        out = made.reshape(*x.shape[:-1], self.units * self.outputs)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        """What nn.Module prints of it."""
        return f"units={self.units}, inputs={self.inputs}, outputs={self.outputs}, bias={self.bias is not None}"


class Hybrid(nn.Module):
    """Kinds of units side by side: the channels are split, each kind is one layer, the outputs are concatenated.

    Args:
        parts: a layer for each kind
        sizes: channels that each reads
        dim: of the channels
    """

    def __init__(self, parts: Sequence[nn.Module], sizes: Sequence[int], dim: int) -> None:
        super().__init__()
        self.parts, self.sizes, self.dim = nn.ModuleList(parts), list(sizes), dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run every kind on its piece."""
        pieces = torch.split(x, self.sizes, self.dim)
        return torch.cat([part(piece) for part, piece in zip(self.parts, pieces, strict=True)], self.dim)


def stacked_layer(layer: nn.Module, pieces: Sequence[Piece]) -> nn.Module:
    """One weight layer of a stacked layer, with fresh weights.

    Args:
        layer: gives kernel, stride, padding, dilation and whether there is a bias
        pieces: (units, inputs, outputs of each); neighbours of equal sizes are one kind

    Raises:
        ModelError: neither a linear layer nor a convolution without groups
    """
    check_dense(layer, type(layer).__name__)
    kinds = joined(pieces)
    parts = [part(layer, *kind) for kind in kinds]
    for made in parts:
        if isinstance(made, CONVOLUTIONS):
            # As the small network that a unit is: of the fan of its own outputs, not of all units'.
            fan = made.out_channels // made.groups * math.prod(made.kernel_size)
            nn.init.normal_(made.weight, 0.0, math.sqrt(2 / fan))
            if made.bias is not None:
                nn.init.zeros_(made.bias)
    if len(parts) == 1:
        return parts[0]
    dim = -1 if isinstance(layer, nn.Linear) else 1
    return Hybrid(parts, [units * inputs for units, inputs, _ in kinds], dim)


def part(layer: nn.Module, units: int, inputs: int, outputs: int, device: torch.device | None = None) -> nn.Module:
    """Equal units of one weight layer as a module of its kind; on the layer's device if none is given."""
    weight = layer.get_parameter("weight")
    device = weight.device if device is None else device
    if isinstance(layer, nn.Linear):
        options = (layer.bias is not None, device, weight.dtype)
        return nn.Linear(inputs, outputs, *options) if units == 1 else StackedLinear(units, inputs, outputs, *options)
    assert isinstance(layer, CONVOLUTIONS)
    return type(layer)(
        units * inputs,
        units * outputs,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=layer.dilation,  # type: ignore[arg-type]
        groups=units,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
        device=device,
        dtype=weight.dtype,
    )


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces with neighbours of equal sizes as one."""
    kinds: list[Piece] = []
    for units, inputs, outputs in pieces:
        if kinds and kinds[-1][1:] == (inputs, outputs):
            kinds[-1] = (kinds[-1][0] + units, inputs, outputs)
        else:
            kinds.append((units, inputs, outputs))
    return kinds


def stack_(model: nn.Module, stacks: Mapping[str, Stack]) -> None:
    """Put stacked layers in place of pairs of weight layers, with fresh weights; torch's random state decides the draw.

    Args:
        model: changed in place, unless an error is raised; its widths are those of the stacks
        stacks: {module path of the first layer of a pair: the stacked layer}

    Raises:
        ModelError: no such layer, one that has groups already, one of other channels than the units, or one of two
            stacks
    """
    layers: dict[str, nn.Module] = {}
    for first, stack in stacks.items():
        sides = (
            (first, stack.first_pieces, stack.inputs, stack.hidden),
            (stack.second, stack.second_pieces, stack.hidden, stack.outputs),
        )
        for path, pieces, inputs, outputs in sides:
            if path in layers:
                raise ModelError(f"stacks.{first}: {path} is in a stacked layer already")
            layer = layer_at(model, path)
            check_dense(layer, path)
            has = channels_of(layer)
            if has != (inputs, outputs):
                raise ModelError(
                    f"stacks.{first}: {path} has {has[0]} inputs and {has[1]} outputs, its units {inputs} and {outputs}"
                )
            layers[path] = stacked_layer(layer, pieces).train(layer.training)
    for path, made in layers.items():
        set_layer(model, path, made)


def layer_at(model: nn.Module, path: str) -> nn.Module:
    """The layer of a path.

    Raises:
        ModelError: there is none
    """
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"stacks: {path} is no layer of {type(model).__name__}") from error


def set_layer(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer in place of the one of a path."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)


def check_dense(layer: nn.Module, path: str) -> None:
    """Refuse what no units can be stacked for.

    Raises:
        ModelError: neither a linear layer nor a convolution without groups
    """
    if isinstance(layer, nn.Linear) or (isinstance(layer, CONVOLUTIONS) and layer.groups == 1):
        return
    groups = getattr(layer, "groups", None)
    what = f"{type(layer).__name__}" + (f" of {groups} groups" if groups else "")
    raise ModelError(f"stacks: {path} is a {what}; units can be stacked for Linear and Conv without groups")


def channels_of(layer: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer or a convolution."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, CONVOLUTIONS)
    return layer.in_channels, layer.out_channels
