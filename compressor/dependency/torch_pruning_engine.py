"""torch-pruning's dependency graph of a network, whose pruning functions remove the channels.

Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023; torch-pruning 1.6.1. The graph groups the layers and
cuts them; what its functions would cut is listed first (`TorchPruningGraph.cuts`), so that it can be compared with
our graph before anything is touched. Its slices are ours: they carry optimizer state, memory format and requires_grad.

Importing this module imports torch_pruning, which takes seconds.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import nn
from torch_pruning import ops
from torch_pruning.dependency import Group
from torch_pruning.pruner import function

from compressor.dependency.graph import DependencyGraph, Indices, layer_of
from compressor.dependency.inputs import AnyInputs, modes_of, run
from compressor.dependency.slots import tensors_in
from compressor.dependency.surgery import RECURRENT, Slicer
from compressor.dependency.trace import Axis

Cuts = dict[Axis, Indices]  # positions removed along a dimension of a parameter or buffer, rising
_MOST = {"widths": 1_000_000, "dependencies": 20_000}  # looked at in one query; some graphs lead round in circles


class TorchPruningGraph(torch_pruning.DependencyGraph):  # type: ignore[misc]
    """The graph of one network at its present widths.

    Args:
        model: the network; a copy is traced, so its mode, gradients and parameters stay as they are, and so do the
            states of random numbers
        example: one batch of inputs (N, …)

    Raises:
        Exception: whatever torch-pruning raises on networks that it cannot trace
    """

    def __init__(self, model: nn.Module, example: AnyInputs) -> None:
        super().__init__()
        self.module2node: dict[Any, Any] = {}
        self._module2name: dict[nn.Module, str] = {}
        self._param_to_name: dict[nn.Parameter, str] = {}
        self.unwrapped_parameters: list[Any] = []
        for kind, pruner in function.PrunerBox.items():
            self._register(kind, copy.copy(pruner))
        self._register(ops.OPTYPE.LSTM, _LSTMPruner())
        pruners = self.REGISTERED_PRUNERS.values()
        self._in_channel_pruning_fn = {pruner.prune_in_channels for pruner in pruners}
        self._out_channel_pruning_fn = {pruner.prune_out_channels for pruner in pruners}
        self._slicer: Slicer | None = None
        self._looked = dict.fromkeys(_MOST, 0)
        with _undisturbed(), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            traced, probe, training = _traceable(model, example)

            def forward(network: nn.Module, inputs: AnyInputs) -> Any:
                return _tensors(run(network.train(training), inputs))

            self.build_dependency(traced, probe, forward_fn=forward, verbose=False)
        self._point_at(model)

    def _register(self, kind: ops.OPTYPE, pruner: Any) -> None:
        pruner._prune_parameter_and_grad = self._slice
        self.REGISTERED_PRUNERS[kind] = pruner

    def _slice(self, weight: nn.Parameter | None, keep_idxs: Iterable[int], pruning_dim: int) -> nn.Parameter | None:
        """In place of torch-pruning's own, which loses optimizer state, memory format and requires_grad."""
        if weight is None:  # a norm without bias
            return None
        if self._slicer is None:
            raise RuntimeError("channels are removed by TorchPruningGraph.remove only")
        kept = np.sort(np.array([int(index) for index in keep_idxs], dtype=np.int64))
        return self._slicer.sliced(weight, {pruning_dim % weight.dim(): kept})

    def _build_dependency(self, module2node: dict[Any, Any]) -> None:
        """Give reshapes the sizes that torch-pruning looks for: autograd has renamed the field since."""
        for node in module2node.values():
            if node.type == ops.OPTYPE.RESHAPE and hasattr(node.grad_fn, "_saved_self_sym_sizes"):
                node.grad_fn = SimpleNamespace(_saved_self_sizes=tuple(node.grad_fn._saved_self_sym_sizes))
        super()._build_dependency(module2node)
        for node in module2node.values():
            for dependency in node.dependencies:
                dependency.is_triggered_by = partial(self._triggers, dependency.trigger)

    def _triggers(self, trigger: Any, pruning_fn: Any) -> bool:
        self._look("dependencies")
        return bool(trigger == pruning_fn)

    def get_out_channels(self, module_or_node: Any) -> Any:
        """As torch-pruning's, but a query that would not end is given up."""
        self._look("widths")
        return super().get_out_channels(module_or_node)

    def _look(self, what: str) -> None:
        self._looked[what] += 1
        if self._looked[what] > _MOST[what]:
            raise RecursionError(f"a query of torch-pruning's graph does not end ({_MOST[what]:,} {what})")

    def _point_at(self, model: nn.Module) -> None:
        """Let the nodes stand for the modules and parameters of the network instead of the copy's."""
        modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
        nodes = {}
        for module, node in self.module2node.items():
            if isinstance(module, nn.Parameter):
                node.module = parameters[self._param_to_name[module]]
            elif module in self._module2name:
                node.module = modules[self._module2name[module]]
            nodes[node.module] = node
        self.model, self.module2node = model, nodes
        self._param_to_name = {parameters[name]: name for name in self._param_to_name.values()}
        self.unwrapped_parameters = []
        self._module2name = {module: name for name, module in modules.items()}

    def query(self, graph: DependencyGraph, removed: Mapping[str, Sequence[int]]) -> Group:
        """What torch-pruning would cut to remove slices, {group of the graph: slices}, as one group.

        Raises:
            Exception: whatever torch-pruning raises
        """
        merged: dict[tuple[Any, Any], tuple[Any, set[int]]] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it cannot infer; what counts is compared
            for name, slices in removed.items():
                module, pruner, positions = self._root(graph, name, slices)
                self._looked = dict.fromkeys(_MOST, 0)
                for dependency, indices in self.get_pruning_group(module, pruner.prune_out_channels, positions):
                    key = dependency.target, dependency.handler
                    merged.setdefault(key, (dependency, set()))[1].update(indices)
        group = Group()
        group._DG = self
        for dependency, indices in merged.values():
            group.add_dep(dependency, sorted(indices))
        return group

    def _root(self, graph: DependencyGraph, name: str, slices: Sequence[int]) -> tuple[Any, Any, list[int]]:
        """Where the removal of a group begins: a module or parameter, its pruner, positions in it."""
        made = graph.producers(name)[0]
        layer = self.model.get_submodule(layer_of(made.tensor))
        root: Any = layer if layer in self.module2node else self.model.get_parameter(made.tensor)
        if root not in self.module2node:
            raise LookupError(f"{made.tensor} is not in torch-pruning's graph")
        if isinstance(layer, RECURRENT) and not isinstance(layer, nn.LSTM):
            raise LookupError(f"torch-pruning does not know {type(layer).__name__}")
        if isinstance(layer, RECURRENT):
            positions = list(slices)  # a hidden unit is one channel, which all gates have
        else:
            positions = made.index[np.isin(made.slice, np.asarray(slices))].tolist()
        return root, self.get_pruner_of_module(root), positions

    def cuts(self, group: Group) -> Cuts:
        """What pruning a group would remove.

        Raises:
            LookupError: a layer is cut in a way that is not known here
        """
        found: dict[Axis, set[int]] = {}
        for dependency, indices in group:
            for axis, removed in self._cut(dependency, indices):
                found.setdefault(axis, set()).update(removed)
        return {axis: np.array(sorted(removed), dtype=np.int64) for axis, removed in found.items() if removed}

    def _cut(self, dependency: Any, indices: list[int]) -> Iterable[tuple[Axis, Iterable[int]]]:
        node, module = dependency.target, dependency.target.module
        kind = ops.module2type(module)
        if kind not in function.PrunerBox:
            return []  # operators without parameters
        if dependency.handler not in self._in_channel_pruning_fn | self._out_channel_pruning_fn:
            raise LookupError(f"torch-pruning cuts {node.name} with a function of its own")
        if kind == ops.OPTYPE.PARAMETER:
            return [((self._param_to_name[module], node.pruning_dim % module.dim()), indices)]
        reads = dependency.handler == self.get_pruner_of_module(module).prune_in_channels
        axes = _AXES.get(kind, _unknown)(module, indices, reads)
        path = self._module2name[module]
        found = []
        for tensor, dim, removed in axes:
            if (held := getattr(module, tensor, None)) is None:
                continue
            if tensor in ("weight", "bias") and not isinstance(held, nn.Parameter):
                raise LookupError(f"{path}.{tensor} is not a parameter, and torch-pruning would make it one")
            found.append(((f"{path}.{tensor}" if path else tensor, dim), removed))
        return found

    def remove(self, group: Group, optimizer: torch.optim.Optimizer | None, lengths: Mapping[Axis, int]) -> None:
        """Prune a group: the network's layers change in place, and the optimizer follows.

        Args:
            group: of `query`
            optimizer: of the network
            lengths: of the dimensions that change, afterwards

        Raises:
            Exception: whatever torch-pruning raises, or a dimension has another length; then nothing has changed
        """
        undo = _Undo(self.model, group, optimizer)
        self._slicer = Slicer(self.model, optimizer)
        try:
            group.prune(record_history=False)
            self._slicer.finish()
            for (tensor, dim), length in lengths.items():
                path, _, name = tensor.rpartition(".")
                if (found := getattr(self.model.get_submodule(path), name).shape[dim]) != length:
                    raise LookupError(
                        f"torch-pruning left dimension {dim} of {tensor} {found} long instead of {length}"
                    )
        except BaseException:
            undo()
            raise
        finally:
            self._slicer = None


class _Undo:
    """Puts back what pruning a group changes in a network and its optimizer, where tensors are replaced as wholes."""

    def __init__(self, model: nn.Module, group: Group, optimizer: torch.optim.Optimizer | None) -> None:
        modules = dict.fromkeys([model, *model.modules()]) if _touches_parameters(group) else _modules(group)
        self._modules = [(m, dict(vars(m)), dict(m._parameters), dict(m._buffers)) for m in modules]
        self._optimizer = optimizer
        if optimizer is not None:
            self._state = dict(optimizer.state)
            self._lists = [list(one["params"]) for one in optimizer.param_groups]

    def __call__(self) -> None:
        for module, attributes, parameters, buffers in self._modules:
            vars(module).update(attributes)
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)
        if self._optimizer is not None:
            self._optimizer.state.clear()
            self._optimizer.state.update(self._state)
            for one, parameters_of_it in zip(self._optimizer.param_groups, self._lists, strict=True):
                one["params"] = parameters_of_it


def _touches_parameters(group: Group) -> bool:
    return any(isinstance(dependency.target.module, nn.Parameter) for dependency, _ in group)


def _modules(group: Group) -> dict[nn.Module, None]:
    return dict.fromkeys(dependency.target.module for dependency, _ in group)


class _LSTMPruner(function.BasePruningFunc):  # type: ignore[misc]
    """Hidden units and inputs of a one-layer LSTM; torch-pruning's own cuts one gate of the four."""

    def prune_out_channels(self, layer: nn.LSTM, idxs: list[int]) -> nn.LSTM:
        for tensor, dim, removed in _of_lstm(layer, idxs, False):
            self._cut(layer, tensor, dim, removed)
        layer.hidden_size -= len(idxs)
        layer.flatten_parameters()
        return layer

    def prune_in_channels(self, layer: nn.LSTM, idxs: list[int]) -> nn.LSTM:
        for tensor, dim, removed in _of_lstm(layer, idxs, True):
            self._cut(layer, tensor, dim, removed)
        layer.input_size -= len(idxs)
        layer.flatten_parameters()
        return layer

    def _cut(self, layer: nn.LSTM, tensor: str, dim: int, removed: Iterable[int]) -> None:
        if (weight := getattr(layer, tensor, None)) is not None:
            kept = sorted(set(range(weight.shape[dim])) - set(removed))
            setattr(layer, tensor, self._prune_parameter_and_grad(weight, kept, dim))

    def get_out_channels(self, layer: nn.LSTM) -> int:
        return layer.hidden_size

    def get_in_channels(self, layer: nn.LSTM) -> int:
        return layer.input_size


Rows = list[tuple[str, int, Iterable[int]]]  # tensor of a module, its dimension, positions removed there


def _of_convolution(layer: nn.modules.conv._ConvNd, indices: list[int], reads: bool) -> Rows:
    makes, read = (1, 0) if layer.transposed else (0, 1)
    if not reads:
        return [("weight", makes, indices), ("bias", 0, indices)]
    kept = sorted(set(range(layer.in_channels)) - set(indices))
    if layer.groups > 1:  # each group's part is as long as the first ones that stay
        kept = kept[: len(kept) // layer.groups]
    return [("weight", read, set(range(layer.weight.shape[read])) - set(kept))]


def _of_linear(layer: nn.Linear, indices: list[int], reads: bool) -> Rows:
    return [("weight", 1, indices)] if reads else [("weight", 0, indices), ("bias", 0, indices)]


def _of_batch_norm(layer: nn.Module, indices: list[int], reads: bool) -> Rows:
    statistics = ("running_mean", "running_var") if getattr(layer, "track_running_stats", False) else ()
    return [(tensor, 0, indices) for tensor in ("weight", "bias", *statistics)]


def _of_vectors(layer: nn.Module, indices: list[int], reads: bool) -> Rows:
    return [("weight", 0, indices), ("bias", 0, indices)]


def _of_layer_norm(layer: nn.LayerNorm, indices: list[int], reads: bool) -> Rows:
    last = len(layer.normalized_shape) - 1
    return [("weight", last, indices), ("bias", last, indices)]


def _of_prelu(layer: nn.PReLU, indices: list[int], reads: bool) -> Rows:
    return [] if layer.num_parameters == 1 else [("weight", 0, indices)]


def _of_embedding(layer: nn.Embedding, indices: list[int], reads: bool) -> Rows:
    return [("weight", 1, indices)]


def _of_lstm(layer: nn.LSTM, indices: list[int], reads: bool) -> Rows:
    if layer.num_layers > 1 or layer.bidirectional or layer.proj_size:
        return _unknown(layer, indices, reads)
    if reads:
        return [("weight_ih_l0", 1, indices)]
    rows = [gate * layer.hidden_size + index for gate in range(4) for index in indices]
    made = [(tensor, 0, rows) for tensor in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
    return [*made, ("weight_hh_l0", 1, indices)]


def _unknown(layer: nn.Module, indices: list[int], reads: bool) -> Rows:
    raise LookupError(f"what torch-pruning cuts of {type(layer).__name__} is not known here")


_AXES: dict[ops.OPTYPE, Callable[[Any, list[int], bool], Rows]] = {
    ops.OPTYPE.CONV: _of_convolution,
    ops.OPTYPE.DEPTHWISE_CONV: _of_vectors,
    ops.OPTYPE.LINEAR: _of_linear,
    ops.OPTYPE.BN: _of_batch_norm,
    ops.OPTYPE.LN: _of_layer_norm,
    ops.OPTYPE.GN: _of_vectors,
    ops.OPTYPE.IN: _of_vectors,
    ops.OPTYPE.PRELU: _of_prelu,
    ops.OPTYPE.EMBED: _of_embedding,
    ops.OPTYPE.LSTM: _of_lstm,
}


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave all random numbers as if the network had not run."""
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


def _traceable(model: nn.Module, example: AnyInputs) -> tuple[nn.Module, AnyInputs, bool]:
    """A copy to trace, its inputs, and whether in training mode: where outputs are made in that mode only."""
    try:
        copied, probe = copy.deepcopy(model).to("meta").float(), example.to("meta")
        outputs = _outputs(copied, probe)
    except Exception:  # it looks at values, which tensors of the meta device have not
        copied, probe = copy.deepcopy(model).cpu().float(), example.cpu()
        outputs = _outputs(copied, probe)
    for module in copied.modules():
        if isinstance(module, nn.LSTM):
            module.forward = partial(_as_one_operator, module)  # type: ignore[method-assign]
    return copied.requires_grad_(True), probe, outputs[0] != outputs[1]


class _OneOperator(torch.autograd.Function):
    """Stands for a layer that autograd would show the insides of; only traced, so it has no backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        return inputs.new_zeros(shape)


def _as_one_operator(layer: nn.LSTM, inputs: torch.Tensor, state: Any = None) -> Any:
    """An LSTM's outputs; its last states are those of the outputs, so that their channels are followed too."""
    outputs = _OneOperator.apply(inputs, (*inputs.shape[:-1], layer.hidden_size))
    last = outputs.select(int(layer.batch_first), -1)[None]
    return outputs, (last, last)


def _outputs(model: nn.Module, probe: AnyInputs) -> list[int]:
    """Number of output tensors in evaluation and in training mode; of that alone in which it runs."""
    with torch.no_grad():
        found = [len(_tensors(run(model.train(training), probe))) for training in reversed(modes_of(model, probe))]
    return found * 2 if len(found) == 1 else found


def _tensors(output: Any) -> list[torch.Tensor]:
    return list(tensors_in(output))
