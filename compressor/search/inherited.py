"""What the trained weights of the unscaled network become for another architecture of it.

A narrower group loses its least important channels, everywhere they are used; a wider one keeps its own and gets fresh
ones beside them.
"""

from __future__ import annotations

import copy

import torch

from compressor.dependency import ChannelRemover, resize_
from compressor.errors import ModelError
from compressor.models import build, example_input, graph_of
from compressor.models.architecture import Architecture
from compressor.models.initialise import reinitialise_
from compressor.search.importance import Importance, Ranking, importance_of, surplus
from compressor.search.problem import Problem
from compressor.search.streams import Streams, check_same_network


def channel_importance(problem: Problem, ranking: Ranking) -> dict[str, torch.Tensor]:
    """The importance of the slices of the reference's groups, with the weights that it is given: {group: (slices,)}."""
    assert problem.given is not None
    model, graph = build(problem.reference, problem.seed), graph_of(problem.reference)
    model.load_state_dict(dict(problem.given))
    return importance_of(ranking, model, graph, list(graph.groups), problem)


def inherited(problem: Problem, architecture: Architecture, importance: Importance) -> dict[str, torch.Tensor]:
    """The weights that an architecture begins with, where its unscaled network has some.

    Args:
        problem: its reference, the weights that this is given, its seed, for new channels, and its engine
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
    return {
        name: tensor.detach().contiguous() for name, tensor in copy.deepcopy(model).cpu().eval().state_dict().items()
    }
