"""Values of a network that do not train: parameters with requires_grad=False, and buffers but for running statistics.

They may hold a formula (bins, positions, blur kernels), so they are never drawn anew. A channel that is new needs
values of its own there, which are known only where all channels have the same.
"""

from __future__ import annotations

import torch
from torch import nn

from compressor.dependency.graph import DependencyGraph

STATISTICAL = nn.modules.batchnorm._NormBase  # batch-norms and instance-norms: their buffers follow the data


def is_constant(model: nn.Module, name: str) -> bool:
    """Whether a parameter or buffer does not train."""
    module, tensor = _found(model, name)
    if isinstance(tensor, nn.Parameter):
        return not tensor.requires_grad
    return not isinstance(module, STATISTICAL)


def held_by_constants(model: nn.Module, graph: DependencyGraph) -> dict[str, str]:
    """{group: reason} of those that own different values of a constant: a new channel would have none.

    Args:
        model: with its values; of those on the meta device nothing is known
        graph: of the model
    """
    reasons: dict[str, str] = {}
    for (name, dim), owners in graph.owners.items():
        if not is_constant(model, name):
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
