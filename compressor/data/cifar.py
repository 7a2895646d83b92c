"""CIFAR-10 and CIFAR-100, 60,000 colour images of 32x32 pixels, read by torchvision.

A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from compressor.data.config import SourceConfig, expanded
from compressor.data.dataset import DataSet, complete, divide
from compressor.data.pixels import fit
from compressor.data.split import TensorSplit
from compressor.errors import DataError


def load_cifar10(config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    """Load CIFAR-10 from the folder `config.path`, downloading it if `config.download` allows it.

    Raises:
        DataError: the data is missing, broken or cannot be downloaded.
    """
    from torchvision.datasets import CIFAR10

    return _load(CIFAR10, config, seed, device)


def load_cifar100(config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    """Load CIFAR-100 with its 100 fine classes, as `load_cifar10` does.

    Raises:
        DataError: the data is missing, broken or cannot be downloaded.
    """
    from torchvision.datasets import CIFAR100

    return _load(CIFAR100, config, seed, device)


def _load(reader: Any, config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    if config.path is None:
        raise DataError(f"data.path: the data set {config.name!r} needs the folder that holds it, got none")
    root = expanded(config.path)
    folder = root / reader.base_folder
    if not folder.is_dir() and not config.download:
        raise DataError(
            f"data.path: {config.path!r} does not hold {config.name} "
            f"(looked for the folder {folder.absolute()}); `data.download: true` fetches it"
        )
    part, class_names = _read(reader, root, config, device, train=True)
    test, _ = _read(reader, root, config, device, train=False)
    return complete(config.name, (*divide(part, config, seed), test), class_names, seed)


def _read(
    reader: Any, root: Path, config: SourceConfig, device: torch.device, *, train: bool
) -> tuple[TensorSplit, list[str]]:
    try:
        with warnings.catch_warnings():
            # The official files were pickled by a numpy that wrote 0 for False; numpy 2.4 warns of it.
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
            found = reader(root=str(root), train=train, download=config.download)
    except (RuntimeError, OSError) as error:  # torchvision's word for a wrong md5 sum; a failed download
        raise DataError(f"{root / reader.base_folder}: {config.name} cannot be read: {error}") from error
    images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()  # stored (N, H, W, C)
    pixels = fit(images, image_size=config.image_size, channels=config.channels)
    return TensorSplit(pixels.to(device), torch.tensor(found.targets, device=device)), list(found.classes)
