"""Folders with the four idx files of MNIST, Fashion-MNIST, Kuzushiji-MNIST and their like, gzipped or not.

The format (http://yann.lecun.com/exdb/mnist): two zero bytes, the elements' type, the number of dimensions,
each dimension as a big-endian 32-bit number, then the elements.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from compressor.data.config import SourceConfig, data_folder
from compressor.data.dataset import DataSet, complete, divide
from compressor.data.pixels import fit
from compressor.data.split import TensorSplit
from compressor.errors import DataError

_PIECE = 2**20  # bytes that are read at once
_UNSIGNED_BYTE = 0x08
_LARGE = 2**26  # bytes; what is packed more densely than so many times may be meant to fill the memory
_DENSEST = 100


def load(config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    """Load the idx files in the folder `config.path`; classes are named by their numbers.

    Raises:
        DataError: the folder or a file is missing or broken.
    """
    folder = data_folder(config)
    part = _load_part(folder, "train", config, device)
    test = _load_part(folder, "t10k", config, device)
    class_names = [str(i) for i in range(int(part.labels.max()) + 1)]
    return complete(config.name, (*divide(part, config, seed), test), class_names, seed)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an idx file of unsigned bytes.

    Args:
        path: gzipped if its name ends in .gz.
        dimensions: how many the file must have.

    Returns:
        uint8 tensor of the file's dimensions.

    Raises:
        DataError: the file is not whole, or not an idx file of `dimensions` dimensions of bytes.
    """
    content = _read(path, dimensions)
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != magic:
        raise DataError(f"{path}: begins with {content[:4].hex()!r}, an idx file of bytes with {magic.hex()!r}")
    begin = 4 + 4 * dimensions
    if len(content) < begin:
        raise DataError(f"{path}: has {len(content)} bytes, its header alone needs {begin}")
    shape = struct.unpack(f">{dimensions}I", content[4:begin])
    if len(content) - begin != math.prod(shape):
        more = "more than " if len(content) - begin > math.prod(shape) else ""
        held = min(len(content) - begin, math.prod(shape))
        raise DataError(f"{path}: holds {more}{held} elements, its header promises {math.prod(shape)}")
    if math.prod(shape) == 0:
        raise DataError(f"{path}: has the shape {shape}, it holds nothing")
    return torch.frombuffer(content, dtype=torch.uint8, offset=begin).view(shape)


def _read(path: Path, dimensions: int) -> bytearray:
    """The header, and as many bytes as it promises and one more: a small file may be packed to hold any number."""
    begin = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = bytearray(stream.read(begin))
            if len(content) < begin or content[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
                return content
            left = math.prod(struct.unpack(f">{dimensions}I", content[4:begin])) + 1
            packed = path.stat().st_size
            if path.suffix == ".gz" and left > max(_LARGE, _DENSEST * packed):
                raise DataError(
                    f"{path}: has {packed:,} bytes and promises {left - 1:,} elements, more than {_DENSEST} times as "
                    "many; unpack it if that is right"
                )
            while left > 0 and (piece := stream.read(min(left, _PIECE))):
                content += piece
                left -= len(piece)
        return content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _load_part(folder: Path, prefix: str, config: SourceConfig, device: torch.device) -> TensorSplit:
    images_path = _find(folder, f"{prefix}-images-idx3-ubyte")
    labels_path = _find(folder, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: has {len(labels)} labels for {len(images)} images in {images_path.name}")
    pixels = fit(images.unsqueeze(1), image_size=config.image_size, channels=config.channels)
    return TensorSplit(pixels.to(device), labels.long().to(device))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"data.path: {str(folder)!r} holds neither {name} nor {name}.gz")
