"""Image folders, written here from the digits; in memory and file by file they are the same data."""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from compressor.data import Batches, FolderSplit, TensorSplit, load_data, ordered
from compressor.errors import DataError


@pytest.fixture
def load(image_folder, make_config):
    return lambda **fields: load_data(make_config("imagefolder", path=str(image_folder), **fields), seed=3)


def everything(split):
    return split.samples(torch.arange(len(split)))[0]


def first_file(image_folder):
    return next(path for path in sorted(image_folder.glob("test/*/*")))


def test_files_hold_what_was_written(load, image_folder, digits):
    dataset = load(validation=0.0)
    images, labels = digits
    numbers = [int(path.stem) for path in sorted(image_folder.glob("train/*/*"))]
    assert dataset.class_names == tuple(f"digit{i}" for i in range(10))
    assert dataset.input_shape == (3, 8, 8)
    assert torch.equal(dataset.train.labels, labels[numbers])
    found = everything(dataset.train)
    assert torch.equal(found[:, 0], images[numbers])
    assert torch.equal(found[:, 1], images[numbers].flip(2))
    assert bool((found[:, 2] == 77).all())


@pytest.mark.parametrize("fields", [{}, {"image_size": 12}, {"channels": 1}, {"limit": 50}])
def test_in_memory_and_file_by_file_are_the_same(load, fields):
    memory, files = load(**fields), load(memory_gib=0.0, **fields)
    for name in ("train", "validation", "test"):
        left, right = getattr(memory, name), getattr(files, name)
        assert isinstance(left, TensorSplit)
        assert isinstance(right, FolderSplit)
        assert left.shape == right.shape
        assert torch.equal(everything(left), everything(right))
        assert torch.equal(left.labels, right.labels)
    assert (memory.mean, memory.std) == (files.mean, files.std)


def test_batches_in_memory_and_file_by_file_are_the_same(load):
    walks = []
    for dataset in (load(), load(memory_gib=0.0)):
        options = {"seed": 1, "mean": dataset.mean, "std": dataset.std, "augment": ("crop", "flip", "cutout")}
        batches = Batches(dataset.train, 10, **options)
        walks.append([*batches.epoch(1), *batches.epoch(2, 7), *ordered(dataset.test, dataset, 7)])
    memory, files = walks
    assert len(memory) == len(files) == 10 + 3 + 6
    for (x, y), (u, v) in zip(memory, files, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_the_memory_limit_counts_all_splits(load):
    needed = 160 * 3 * 8 * 8
    assert isinstance(load(memory_gib=needed / 2**30).train, TensorSplit)
    assert isinstance(load(memory_gib=(needed - 1) / 2**30).train, FolderSplit)


def test_mean_of_a_large_folder_is_sampled(load, monkeypatch):
    monkeypatch.setattr("compressor.data.dataset.SAMPLE", 60)
    whole, sampled, again = load(), load(memory_gib=0.0), load(memory_gib=0.0)
    assert sampled.mean == again.mean
    assert sampled.mean != whole.mean
    assert sampled.mean == pytest.approx(whole.mean, abs=0.05)


def test_resize_and_grey(load):
    assert load(image_size=20).input_shape == (3, 20, 20)
    grey = load(channels=1)
    assert grey.input_shape == (1, 8, 8)
    assert int(everything(grey.train).min()) == round(77 * 0.114)


def test_val_stands_in_for_test(load, image_folder):
    (image_folder / "test").rename(image_folder / "val")
    assert len(load().test) == 40


@pytest.mark.parametrize(("part", "names"), [("train", "train"), ("test", "test or val")])
def test_a_missing_part(load, image_folder, part, names):
    shutil.rmtree(image_folder / part)
    with pytest.raises(DataError, match=f"data.path: '{image_folder}' has no folder {names}$"):
        load()


def test_a_part_without_classes(load, image_folder):
    shutil.rmtree(image_folder / "train")
    (image_folder / "train").mkdir()
    with pytest.raises(DataError, match="train: has no class folders"):
        load()


def test_an_empty_class(load, image_folder):
    (image_folder / "train" / "digitx").mkdir()
    (image_folder / "test" / "digitx").mkdir()
    (image_folder / "train" / "digitx" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"train/digitx: holds no image \(\.bmp, "):
        load()


@pytest.mark.parametrize(("part", "other"), [("train", "test"), ("test", "train")])
def test_different_classes(load, image_folder, part, other):
    (image_folder / part / "digitx").mkdir()
    with pytest.raises(DataError, match=f"{image_folder / other}: lacks the class folders digitx"):
        load()


@pytest.mark.parametrize("content", [b"", b"not an image", None])
@pytest.mark.parametrize("memory_gib", [0.0, 4.0])
def test_a_broken_image_is_named(load, image_folder, content, memory_gib):
    path = first_file(image_folder)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(DataError, match=f"^{path}: cannot be decoded as an image"):
        everything(load(memory_gib=memory_gib).test)


def test_a_broken_first_image_is_named(load, image_folder):
    path = min(image_folder.glob("train/*/*"))
    path.write_bytes(b"")
    with pytest.raises(DataError, match=f"^{path}: cannot be decoded as an image"):
        load()


def test_an_image_of_another_size_is_named_unless_all_are_resized(load, image_folder):
    path = first_file(image_folder)
    Image.new("RGB", (9, 8)).save(path)
    with pytest.raises(DataError, match=f"^{path}: has 9x8 pixels, the first image 8x8; set `data.image_size`"):
        load()
    assert load(image_size=8).input_shape == (3, 8, 8)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_small_file_with_more_pixels_than_memory_should_hold_is_named(load, image_folder):
    path = first_file(image_folder)
    Image.new("1", (10_000, 9000)).save(path)
    with pytest.raises(DataError, match=f"^{path}: has 10000x9000 pixels, more than 89,478,485"):
        load(image_size=8)


def test_a_colour_image_among_grey_ones_is_named(load, image_folder):
    for path in image_folder.glob("*/*/*"):
        Image.open(path).convert("L").save(path)
    assert load().input_shape == (1, 8, 8)
    path = first_file(image_folder)
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(DataError, match=f"^{path}: is in colour, the first image is grey"):
        load()
    assert load(channels=1).input_shape == (1, 8, 8)
    assert load(channels=3).input_shape == (3, 8, 8)


def test_grey_images_among_colour_ones_become_colour(load, image_folder):
    path = first_file(image_folder)
    Image.new("L", (8, 8), 5).save(path)
    dataset = load()
    assert dataset.input_shape == (3, 8, 8)
    assert bool((dataset.test.samples(torch.tensor([0]))[0] == 5).all())


def test_palettes_with_transparency_are_decoded_without_a_warning(load, image_folder):
    path = first_file(image_folder)
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(path, transparency=b"\x80\xff")
    assert load().test.samples(torch.tensor([0]))[0][0, :, 0, 0].tolist() == [10, 20, 30]


def test_sixteen_bit_images_are_refused(load, image_folder):
    path = first_file(image_folder)
    Image.new("I;16", (8, 8), 40000).save(path)
    with pytest.raises(DataError, match=f"^{path}: its mode 'I;16' has more than 8 bits"):
        load()


def test_a_folder_split_refuses_labels_that_do_not_fit(load):
    split = load(memory_gib=0.0).train
    with pytest.raises(ValueError, match="labels must be int64"):
        FolderSplit(split.files, split.labels[1:], split.form)


CIFAR = Path(os.environ.get("COMPRESSOR_DATA", "/nowhere")) / "cifar10"


@pytest.mark.slow
@pytest.mark.skipif(
    not (CIFAR / "train").is_dir(),
    reason="COMPRESSOR_DATA names no folder with cifar10/train and cifar10/test (shared/data/README.md)",
)
def test_cifar10_as_jpeg_decodes_within_a_minute(make_config):
    begin = time.perf_counter()
    dataset = load_data(make_config("imagefolder", path=str(CIFAR)), seed=0)
    assert time.perf_counter() - begin < 60
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (45000, 5000, 10000)
    assert dataset.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.003)


def test_images_in_sub_folders_are_taken_and_other_files_are_said(image_folder, load):
    before = load()
    place = image_folder / "train" / "digit3" / "camera2" / "monday"
    place.mkdir(parents=True)
    (place.parent / "back").symlink_to(place.parent, target_is_directory=True)  # a loop
    shutil.copy(next((image_folder / "train" / "digit3").glob("*.*")), place / "more.png")
    for name in ("notes.txt", "more.txt", "LICENSE", ".hidden"):
        (place / name).write_text("x")
    after = load()
    assert len(after.train) + len(after.validation) == len(before.train) + len(before.validation) + 1
    assert before.remarks == ()
    (remark,) = after.remarks
    assert remark.startswith(
        "3 files in the class folders are not used, for they are no images: 2 of .txt, 1 of no suff"
    )


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path), lambda path: path.symlink_to("gone")])
def test_what_is_no_file_is_named_and_not_waited_for(image_folder, load, make):
    path = image_folder / "train" / "digit3" / "x.jpg"
    make(path)
    with pytest.raises(DataError, match=r"x\.jpg: is not a file, or a link to none$"):
        load()
