"""Find the source that a recipe names, built in or from another package, and load it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import torch

from compressor.data import cifar, digits, folder, idx, ptb, shapes, torch_data, voc
from compressor.data.config import SourceConfig, check_config
from compressor.data.dataset import DataSet
from compressor.errors import DataError, not_one_of

Source = Callable[[SourceConfig, int, torch.device], DataSet]

BUILT_IN: dict[str, Source] = {
    "cifar10": cifar.load_cifar10,
    "cifar100": cifar.load_cifar100,
    "digits": digits.load,
    "idx": idx.load,
    "imagefolder": folder.load,
    "ptb": ptb.load,
    "shapes": shapes.load,
    "voc": voc.load,
}

GROUP = "compressor.datasets"


def load_data(config: SourceConfig, *, seed: int, device: str | torch.device = "cpu") -> DataSet:
    """Load the data set that a recipe's `data` section describes.

    Args:
        config: the section; other packages add names through the entry-point group `compressor.datasets`,
            each a callable (config, seed, device) -> DataSet.
        seed: chooses the validation images, and of stored images those to train on if `config.limit` is set.
        device: where samples and targets will be.

    Raises:
        DataError: the data is missing or broken, or the name is unknown or taken twice.
    """
    check_config(config)
    if not getattr(config, "labels", True) and config.name != "imagefolder":
        raise DataError(f"data.labels: false is for an imagefolder, not for {config.name}")
    if ":" in config.name:
        return torch_data.load(config, seed, torch.device(device))
    if config.name in BUILT_IN and getattr(config, "options", {}):
        raise DataError(f"data.options: {config.name} takes none; they are for data sets of plug-ins")
    found = _source(config.name)(config, seed, torch.device(device))
    if not isinstance(found, DataSet):
        raise DataError(f"data.name: {config.name!r} gave a {type(found).__name__} instead of a DataSet")
    return found


def _source(name: str) -> Source:
    others = _third_party()
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name in others:
        point = others[name]
        try:
            source: Source = point.load()
        except (ImportError, AttributeError) as error:
            raise DataError(f"data.name: entry point {GROUP}: {name!r} cannot be loaded: {error}") from error
        if not callable(source):
            raise DataError(f"data.name: entry point {GROUP}: {name!r} ({point.value}) is no function")
        return source
    raise DataError(f"data.name: {not_one_of(name, {*BUILT_IN, *others})}, and no package.module:function")


def _third_party() -> dict[str, EntryPoint]:
    """Collect the sources of other packages; of two with one name, neither may silently win."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in BUILT_IN:
            raise DataError(f"data set {point.name!r} of {point.value} has the name of a built-in one")
        if point.name in found:
            raise DataError(f"data set {point.name!r} is given twice: {found[point.name].value} and {point.value}")
        found[point.name] = point
    return found
