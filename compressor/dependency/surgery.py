"""Changing the widths of a network: slicing its parameters, buffers and optimizer state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from compressor.dependency.constants import Constants, Norm
from compressor.dependency.graph import NEW, DependencyGraph, Indices, layer_of
from compressor.errors import ModelError, not_one_of

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
RECURRENT = nn.RNNBase
_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


class _Cut:
    """New positions along one dimension of a parameter: the old one or `NEW` for each."""

    def __init__(self, positions: Indices, device: torch.device) -> None:
        where = "cpu" if device.type == "meta" else device
        self.length = len(positions)
        new = positions == NEW
        # A new one stands behind the old ones of its group: where nothing else is said it is like the last of them.
        before = np.maximum.accumulate(np.where(new, -1, np.arange(len(positions))))
        self.old = torch.from_numpy(np.maximum(positions[np.maximum(before, 0)], 0)).to(where)
        self.new = torch.from_numpy(np.flatnonzero(new)).to(where) if new.any() else None


def _pick(tensor: torch.Tensor, cuts: Mapping[int, _Cut], fill: float | None) -> torch.Tensor:
    """Rows of a tensor along some of its dimensions; a new row holds `fill`, None: what the row before it has."""
    if tensor.device.type == "meta":
        shape = [cuts[dim].length if dim in cuts else size for dim, size in enumerate(tensor.shape)]
        return torch.empty(shape, dtype=tensor.dtype, device="meta")
    # Convolutions are slower when weights and images differ in memory format: rows are taken in the order of memory.
    # Of a 1×1 kernel both orders are contiguous; its strides say which; oneDNN may crash on the other format's.
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    last = last and tensor.stride() != torch.empty(tensor.shape, device="meta").stride()
    order = [0, 2, 3, 1] if last else list(range(tensor.dim()))
    picked = tensor.permute(order)
    for dim, cut in cuts.items():
        picked = picked.index_select(order.index(dim), cut.old)
        if cut.new is not None and fill is not None:
            picked.index_fill_(order.index(dim), cut.new, fill)
    return picked.permute([order.index(dim) for dim in range(tensor.dim())])


class Slicer:
    """Replaces parameters and buffers by slices of themselves, in a network and in its optimizer.

    A slice keeps its tensor's memory format and `requires_grad`; what the optimizer keeps for every element of a
    parameter (momentum, Adam's moments) is sliced with it.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, fill: float = 0.0) -> None:
        self.model, self.optimizer, self.fill = model, optimizer, fill
        self._constants = Constants(model)
        self._changed: dict[nn.Parameter, nn.Parameter] = {}

    def cut(self, name: str, positions: Mapping[int, Indices]) -> None:
        """Slice a parameter or buffer of the network: {dimension: its new positions, the old one or `NEW` for each}."""
        path, _, attribute = name.rpartition(".")
        module = self.model.get_submodule(path)
        old = getattr(module, attribute)
        fill = None if name in self._constants else self.fill
        if isinstance(old, nn.Parameter):
            setattr(module, attribute, self.sliced(old, positions, fill))
        else:
            setattr(module, attribute, _pick(old, _cuts(old, positions), fill))

    def sliced(self, old: nn.Parameter, positions: Mapping[int, Indices], fill: float | None = 0.0) -> nn.Parameter:
        """A parameter's slice, to which its optimizer state goes over."""
        cuts = _cuts(old, positions)
        new = nn.Parameter(_pick(old.detach(), cuts, fill), requires_grad=old.requires_grad)
        self._changed[old] = new
        state = self.optimizer.state.pop(old, None) if self.optimizer is not None else None
        kept = [value for value in (state or {}).values() if isinstance(value, torch.Tensor) and value.dim() > 0]
        # State of other shapes, such as Adafactor's rows and columns, begins anew with the slice.
        if self.optimizer is not None and state and all(value.shape == old.shape for value in kept):
            self.optimizer.state[new] = {
                key: _pick(value, cuts, 0.0) if isinstance(value, torch.Tensor) and value.shape == old.shape else value
                for key, value in state.items()
            }
        return new

    def finish(self) -> None:
        """Put the new parameters into the optimizer's lists."""
        if self.optimizer is None:
            return
        for group in self.optimizer.param_groups:
            group["params"] = [self._last(parameter) for parameter in group["params"]]

    def _last(self, parameter: nn.Parameter) -> nn.Parameter:
        while parameter in self._changed:
            parameter = self._changed[parameter]
        return parameter


def _cuts(tensor: torch.Tensor, positions: Mapping[int, Indices]) -> dict[int, _Cut]:
    return {dim: _Cut(index, tensor.device) for dim, index in positions.items()}


def _sync(path: str, module: nn.Module, channelwise: bool) -> None:
    """Bring a layer's own numbers in line with its parameters."""
    if parametrize.is_parametrized(module):
        return  # its weight is computed when it is asked for, perhaps from what has yet to be cut
    weight = getattr(module, "weight", None)
    if isinstance(module, (*CONVS, *TRANSPOSED)) and weight is not None:
        transposed = isinstance(module, TRANSPOSED)
        if channelwise:
            each = 1 if transposed else module.out_channels // module.groups
            module.groups = weight.shape[0] // each
        elif weight.shape[0] % module.groups:
            raise ModelError(f"{path}: {weight.shape[0]} channels cannot be divided into {module.groups} groups")
        rows, columns = weight.shape[0], weight.shape[1] * module.groups
        module.in_channels, module.out_channels = (rows, columns) if transposed else (columns, rows)
    elif isinstance(module, nn.Linear) and weight is not None:
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, Norm):
        own = weight if weight is not None else module.running_mean
        module.num_features = module.num_features if own is None else len(own)
    elif isinstance(module, nn.LayerNorm) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        module.num_channels = len(weight)
    elif isinstance(module, nn.PReLU) and weight is not None:
        module.num_parameters = len(weight)
    elif isinstance(module, nn.Embedding) and weight is not None:
        module.embedding_dim = weight.shape[1]
    elif isinstance(module, RECURRENT):
        rows, module.input_size = module.get_parameter("weight_ih_l0").shape
        module.hidden_size = rows // _GATES[module.mode]
        module.proj_size = module.get_parameter("weight_hh_l0").shape[1] if module.proj_size else 0
        module.flatten_parameters()  # cuDNN warns if they are not one block


def apply_(
    model: nn.Module,
    graph: DependencyGraph,
    select: Mapping[str, Indices],
    optimizer: torch.optim.Optimizer | None = None,
    fill: float = 0.0,
) -> DependencyGraph:
    """Select slices of some groups, {group: old slice or `NEW`}; the graph of the changed network."""
    slicer, cuts = Slicer(model, optimizer, fill), dict[str, dict[int, Indices]]()
    changes = graph.changes(select)
    for (name, dim), (index, _) in changes.items():
        if not len(index):
            raise ModelError(f"{name}: no channel would be left to it")
        cuts.setdefault(name, {})[dim] = index
    for name, positions in cuts.items():
        slicer.cut(name, positions)
    slicer.finish()
    for path in dict.fromkeys(layer_of(name) for name in cuts):
        _sync(path, model.get_submodule(path), path in graph.channelwise)
    return graph.after(select, changes)


def remove_channels_(
    model: nn.Module,
    graph: DependencyGraph,
    removed: Mapping[str, Iterable[int]],
    optimizer: torch.optim.Optimizer | None = None,
) -> DependencyGraph:
    """Physically remove channels from a network, and their state from its optimizer.

    Args:
        model: changed in place; its parameters become new objects
        graph: of the model as it is now
        removed: {group name: slices to remove}; a slice is one channel, or `step` of them
        optimizer: its parameter lists and per-parameter state follow

    Returns:
        the graph of the smaller network

    Raises:
        ModelError: an unknown group, or a group that would lose its last channel
    """
    return apply_(model, graph, kept_slices(graph, removed), optimizer)


def kept_slices(graph: DependencyGraph, removed: Mapping[str, Iterable[int]]) -> dict[str, Indices]:
    """{group: slices that stay} for {group: slices to remove}.

    Raises:
        ModelError: an unknown group, or a group that would lose its last channel
    """
    kept = {}
    for name, slices in removed.items():
        if name not in graph.groups:
            raise ModelError(f"width group {not_one_of(name, graph.groups)}")
        kept[name] = np.delete(np.arange(graph.groups[name].slices), np.fromiter(slices, dtype=np.int64))
        if not len(kept[name]):
            raise ModelError(f"width group {name}: cannot lose its last channel")
    return kept


def resize_(model: nn.Module, graph: DependencyGraph, widths: Mapping[str, int], fill: float = 0.0) -> DependencyGraph:
    """Give groups another width, smaller or larger; the first channels keep their weights, new ones hold `fill`.

    Call `compressor.models.initialise.reinitialise_` afterwards for a network to train from scratch, or, with `fill`
    NaN, to draw the new channels only.

    Raises:
        ModelError: an unknown group, one that cannot be resized, with the reason, or a width that it cannot have
    """
    return apply_(model, graph, graph.selection(widths), fill=fill)
