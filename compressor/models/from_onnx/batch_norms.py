"""Batch-norms that exporters folded into the layers before them, put back.

Without them a pruned network hardly trains. Behind every convolution and linear layer that has no normalisation, and is
not among the last, stands one that at first changes nothing: its statistics become those of the training images
(`settle_`), its scale and shift undo them. At export they fold away again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from compressor.dependency.inputs import AnyInputs, run
from compressor.models.from_onnx.layers import CONVS, TRANSPOSED, Recurrent
from compressor.models.from_onnx.operator import Operator

_FRESH_NORM = math.sqrt(2)
_RESTORED = "restored_batch_norm"  # marks what `settle_` may set
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_NORM_OPERATORS = ("LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization")
_MOVING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
_OF_CONVS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_TRANSPOSED: tuple[type[nn.Module], ...] = tuple(TRANSPOSED.values())
_LAYERS = (*CONVS.values(), *TRANSPOSED.values())
_WEIGHTED = (*_LAYERS, nn.Linear, nn.Embedding, Recurrent)


def restore_batch_norms_(network: fx.GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Insert a batch-norm that changes nothing behind every layer that may have lost one.

    Args:
        network: changed in place; its outputs in evaluation stay
        shapes: {name of a node of its graph: sizes of what it gave for an example}

    Returns:
        how many were inserted
    """
    modules = dict(network.named_modules())
    calls = Counter(node.target for node in network.graph.nodes if node.op == "call_module")
    count = 0
    for node in list(network.graph.nodes):
        layer: Any = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(layer, (*_LAYERS, nn.Linear)) or not _reaches_weights(node, modules):
            continue
        if calls[node.target] > 1:  # a layer that is called at several places has no statistics of its own
            continue
        if isinstance(layer, nn.Linear) and len(shapes.get(node.name, ())) != 2:  # of sequences other norms are usual
            continue
        if _is_normed(node, modules):
            continue
        _insert(network, node, layer)
        count += 1
    network.graph.lint()
    network.recompile()
    return count


def _insert(network: fx.GraphModule, node: fx.Node, layer: Any) -> None:
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    dims = 1 if isinstance(layer, nn.Linear) else len(layer.kernel_size)
    norm = _OF_CONVS[dims](channels)
    setattr(norm, _RESTORED, True)
    with torch.no_grad():
        norm.weight.fill_(math.sqrt(1 + norm.eps) / _rescale_(layer))
        if layer.bias is not None:
            norm.bias.copy_(layer.bias)
    layer.bias = None
    name = f"{node.target}_bn"
    while name in dict(network.named_modules()):
        name += "_"
    network.add_submodule(name, norm.train(layer.training))
    with network.graph.inserting_after(node):
        added = network.graph.call_module(name, (node,))
    node.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)


def _rescale_(layer: Any) -> float:
    """Give filters on average the norm that fresh ones have, √2 (He et al. 2015, equation 10); by how much they grew.

    Behind a batch-norm filters of half the norm learn four times as fast, and folding has scaled them. Among the
    filters of a layer norms keep their ratios, by which some methods rank.
    """
    if isinstance(layer, _TRANSPOSED):
        return 1.0
    mean = float(layer.weight.detach().flatten(1).norm(dim=1).mean())
    factor = _FRESH_NORM / mean if mean > 0 else 1.0
    layer.weight.mul_(factor)
    return factor


def _is_operator(module: Any, kinds: tuple[str, ...]) -> bool:
    return isinstance(module, Operator) and module.kind in kinds


def _is_normed(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a normalisation reads what a node gives, perhaps in another shape."""
    for user in node.users:
        module = modules.get(str(user.target)) if user.op == "call_module" else None
        if isinstance(module, _NORMS) or _is_operator(module, _NORM_OPERATORS):
            return True
        if _is_operator(module, _MOVING) and _is_normed(user, modules):
            return True
    return False


def _reaches_weights(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether what a node gives goes on to a layer with weights: that of the last ones is the network's output."""
    seen: set[fx.Node] = set()
    todo = list(node.users)
    while todo:
        user = todo.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.op == "call_module" and isinstance(modules.get(str(user.target)), _WEIGHTED):
            return True
        todo += list(user.users)
    return False


def settle_(network: nn.Module, batches: Iterable[AnyInputs]) -> int:
    """Give restored batch-norms the statistics of inputs, so that they change nothing in training either.

    Args:
        network: of `network_of`; changed in place, computes the same
        batches: inputs, such as normalised images (N, C, H, W)

    Returns:
        how many there are; without any, no batch is looked at
    """
    norms = [module for module in network.modules() if hasattr(module, _RESTORED)]
    if not norms:
        return 0
    moments: dict[nn.Module, list[torch.Tensor]] = {}
    counts = dict.fromkeys(norms, 0)

    def look(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].detach().double().transpose(0, 1).flatten(1).cpu()
        found = [values.sum(1), values.square().sum(1)]
        moments[norm] = [a + b for a, b in zip(moments[norm], found, strict=True)] if norm in moments else found
        counts[norm] += values.shape[1]

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    training = network.training
    with torch.no_grad():
        for inputs in batches:
            run(network.eval(), inputs)
        for norm in norms:
            mean = moments[norm][0] / counts[norm]
            variance = (moments[norm][1] / counts[norm] - mean.square()).clamp_min(1e-8)
            _undo_(norm, mean, variance)
    for handle in handles:
        handle.remove()
    network.train(training)
    return len(norms)


def _undo_(norm: Any, mean: torch.Tensor, variance: torch.Tensor) -> None:
    """Set statistics, and scale and shift such that the outputs stay as they are."""
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    gain = norm.weight.double() / deviation
    shift = norm.bias.double() - norm.running_mean.double() * gain
    norm.weight.copy_(gain * (variance.to(gain) + norm.eps).sqrt())
    norm.bias.copy_(shift + mean.to(gain) * gain)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
