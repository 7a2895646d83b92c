"""How important the channels of a trained network are: which of a group stay, where it keeps trained weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from compressor.data.draws import generator
from compressor.dependency import DependencyGraph
from compressor.search.channel_scale import ChannelScales
from compressor.search.problem import Problem
from compressor.training.checkpoint import Snapshot
from compressor.training.trainer import Settings

Ranking = Literal["taylor", "l1", "l2", "random"]
Importance = Mapping[str, torch.Tensor]  # {group: (slices,) in float64 on the CPU}

_BATCHES, _BATCH_SIZE = 50, 128  # that derivatives are summed over; their size where the recipe says none


def importance_of(
    ranking: Ranking, model: nn.Module, graph: DependencyGraph, names: Sequence[str], problem: Problem
) -> dict[str, torch.Tensor]:
    """The importance of every slice of some groups, {group: (slices,)}.

    Args:
        ranking: taylor: (∂L/∂z)² of a scale z = 1 of the slice, summed over up to 50 mini-batches of training data
            (Molchanov et al., CVPR 2019, equation 8); l1, l2: the norm of the filters that make it; random: a draw
        model: the trained network; left as it is
        graph: of the model
        names: of the groups
        problem: its trainer has the data, its seed decides what is drawn
    """
    if ranking == "taylor":
        return _taylor(model, graph, names, problem)
    if ranking == "random":
        sizes = {name: graph.groups[name].slices for name in names}
        draws = {name: generator("ranking", problem.seed, name) for name in names}
        return {name: torch.rand(size, generator=draws[name], dtype=torch.float64) for name, size in sizes.items()}
    return {name: filter_norms(model, graph, name, {"l1": 1, "l2": 2}[ranking]) for name in names}


def filter_norms(model: nn.Module, graph: DependencyGraph, name: str, power: int = 1) -> torch.Tensor:
    """L1 or L2 norms (`power`) of the weights that make every slice of a group, (slices,), in float64 on the CPU."""
    total = torch.zeros(graph.groups[name].slices, dtype=torch.float64)
    for made in graph.producers(name):
        weight = model.get_parameter(made.tensor).detach().cpu().double().abs().pow(power)
        norms = weight.movedim(made.dim, 0).reshape(weight.shape[made.dim], -1).sum(1)
        total.index_add_(0, torch.as_tensor(made.slice), norms[torch.as_tensor(made.index)])
    return total.pow(1 / power)


def surplus(graph: DependencyGraph, name: str, importance: torch.Tensor, width: int) -> list[int]:
    """The slices of least importance, (slices,), that a group must lose to have `width` channels; of equals the first.

    Slices whose importance is not a number are the least important ones.
    """
    group = graph.groups[name]
    order = importance.nan_to_num(nan=-torch.inf).argsort(stable=True)
    return sorted(order[: max(0, group.slices - width // group.step)].tolist())


class _Watched:
    """Observer that adds up squared derivatives over some mini-batches, then ends training."""

    def __init__(self, graph: DependencyGraph, names: Sequence[str], batches: int) -> None:
        self._graph, self._names, self._left = graph, list(names), batches

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> None:
        self.scales = ChannelScales(model, self._graph, self._names)
        self.sum = torch.zeros(self.scales.total, device=self.scales.device, dtype=torch.float64)

    def after_backward(self) -> None:
        self.sum += self.scales.derivatives().square()
        self._left -= 1

    def after_step(self) -> bool:
        return self._left <= 0

    def state(self) -> Snapshot:
        return Snapshot({}, {})

    def restore(self, snapshot: Snapshot) -> None:
        """Nothing is kept: it takes seconds."""


def _taylor(
    model: nn.Module, graph: DependencyGraph, names: Sequence[str], problem: Problem
) -> dict[str, torch.Tensor]:
    batch = _BATCH_SIZE if problem.final is None else problem.final.batch_size
    batches = min(_BATCHES, problem.trainer.epoch_size(batch, model)[0])
    watched = _Watched(graph, names, batches)
    # At a learning rate of 0 nothing moves but the statistics of batch-norms, which are the copy's.
    still = Settings(None, batch, lambda step, per_epoch: 0.0, momentum=0.0, weight_decay=0.0, evaluate=False)
    looked_at = problem.trainer.prepare(copy.deepcopy(model))
    problem.trainer.fit(looked_at, still, seed=problem.seed, label="ranking channels", observer=watched)
    found, starts = watched.sum.cpu(), watched.scales.starts
    return {name: found[starts[name] : starts[name] + graph.groups[name].slices] for name in names}
