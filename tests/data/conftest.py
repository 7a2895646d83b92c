"""Small real data: the digits, as tensors and written to disk as the sources expect them."""

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from compressor.data import TensorSplit


@dataclass(frozen=True)
class Config:
    """The fields of a recipe's data section, with its defaults."""

    name: str
    path: str | None = None
    download: bool = False
    image_size: int | None = None
    channels: int | None = None
    validation: float = 0.1
    limit: int | None = None
    memory_gib: float = 4.0
    augment: tuple[str, ...] = ()
    window: int = 35


@pytest.fixture(scope="session")
def make_config() -> type[Config]:
    return Config


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """uint8 (1797, 8, 8) and int64 (1797,)."""
    found = load_digits()
    return (torch.from_numpy(found.images) * 255 / 16).round().byte(), torch.from_numpy(found.target).long()


@pytest.fixture
def numbered() -> Callable[..., TensorSplit]:
    """A maker of splits whose images say which they are: image i has the label i and its pixels spell i."""

    def make(count: int, channels: int = 3, side: int = 16) -> TensorSplit:
        pixels = torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(1))
        labels = torch.arange(count)
        pixels[:, :, 0, 0] = labels[:, None] % 256
        pixels[:, :, 0, 1] = labels[:, None] // 256
        return TensorSplit(pixels.byte(), labels)

    return make


@pytest.fixture
def idx_folder(tmp_path: Path, digits: tuple[Tensor, Tensor]) -> Path:
    """300 training and 60 test digits as idx files, the training part gzipped."""
    images, labels = digits
    for prefix, part, suffix in (("train", slice(0, 300), ".gz"), ("t10k", slice(300, 360), "")):
        for kind, data in (("images-idx3", images[part]), ("labels-idx1", labels[part].byte())):
            header = bytes([0, 0, 8, data.dim()]) + struct.pack(f">{data.dim()}I", *data.shape)
            content = header + data.numpy().tobytes()
            path = tmp_path / f"{prefix}-{kind}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content, 1) if suffix else content)
    return tmp_path


@pytest.fixture
def image_folder(tmp_path: Path, digits: tuple[Tensor, Tensor]) -> Path:
    """120 training and 40 test digits as PNG files in colour: red the image, green its mirror, blue 77."""
    images, labels = digits
    for part, numbers in (("train", range(120)), ("test", range(120, 160))):
        for number in numbers:
            folder = tmp_path / part / f"digit{labels[number]}"
            folder.mkdir(parents=True, exist_ok=True)
            red = images[number]
            colour = torch.stack([red, red.flip(1), torch.full_like(red, 77)], dim=2)
            Image.fromarray(colour.numpy()).save(folder / f"{number:04d}.png")
    return tmp_path
