"""Labels of images that have none: what a trained network makes of them."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from compressor.data import DataSet, Split, ordered
from compressor.data.split import LabelledSplit
from compressor.errors import DataError

AGREEMENT = "agreement"  # the metric of such data: the share of images to which a network gives the same class
_BATCH = 256


def labelled_by(network: nn.Module, data: DataSet, class_names: tuple[str, ...]) -> DataSet:
    """A data set whose images have the classes that a network gives them.

    Accuracy on it is agreement with that network.

    Args:
        network: in evaluation mode, on the device of the data; gives logits (N, classes)
        data: images; their own labels do not count
        class_names: of the network's outputs
    """
    parts = {name: _labelled(network, data, getattr(data, name)) for name in ("train", "validation", "test")}
    return replace(data, **parts, class_names=class_names, metric=(AGREEMENT, "higher"))  # type: ignore[arg-type]


def _labelled(network: nn.Module, data: DataSet, split: Split) -> Split:
    if not isinstance(split, LabelledSplit):
        raise DataError(f"data.labels: false is not for the data set {data.name!r}")
    if not len(split):
        return split
    with torch.inference_mode():
        found = [network(images).argmax(1).cpu() for images, _ in ordered(split, data, _BATCH)]
    other = copy.copy(split)
    other.labels = torch.cat(found).clone().to(split.device)  # no tensor of inference mode
    return other
