"""Trained weights: those of the unscaled network, and what they become for another architecture of it.

A narrower group loses its least important channels, everywhere they are used; a wider one keeps its own and gets fresh
ones beside them.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from compressor.data import DataSet, ordered
from compressor.dependency import ChannelRemover, resize_
from compressor.errors import ModelError
from compressor.models import (
    build,
    drawn,
    example_input,
    graph_of,
    has_weights,
    network_with_weights,
    published_weights,
)
from compressor.models.architecture import Architecture
from compressor.models.examples import given_example
from compressor.models.from_onnx.batch_norms import settle_
from compressor.models.initialise import reinitialise_
from compressor.models.weights_file import load_trained_, read_weights
from compressor.recipe.sections import ModelConfig
from compressor.search.importance import Importance, Ranking, importance_of, surplus
from compressor.search.problem import Problem
from compressor.search.streams import Streams, check_same_network

_LOOKED_AT, _BATCHES = 128, 8  # images of a batch, and batches, that statistics are taken of


@dataclass(frozen=True)
class Trained:
    """The weights that an unscaled network begins with.

    Attributes:
        tensors: its state dict, on the CPU
        fresh: layers, or parameters, that are new: a head, say, where the weights are of another number of classes
        source: where they are from
    """

    tensors: Mapping[str, torch.Tensor]
    fresh: tuple[str, ...]
    source: str


def trained_weights(config: ModelConfig, reference: Architecture, data: DataSet, seed: int = 0) -> Trained | None:
    """The trained weights of a recipe's network; None: there are none, or none are asked for.

    Args:
        config: the recipe's section
        reference: the unscaled network
        data: its training images give batch-norms that an ONNX file had lost their statistics
        seed: of what the network's code draws all the same

    Raises:
        ModelError: a file is absent, cannot be read or is of another network, or the network comes without weights
        UnavailableError: weights cannot be downloaded
    """
    source = config.weights_file
    if config.weights_of_torchvision is not None:
        source = published_weights(config.name, config.weights_of_torchvision, download=config.download)
    if source is not None:
        network = build(reference, seed)
        fresh = load_trained_(network, read_weights(source), str(source), reference.classes)
        return Trained(_copied(network).state_dict(), tuple(fresh), str(source))
    if config.weights == "given" or (config.weights == "auto" and config.width == 1 and has_weights(reference)):
        return Trained(given_weights(reference, data, seed), drawn(reference), config.name)
    return None


def given_weights(reference: Architecture, data: DataSet, seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights that the unscaled network comes with.

    Args:
        reference: of a network outside the zoo, at its own widths
        data: its training images give batch-norms that an ONNX file had lost their statistics
        seed: of what its code draws all the same

    Raises:
        ModelError: it is a network of the zoo, or not at its own widths
    """
    network = network_with_weights(reference, seed)
    check_same_network(reference, network)
    example = given_example(reference.model)
    if example is not None:
        settle_(network, [example])
    else:
        batches = itertools.islice(ordered(data.train, data, _LOOKED_AT), _BATCHES)
        settle_(network, (images.cpu() for images, _ in batches))
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


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
    return {name: tensor.detach().contiguous() for name, tensor in _copied(model).state_dict().items()}


def _copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cpu().eval()
