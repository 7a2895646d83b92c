"""How much of a network every channel is, by the L1 norm of the filters that make it (Li et al., ICLR 2017)."""

from __future__ import annotations

import torch
from torch import nn

from compressor.dependency import DependencyGraph


def filter_norms(model: nn.Module, graph: DependencyGraph, name: str) -> torch.Tensor:
    """Sums of the absolute weights that make every slice of a group, (slices,), in float64 on the CPU."""
    total = torch.zeros(graph.groups[name].slices, dtype=torch.float64)
    for made in graph.producers(name):
        weight = model.get_parameter(made.tensor).detach().cpu().double().abs()
        norms = weight.movedim(made.dim, 0).reshape(weight.shape[made.dim], -1).sum(1)
        total.index_add_(0, torch.as_tensor(made.slice), norms[torch.as_tensor(made.index)])
    return total


def smallest_filters(model: nn.Module, graph: DependencyGraph, name: str, width: int) -> list[int]:
    """The slices of smallest norm that a group must lose to have `width` channels; of equal ones the first."""
    group = graph.groups[name]
    surplus = group.slices - width // group.step
    return sorted(filter_norms(model, graph, name).argsort(stable=True)[:surplus].tolist())
