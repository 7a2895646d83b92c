"""Values of a network that do not train: parameters with requires_grad=False, and buffers but for running statistics.

Statistics of a norm that the network leaves in evaluation are constants too.

They may hold a formula (bins, positions, blur kernels), so they are never drawn anew. A channel that is new needs
values of its own there, which are known only where all channels have the same.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from compressor.dependency.graph import DependencyGraph

Norm = nn.modules.batchnorm._NormBase  # batch-norms and instance-norms: their buffers follow the data


class Constants:
    """The names of the parameters and buffers of a network that do not train."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._following = model, set(following(model))

    def __contains__(self, name: str) -> bool:
        module, tensor = _found(self._model, name)
        return not tensor.requires_grad if isinstance(tensor, nn.Parameter) else module not in self._following


def following(model: nn.Module) -> list[Norm]:
    """The norms whose running statistics follow the data in training: a network may leave some in evaluation."""
    norms = [module for module in model.modules() if isinstance(module, Norm)]
    if all(type(module).train is nn.Module.train for module in model.modules()):
        return norms
    trained = copy.deepcopy(model)  # its own code runs
    try:
        trained.train(True)
    except Exception:  # it cannot train, and whoever trains it will say so
        return norms
    modes = {path: module.training for path, module in trained.named_modules()}
    return [module for path, module in model.named_modules() if isinstance(module, Norm) and modes[path]]


def held_by_constants(model: nn.Module, graph: DependencyGraph) -> dict[str, str]:
    """{group: reason} of those that own different values of a constant: a new channel would have none.

    Args:
        model: with its values; of those on the meta device nothing is known
        graph: of the model
    """
    reasons: dict[str, str] = {}
    constants = Constants(model)
    for (name, dim), owners in graph.owners.items():
        if name not in constants:
            continue
        tensor = _found(model, name)[1]
        if tensor.is_meta:
            continue
        for number in owners.numbers:
            group = graph.order[number]
            mine = torch.from_numpy((owners.group == number).nonzero()[0])
            parts = tensor.detach().cpu().index_select(dim, mine).movedim(dim, 0)
            slices = torch.from_numpy(owners.slice[owners.group == number])
            first = parts[slices == slices[0]]
            if group in graph.groups and not all(
                torch.equal(parts[slices == one], first) for one in sorted(set(slices.tolist()))
            ):
                kind = "requires_grad=False" if isinstance(tensor, nn.Parameter) else "a buffer"
                reasons[group] = (
                    f"{group}: its channels have values of their own in {name}, which does not train ({kind})"
                )
    return reasons


def _found(model: nn.Module, name: str) -> tuple[nn.Module, torch.Tensor]:
    """A parameter or buffer, and the module that has it."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    tensor: torch.Tensor = getattr(module, attribute)
    return module, tensor
