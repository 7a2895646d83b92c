"""What the trained weights of the unscaled network become for another architecture of it.

A narrower group loses its least important channels, everywhere they are used; a wider one keeps its own and gets fresh
ones beside them. Batch-norms then see other inputs than those that their running statistics are of, so these are taken
anew over some mini-batches of training data (Li et al., "EagleEye", ECCV 2020, section 3.3): fine-tuning of a few steps
would not make up for it.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.dependency import ChannelRemover, resize_
from compressor.errors import ModelError
from compressor.models import build, example_input, graph_of
from compressor.models.architecture import Architecture
from compressor.models.initialise import reinitialise_
from compressor.search.importance import Importance, Ranking, importance_of, surplus
from compressor.search.problem import Problem
from compressor.search.streams import Streams, check_same_network
from compressor.training.checkpoint import Snapshot
from compressor.training.trainer import Settings

_BATCHES, _BATCH_SIZE = 16, 128  # that statistics are means over; their size where the recipe says none


def channel_importance(problem: Problem, ranking: Ranking) -> dict[str, torch.Tensor]:
    """The importance of the slices of the reference's groups, with the weights that it is given: {group: (slices,)}."""
    assert problem.given is not None
    model, graph = build(problem.reference, problem.seed), graph_of(problem.reference)
    model.load_state_dict(dict(problem.given))
    return importance_of(ranking, model, graph, list(graph.groups), problem)


def inherited(problem: Problem, architecture: Architecture, importance: Importance) -> dict[str, torch.Tensor]:
    """The weights that an architecture begins with, where its unscaled network has some.

    Args:
        problem: its reference, the weights that this is given, its seed, for new channels, its engine, and its trainer,
            which has the data
        architecture: the same network at other widths
        importance: of the reference's channels, see `channel_importance`

    Raises:
        ModelError: the architecture has stacked layers, or others than the reference at other widths
    """
    reference, given, seed = problem.reference, problem.given, problem.seed
    if given is None or architecture.stacks or architecture.options != reference.options:
        raise ModelError(
            f"search.weights: kept: this method changes the layers of {reference.model}, whose weights do not fit "
            "then; take a method that changes widths alone, or fresh"
        )
    model = build(reference, seed)
    model.load_state_dict(dict(given))
    graph = graph_of(reference)
    widths = Streams.of(reference, graph).group_widths(architecture)
    removed = {
        name: surplus(graph, name, importance[name], width)
        for name, width in widths.items()
        if width < graph.groups[name].channels and graph.groups[name].exact
    }
    remove = ChannelRemover(model, graph, example_input(reference), list(removed), problem.engine)
    graph = remove(model, graph, removed)
    other = {name: width for name, width in widths.items() if graph.groups[name].channels != width}
    if other:  # wider ones, and those whose channels are shuffled
        resize_(model, graph, other, fill=float("nan"))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            reinitialise_(model, build(reference, seed), new_only=True)
    check_same_network(architecture, model)
    if removed or other:
        settle_statistics_(model, problem)
    return {
        name: tensor.detach().contiguous() for name, tensor in copy.deepcopy(model).cpu().eval().state_dict().items()
    }


class _Held:
    """Observer that takes every step on the weights back, and ends training after some.

    Args:
        model: whose weights stay
        steps: after which training ends
    """

    def __init__(self, model: nn.Module, steps: int) -> None:
        self._weights = [parameter.detach().clone() for parameter in model.parameters()]
        self._left = steps

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> None:
        self._parameters = list(model.parameters())

    def after_backward(self) -> None:
        """Gradients are of no interest."""

    def after_step(self) -> bool:
        with torch.no_grad():
            for parameter, weight in zip(self._parameters, self._weights, strict=True):
                parameter.copy_(weight)
        self._left -= 1
        return self._left <= 0

    def state(self) -> Snapshot:
        return Snapshot({}, {})

    def restore(self, snapshot: Snapshot) -> None:
        """Nothing is kept: it takes seconds."""


def settle_statistics_(model: nn.Module, problem: Problem) -> None:
    """Make the running statistics of batch-norms the means over up to 16 mini-batches of training data.

    Args:
        model: changed in place, but for its weights; without batch-norms that have statistics it stays as it is
        problem: its trainer has the data, its seed decides which are drawn
    """
    if not _with_statistics(model):
        return
    looked_at = copy.deepcopy(model)
    for norm in _with_statistics(looked_at).values():
        norm.momentum = None  # the mean of all that it sees
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.zero_()
    looked_at = problem.trainer.prepare(looked_at)
    batch = _BATCH_SIZE if problem.final is None else problem.final.batch_size
    still = Settings(None, batch, lambda step, per_epoch: 0.0, momentum=0.0, weight_decay=0.0, evaluate=False)
    held = _Held(looked_at, min(_BATCHES, problem.trainer.epoch_size(batch, looked_at)[0]))
    problem.trainer.fit(looked_at, still, seed=problem.seed, label="statistics of batch-norms", observer=held)
    seen = _with_statistics(looked_at)
    for name, norm in _with_statistics(model).items():
        for own, found in ((norm.running_mean, seen[name].running_mean), (norm.running_var, seen[name].running_var)):
            if own is not None and found is not None and bool(found.isfinite().all()):
                own.copy_(found)


def _with_statistics(model: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
