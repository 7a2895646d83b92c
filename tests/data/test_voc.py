"""VOC's folders, written here with palette PNGs; in memory and file by file they are the same data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.data import IGNORED, MaskSplit, load_data, ordered, training_batches
from compressor.data.voc import CLASSES, VocSplit
from compressor.errors import DataError

SIDE = 16
COUNTS = {"train": 29, "val": 13}
BLOCK = 8  # pixels of one class each: larger than a JPEG's smear is wide


def classes_of(number, height, width):
    """A mask of blocks: classes 0..3 and, at the right, pixels that do not count."""
    rows, columns = np.arange(height)[:, None] // BLOCK, np.arange(width)[None, :] // BLOCK
    mask = (rows + columns + number) % 4
    mask[:, -BLOCK // 2 :] = 255
    return mask.astype(np.uint8)


def write_pair(root, name, number, size=(32, 32)):
    """Grey level 60 * class in the image wherever the mask counts."""
    width, height = size
    classes = classes_of(number, height, width)
    grey = np.where(classes == 255, 30, classes * 60).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(root / "JPEGImages" / f"{name}.jpg", quality=98)
    write_mask(root, name, classes)


def write_mask(root, name, classes, mode="P"):
    mask = Image.fromarray(classes)
    if mode == "P":
        mask = mask.copy()
        mask.putpalette([value for i in range(256) for value in (i * 37 % 256, i * 91 % 256, i)])
    mask.save(root / "SegmentationClass" / f"{name}.png")


@pytest.fixture
def voc(tmp_path) -> Path:
    root = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for part, count in COUNTS.items():
        names = [f"2007_{part}{i:04d}" for i in range(count)]
        for number, name in enumerate(names):
            write_pair(root, name, number)
        (root / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.fixture
def load(voc, make_config):
    def load_it(path=voc, **fields):
        return load_data(make_config("voc", path=str(path), **{"image_size": SIDE, **fields}), seed=3)

    return load_it


def everything(split):
    return split.samples(torch.arange(len(split)))


def mask_path(voc, name="2007_val0004"):
    return voc / "SegmentationClass" / f"{name}.png"


def test_the_data_set(load):
    data = load()
    assert (data.task, data.class_names, data.input_shape) == ("segmentation", CLASSES, (3, SIDE, SIDE))
    assert (data.classes, len(data.train), len(data.validation), len(data.test)) == (21, 26, 3, 13)
    assert (data.class_names[0], data.class_names[15], data.class_names[20]) == ("background", "person", "tvmonitor")


def test_files_hold_what_was_written(load):
    data = load(image_size=32)
    images, masks = everything(data.test)
    written = torch.stack([torch.from_numpy(classes_of(i, 32, 32)).long() for i in range(13)])
    assert torch.equal(masks, written.masked_fill(written == 255, IGNORED))
    counts = masks != IGNORED
    error = (images[:, 0].long() - masks * 60)[counts].abs().double()
    assert error.mean() < 5


@pytest.mark.parametrize("place", [".", "..", "../.."])
def test_the_path_may_be_any_of_three_folders(load, voc, place):
    assert len(load(path=(voc / place).resolve()).test) == 13


def test_masks_are_resized_without_mixing_classes(load, voc):
    write_pair(voc, "2007_val0000", 0, size=(64, 32))
    masks = everything(load().test)[1]
    assert set(masks.unique().tolist()) == {IGNORED, 0, 1, 2, 3}
    whole = torch.from_numpy(classes_of(0, 32, 64)).long()
    picked = whole[1::2, 2::4]  # the pixel nearest to the middle of each 2x4 block
    assert torch.equal(masks[0], picked.masked_fill(picked == 255, IGNORED))


@pytest.mark.parametrize("fields", [{}, {"channels": 1}, {"limit": 20}])
def test_in_memory_and_file_by_file_are_the_same(load, fields):
    memory, files = load(**fields), load(memory_gib=0.0, **fields)
    for name in ("train", "validation", "test"):
        left, right = getattr(memory, name), getattr(files, name)
        assert isinstance(left, MaskSplit)
        assert isinstance(right, VocSplit)
        assert left.shape == right.shape
        for a, b in zip(everything(left), everything(right), strict=True):
            assert torch.equal(a, b)
    assert (memory.mean, memory.std) == (files.mean, files.std)


def test_batches_in_memory_and_file_by_file_are_the_same(load):
    walks = []
    for data in (load(), load(memory_gib=0.0)):
        batches = training_batches(data, 5, seed=1, augment=("crop", "flip", "cutout"))
        walks.append([*batches.epoch(1), *batches.epoch(2, 3), *ordered(data.test, data, 5)])
    memory, files = walks
    assert len(memory) == len(files) == 5 + 2 + 3
    for (x, y), (u, v) in zip(memory, files, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_the_memory_limit_counts_masks(load):
    needed = (29 + 13) * 4 * SIDE * SIDE
    assert isinstance(load(memory_gib=needed / 2**30).train, MaskSplit)
    assert isinstance(load(memory_gib=(needed - 1) / 2**30).train, VocSplit)


def test_a_limit_leaves_broken_files_alone(load, voc):
    kept = {Path(image).stem for image, _ in load(limit=10, memory_gib=0.0, validation=0.0).train.files}
    for path in (voc / "JPEGImages").glob("2007_train*"):
        if path.stem not in kept:
            path.write_bytes(b"")
    assert len(load(limit=10, validation=0.0).train) == 10


def test_grey_masks_are_as_good(load, voc):
    expected = everything(load().test)[1]
    write_mask(voc, "2007_val0004", classes_of(4, 32, 32), mode="L")
    with Image.open(mask_path(voc)) as mask:
        assert mask.mode == "L"
    assert torch.equal(everything(load().test)[1], expected)


def test_an_image_size_is_needed(load):
    with pytest.raises(DataError, match=r"data\.image_size: 'voc' has images of many sizes, it needs one; got none"):
        load(image_size=None)


def test_a_folder_that_is_not_voc(load, tmp_path):
    (tmp_path / "empty").mkdir()
    message = r"data\.path: '.*empty' holds no VOC2012 .*empty/VOCdevkit/VOC2012/JPEGImages"
    with pytest.raises(DataError, match=message):
        load(path=tmp_path / "empty")


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_missing_list(load, voc, part):
    (voc / "ImageSets" / "Segmentation" / f"{part}.txt").unlink()
    with pytest.raises(DataError, match=rf"Segmentation/{part}\.txt: cannot be read as the list of {part} images"):
        load()


def test_an_empty_list(load, voc):
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"Segmentation/val\.txt: names no image"):
        load()


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a/b"])
def test_a_list_names_files_of_its_folder_only(load, voc, name):
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text(f"2007_val0004\n{name}\n")
    with pytest.raises(DataError, match=rf"Segmentation/val\.txt: '{name}' is not the name of a file in JPEGImages"):
        load()


@pytest.mark.parametrize("file", ["JPEGImages/2007_val0004.jpg", "SegmentationClass/2007_val0004.png"])
def test_a_listed_file_that_is_absent(load, voc, file):
    (voc / file).unlink()
    with pytest.raises(DataError, match=rf"val\.txt: names '2007_val0004', but there is no file {voc / file}$"):
        load()


def test_no_masks_at_all(load, voc):
    shutil.rmtree(voc / "SegmentationClass")
    with pytest.raises(DataError, match=r"train\.txt: names '2007_train0000', but there is no file .*\.png"):
        load()


@pytest.mark.parametrize("memory_gib", [0.0, 4.0])
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda voc: write_mask(voc, "2007_val0004", classes_of(4, 30, 32)), "has 32x30 pixels, its image 32x32$"),
        (
            lambda voc: write_mask(voc, "2007_val0004", classes_of(4, 32, 32) + 20),
            r"holds the class numbers 21, 22, 23, valid are 0\.\.20 and 255$",
        ),
        (
            lambda voc: Image.new("RGB", (32, 32)).save(mask_path(voc)),
            r"its mode 'RGB' is not that of class numbers: P \(palette\) or L \(grey\)$",
        ),
        (lambda voc: mask_path(voc).write_bytes(b"no image"), "cannot be decoded as a mask: "),
    ],
)
def test_a_mask_that_does_not_fit(load, voc, write, message, memory_gib):
    write(voc)
    with pytest.raises(DataError, match=f"^{mask_path(voc)}: {message}"):
        everything(load(memory_gib=memory_gib).test)


def test_a_broken_image(load, voc):
    path = voc / "JPEGImages" / "2007_train0003.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=f"^{path}: cannot be decoded as an image"):
        load()
