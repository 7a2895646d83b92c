"""Networks that come with weights: what these become for another architecture of the same network.

A narrower group loses its filters of smallest L1 norm, everywhere they are used; a wider one keeps its own and gets
fresh ones beside them.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping

import torch
from torch import nn

from compressor.data import DataSet, ordered
from compressor.dependency import ChannelRemover, Engine, resize_
from compressor.errors import ModelError
from compressor.models import build, example_input, graph_of, network_with_weights
from compressor.models.architecture import Architecture
from compressor.models.initialise import reinitialise_
from compressor.models.onnx_file import settle_
from compressor.search.filters import smallest_filters
from compressor.search.streams import check_same_network

_LOOKED_AT, _BATCHES = 128, 8  # images of a batch, and batches, that statistics are taken of


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
    batches = itertools.islice(ordered(data.train, data, _LOOKED_AT), _BATCHES)
    settle_(network, (images.cpu() for images, _ in batches))
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def inherited(
    reference: Architecture,
    weights: Mapping[str, torch.Tensor],
    architecture: Architecture,
    seed: int,
    engine: Engine = "auto",
) -> dict[str, torch.Tensor]:
    """The weights that an architecture begins with, where its unscaled network has some.

    Args:
        reference: the unscaled network
        weights: its state dict
        architecture: the same network at other widths
        seed: of new channels
        engine: what removes channels, see `compressor.dependency.ChannelRemover`

    Raises:
        ModelError: the architecture has stacked layers, or others than the reference at other widths
    """
    if architecture.stacks or architecture.options != reference.options:
        raise ModelError(
            f"model.weights: given: this method changes the layers of {reference.model}, whose weights do not fit "
            "then; take a method that changes widths alone, or weights: fresh"
        )
    model = build(reference, seed)
    model.load_state_dict(dict(weights))
    graph = graph_of(reference)
    widths = architecture.widths
    removed = {
        name: smallest_filters(model, graph, name, widths[name])
        for name, own in reference.widths.items()
        if widths[name] < own and graph.groups[name].exact
    }
    graph = ChannelRemover(model, graph, example_input(reference), list(removed), engine)(model, graph, removed)
    wider = {name: width for name, width in widths.items() if graph.groups[name].channels != width}
    if wider:
        resize_(model, graph, wider, fill=float("nan"))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            reinitialise_(model, build(reference, seed), new_only=True)
    check_same_network(architecture, model)
    return {name: tensor.detach().contiguous() for name, tensor in _copied(model).state_dict().items()}


def _copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cpu().eval()
