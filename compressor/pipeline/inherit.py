"""Trained weights of the unscaled network; `compressor.search.inherited` has what becomes of them at other widths."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from compressor.data import DataSet, ordered
from compressor.models import (
    build,
    drawn,
    has_weights,
    network_with_weights,
    published_weights,
)
from compressor.models.architecture import Architecture
from compressor.models.examples import given_example
from compressor.models.from_onnx.batch_norms import settle_
from compressor.models.weights_file import load_trained_, read_weights
from compressor.recipe.sections import ModelConfig
from compressor.search.streams import check_same_network

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


def _copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cpu().eval()
