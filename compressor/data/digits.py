"""Handwritten digits, 1,797 grey images of 8x8 pixels in 10 classes, embedded in scikit-learn.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import torch

from compressor.data.config import SourceConfig
from compressor.data.dataset import DataSet, complete, divide
from compressor.data.pixels import fit
from compressor.data.split import TensorSplit

TEST_SHARE = 0.2
DEFAULT_SIZE = 32

# The source has no test part. A constant seed, not the recipe's: all runs are measured on the same images.
_TEST_SEED = 1797


def load(config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    """Load the digits, enlarged to 32x32 pixels unless `config.image_size` says otherwise."""
    from sklearn.datasets import load_digits  # a second of import time that only this source needs

    found = load_digits()
    grey = torch.from_numpy(found.images).float() * (255 / 16)  # the source counts grey levels 0..16
    images = fit(
        grey.round().to(torch.uint8).unsqueeze(1),
        image_size=config.image_size or DEFAULT_SIZE,
        channels=config.channels,
    )
    whole = TensorSplit(images.to(device), torch.from_numpy(found.target).long().to(device))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(_TEST_SEED))
    count = round(len(whole) * TEST_SHARE)
    test, part = whole.subset(order[:count]), whole.subset(order[count:])
    return complete(config.name, (*divide(part, config, seed), test), [str(i) for i in range(10)], seed)
