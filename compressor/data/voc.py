"""PASCAL VOC's folders of images with a class for every pixel: 20 kinds of things and the background.

M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman: The PASCAL Visual Object Classes (VOC)
Challenge, International Journal of Computer Vision 88, 2010.

    JPEGImages/NAME.jpg
    SegmentationClass/NAME.png                 a palette image; 255: the pixel does not count
    ImageSets/Segmentation/train.txt, val.txt  a name per line; val.txt is the test part here
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from compressor.data.config import SourceConfig, data_folder
from compressor.data.dataset import DataSet, complete, divide
from compressor.data.decoding import BROKEN, FileSplit, ImageFormat, decode_image, decode_rows, settle
from compressor.data.masks import UNLABELLED, MaskedSplit, MaskSplit
from compressor.errors import DataError

CLASSES = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

_PLACES = ("", "VOC2012", "VOCdevkit/VOC2012")


class VocSplit(MaskedSplit, FileSplit):
    """A split whose images and masks stay in their files until they are asked for.

    Args:
        files: (image, mask) of every sample.
        form: how to decode the images; masks are brought to the same size.
        device: where samples will be.
    """

    def __init__(self, files: Sequence[tuple[str, str]], form: ImageFormat, device: torch.device) -> None:
        super().__init__(form.shape)
        self.files = tuple(files)
        self.form = form
        self._device = device

    def __len__(self) -> int:
        return len(self.files)

    @property
    def device(self) -> torch.device:
        """Where samples will be."""
        return self._device

    @property
    def sample_bytes(self) -> int:
        """Size of one decoded image with its mask."""
        channels, height, width = self.form.shape
        return math.prod((channels + 1, height, width))

    def fetch(self, indices: Tensor) -> Tensor:
        """Decode the images and masks at `indices` to uint8 (B, C + 1, H, W) in CPU memory."""
        return self._decode([self.files[i] for i in indices.tolist()], pin_memory=self.device.type == "cuda")

    def target_range(self) -> None:
        """Return None: masks are looked at, and class numbers checked, when they are decoded."""

    def subset(self, indices: Tensor) -> Self:
        """Return a split of the files at `indices`; nothing is decoded."""
        return type(self)([self.files[i] for i in indices.tolist()], self.form, self.device)

    def in_memory(self) -> MaskSplit:
        """Decode every image and mask, into one tensor on the device."""
        return MaskSplit(self._decode(self.files).to(self.device))

    def _decode(self, files: Sequence[tuple[str, str]], *, pin_memory: bool = False) -> Tensor:
        channels, height, width = self.form.shape
        shape = (channels + 1, height, width)
        return decode_rows(len(files), shape, lambda row: _decode_pair(*files[row], self.form), pin_memory=pin_memory)


def load(config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    """Load VOC from `config.path`: the folder VOC2012, VOCdevkit, or the one that holds VOCdevkit.

    Images and masks become squares of `config.image_size` pixels, in colour unless `config.channels` says 1.

    Raises:
        DataError: `config.image_size` is missing; a folder, list, image or mask is missing or broken; a mask has
            another size than its image, colours instead of classes, or a class number above 20 other than 255.
    """
    root = _voc_folder(config)
    if config.image_size is None:
        raise DataError(f"data.image_size: {config.name!r} has images of many sizes, it needs one; got none")
    shape = (config.channels or 3, config.image_size, config.image_size)
    form = ImageFormat(shape, resize=True, grey=True)
    part, test = (VocSplit(_list_files(root, name), form, device) for name in ("train", "val"))
    # Divided before anything is decoded: images that a limit leaves out cost nothing.
    train, validation, test_split = settle([*divide(part, config, seed), test], config.memory_gib)
    return complete(config.name, (train, validation, test_split), CLASSES, seed)


def _voc_folder(config: SourceConfig) -> Path:
    folder = data_folder(config)
    for place in _PLACES:
        if (folder / place / "JPEGImages").is_dir():
            return folder / place
    looked = ", ".join(str(folder / place / "JPEGImages") for place in _PLACES)
    raise DataError(f"data.path: {config.path!r} holds no VOC2012 (looked for the folders {looked})")


def _list_files(root: Path, part: str) -> list[tuple[str, str]]:
    """Return (image, mask) of every name in a part's list."""
    path = root / "ImageSets" / "Segmentation" / f"{part}.txt"
    if path.exists() and not path.is_file():  # reading from a pipe would wait for good
        raise DataError(f"{path}: is not a file")
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as the list of {part} images: {error}") from error
    if not names:
        raise DataError(f"{path}: names no image")
    if outside := next((name for name in names if Path(name).name != name), None):
        raise DataError(f"{path}: {outside!r} is not the name of a file in JPEGImages")
    files = [(root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png") for name in names]
    for file in (file for pair in files for file in pair):
        if not file.is_file():
            raise DataError(f"{path}: names {file.stem!r}, but there is no file {file}")
    return [(str(image), str(mask)) for image, mask in files]


def _decode_pair(image_file: str, mask_file: str, form: ImageFormat) -> NDArray[np.uint8]:
    """Decode an image and its mask to uint8 (C + 1, H, W)."""
    pixels = decode_image(image_file, form)
    with Image.open(image_file) as image:  # just decoded: now only its header is read
        size = image.size
    return np.concatenate([pixels, _decode_mask(mask_file, size, form)[np.newaxis]])


def _decode_mask(file: str, size: tuple[int, int], form: ImageFormat) -> NDArray[np.uint8]:
    """Decode a mask to uint8 (H, W); `size` is (width, height) of its image."""
    _, height, width = form.shape
    try:
        with Image.open(file) as mask:
            if mask.mode not in ("P", "L"):
                raise DataError(f"{file}: its mode {mask.mode!r} is not that of class numbers: P (palette) or L (grey)")
            if mask.size != size:
                raise DataError(f"{file}: has {mask.size[0]}x{mask.size[1]} pixels, its image {size[0]}x{size[1]}")
            _check_classes(file, np.unique(np.asarray(mask)))
            resized = mask.resize((width, height), Image.Resampling.NEAREST)
            return np.asarray(resized)
    except BROKEN as error:
        raise DataError(f"{file}: cannot be decoded as a mask: {error}") from error


def _check_classes(file: str, found: NDArray[np.uint8]) -> None:
    wrong = [number for number in found.tolist() if number >= len(CLASSES) and number != UNLABELLED]
    if wrong:
        raise DataError(
            f"{file}: holds the class numbers {', '.join(map(str, wrong))}, "
            f"valid are 0..{len(CLASSES) - 1} and {UNLABELLED}"
        )
