"""A data set: grey stripes in several directions, drawn by a seed, with noise."""

import math

import torch

from compressor.data.dataset import complete, divide
from compressor.data.split import TensorSplit
from compressor.errors import DataError

_TEST = 300


def load(config, seed, device):
    """Make the data set that a recipe's `data` section describes."""
    directions, noise = config.options.get("directions", 4), config.options.get("noise", 0.2)
    if not isinstance(directions, int) or directions < 2:
        raise DataError(f"data.options.directions: {directions!r} is not a whole number of at least 2")
    side = config.image_size or 16
    train = stripes((config.limit or 1000), directions, noise, side, seed=1)
    test = stripes(_TEST, directions, noise, side, seed=2)
    splits = [TensorSplit(images.to(device), labels.to(device)) for images, labels in (train, test)]
    names = [f"{180 * number // directions} degrees" for number in range(directions)]
    return complete(config.name, (*divide(splits[0], config, seed), splits[1]), names, seed)


def stripes(count, directions, noise, side, seed):
    """Images uint8 (count, 1, side, side) and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(directions, (count,), generator=generator)
    angle = (labels * math.pi / directions).view(-1, 1, 1)
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = torch.sin((columns * angle.cos() + rows * angle.sin()) * 1.2 + phase)
    images = 0.5 + 0.35 * waves + noise * torch.randn(count, side, side, generator=generator)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).unsqueeze(1), labels
