"""What the trained weights of the unscaled network become for another architecture of it.

A narrower group loses its least important channels, everywhere they are used; a wider one keeps its own and gets fresh
ones beside them. Batch-norms then see other inputs than those that their running statistics are of, so these are taken
anew over some mini-batches of training data (adaptive batch normalisation: Li et al., "EagleEye", ECCV 2020), for which
a few steps of fine-tuning may be too few.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.data import ordered
from compressor.data.draws import generator
from compressor.dependency import ChannelRemover, resize_
from compressor.errors import ModelError
from compressor.models import build, example_input, graph_of
from compressor.models.architecture import Architecture
from compressor.models.initialise import reinitialise_
from compressor.search.importance import Importance, Ranking, importance_of, surplus
from compressor.search.problem import Problem
from compressor.search.streams import Streams, check_same_network
from compressor.training.trainer import Trainer

_SAMPLES, _BATCH = 2048, 32  # that statistics are of, at most; how many at once


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
        take_statistics_(model, problem)
    return {
        name: tensor.detach().contiguous() for name, tensor in copy.deepcopy(model).cpu().eval().state_dict().items()
    }


def take_statistics_(model: nn.Module, problem: Problem) -> None:
    """Make the running statistics of batch-norms those of samples of training data, without augmentation.

    Args:
        model: changed in place, but for its weights; without batch-norms that have statistics it stays as it is, and
            so it does where only functions of the user's can read the data
        problem: its trainer has the data, its seed decides which are drawn
    """
    trainer = problem.trainer
    if not (_with_statistics(model) and isinstance(trainer, Trainer)) or trainer.data.task == "own":
        return
    order = torch.randperm(len(trainer.data.train), generator=generator("statistics", problem.seed))[:_SAMPLES]
    chosen = trainer.data.train.subset(order)
    network = trainer.prepare(copy.deepcopy(model)).eval()
    norms = _with_statistics(network)
    for norm in norms.values():
        norm.train()
    with torch.no_grad():
        seen = 0
        for inputs, _ in ordered(chosen, trainer.data, _BATCH):
            if len(inputs) < 2:  # which has no deviation
                continue
            seen += len(inputs)
            for norm in norms.values():
                norm.momentum = len(inputs) / seen  # a mean over samples; classes of others' own need a number
            network(inputs)
    for name, norm in _with_statistics(model).items():
        found = (norms[name].running_mean, norms[name].running_var)
        for own, other in zip((norm.running_mean, norm.running_var), found, strict=True):
            if own is not None and other is not None:
                own.copy_(other)


def _with_statistics(model: nn.Module) -> dict[str, _BatchNorm]:
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    # torch's synchronised ones would wait for other processes, which take no part.
    return {
        name: norm
        for name, norm in norms.items()
        if norm.running_mean is not None and not isinstance(norm, nn.SyncBatchNorm)
    }
