"""Stacked layers in the form that a runtime runs best: units merged to blocks, or one dense layer, with zeros between.

What is computed stays the same.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from compressor.errors import ModelError
from compressor.models.stacked.layers import CONVOLUTIONS, Hybrid, StackedLinear, layer_at, part, set_layer
from compressor.models.stacked.spec import Stack


def rearranged(model: nn.Module, blocks: Mapping[str, int | None]) -> nn.Module:
    """A copy of a network whose stacked layers have their units merged.

    Args:
        model: with stacked layers
        blocks: {module path of a weight layer of a stacked layer: units are merged until their inputs and their outputs
            are multiples of this, or as near as their number allows; 1: none are; None: all of them, also units of
            several kinds, are one dense layer}

    Raises:
        ModelError: no such layer, or one that is no stacked layer's
    """
    copied = copy.deepcopy(model)
    for path, block in blocks.items():
        layer = layer_at(copied, path)
        if not isinstance(layer, (nn.Linear, StackedLinear, Hybrid, *CONVOLUTIONS)):
            raise ModelError(f"stacks: {path} is a {type(layer).__name__}, which has no units to merge")
        set_layer(copied, path, _dense(layer) if block is None else _blocked(layer, block))
    return copied


def everywhere(stacks: Mapping[str, Stack], block: int | None) -> dict[str, int | None]:
    """The same block for both weight layers of all stacked layers, as `rearranged` takes it."""
    return {path: block for first, stack in stacks.items() for path in (first, stack.second)}


def _blocked(layer: nn.Module, block: int) -> nn.Module:
    if isinstance(layer, Hybrid):
        return Hybrid([_blocked(one, block) for one in layer.parts], layer.sizes, layer.dim).train(layer.training)
    weights = _units(layer)
    merged = _merge(len(weights), weights.shape[2], weights.shape[1], block)
    groups = [_block_diagonal(list(group)) for group in weights.reshape(-1, merged, *weights.shape[1:])]
    return _with(layer, torch.stack(groups))


def _merge(units: int, inputs: int, outputs: int, block: int) -> int:
    """How many units become one group: a divisor of their number."""
    divisors = [number for number in range(1, units + 1) if units % number == 0]
    full = [number for number in divisors if number * inputs % block == 0 and number * outputs % block == 0]
    wide = [number for number in divisors if number * inputs >= block]
    return (full or wide or [units])[0]


def _dense(layer: nn.Module) -> nn.Module:
    if not isinstance(layer, Hybrid):
        return _with(layer, _block_diagonal(list(_units(layer)))[None])
    units = [unit for one in layer.parts for unit in _units(one)]
    joined = _with(layer.parts[0], _block_diagonal(units)[None], keep_bias=False)
    biases = [one.bias for one in layer.parts if isinstance(one.bias, torch.Tensor)]
    if biases:
        joined.bias = nn.Parameter(torch.cat([bias.detach() for bias in biases]))
    return joined.train(layer.training)


def _units(layer: nn.Module) -> torch.Tensor:
    """Weights of every unit: (units, outputs, inputs, *kernel)."""
    weight = layer.get_parameter("weight").detach()
    if isinstance(layer, StackedLinear):
        return weight
    groups = layer.groups if isinstance(layer, CONVOLUTIONS) else 1
    return weight.reshape(groups, -1, *weight.shape[1:])


def _block_diagonal(units: Sequence[torch.Tensor]) -> torch.Tensor:
    """(outputs, inputs, *kernel) each → all of them along the diagonal of the first two dimensions."""
    rows, columns = sum(unit.shape[0] for unit in units), sum(unit.shape[1] for unit in units)
    whole = units[0].new_zeros(rows, columns, *units[0].shape[2:])
    row = column = 0
    for unit in units:
        whole[row : row + unit.shape[0], column : column + unit.shape[1]] = unit
        row, column = row + unit.shape[0], column + unit.shape[1]
    return whole


def _with(layer: nn.Module, weights: torch.Tensor, keep_bias: bool = True) -> nn.Module:
    """A layer like this one with other units: (units, outputs, inputs, *kernel)."""
    like = nn.Linear(1, 1, layer.bias is not None, "meta") if isinstance(layer, StackedLinear) else layer
    units, outputs, inputs = weights.shape[:3]
    made = part(like, units, inputs, outputs, torch.device("meta"))  # draws nothing: all its values are set
    shape = made.get_parameter("weight").shape
    made.weight = nn.Parameter(weights.reshape(shape))
    if keep_bias and isinstance(layer.bias, torch.Tensor):
        made.bias = nn.Parameter(layer.bias.detach().clone())
    return made.train(layer.training)
