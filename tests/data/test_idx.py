"""idx files, written here from the digits, whole and broken."""

import gzip
import os
import tracemalloc
from pathlib import Path

import pytest
import torch

from compressor.data import load_data
from compressor.data.idx import read_idx
from compressor.errors import DataError

FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def load(idx_folder, make_config):
    return lambda **fields: load_data(make_config("idx", path=str(idx_folder), **fields), seed=0)


def test_idx_files_hold_what_was_written(load, digits):
    dataset = load(validation=0.0)
    assert dataset.describe() == {
        "name": "idx",
        "classes": 10,
        "train": 300,
        "validation": 0,
        "test": 60,
        "input_shape": [1, 8, 8],
    }
    images, labels = digits
    assert torch.equal(dataset.train.samples(torch.arange(300))[0][:, 0], images[:300])
    assert torch.equal(dataset.test.samples(torch.arange(60))[0][:, 0], images[300:360])
    assert torch.equal(dataset.train.labels, labels[:300])
    assert torch.equal(dataset.test.labels, labels[300:360])


def test_resize_and_channels(load):
    dataset = load(image_size=12, channels=3)
    assert dataset.input_shape == dataset.train.shape == dataset.test.shape == (3, 12, 12)


def test_resizing_keeps_an_even_surface_and_its_mean(load):
    small, large = load(validation=0.0), load(validation=0.0, image_size=16)
    assert large.mean == pytest.approx(small.mean, abs=0.01)
    assert load(image_size=2).input_shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte.gz", lambda c: c[:-50], "cannot be read: .*end-of-stream"),
        ("train-images-idx3-ubyte.gz", lambda c: b"no gzip", "cannot be read: Not a gzipped file"),
        ("t10k-images-idx3-ubyte", lambda c: c[:-1], "holds 3839 elements, its header promises 3840"),
        ("t10k-images-idx3-ubyte", lambda c: c + b"0", "holds more than 3840 elements, its header promises 3840"),
        ("t10k-images-idx3-ubyte", lambda c: c[:9], "has 9 bytes, its header alone needs 16"),
        ("t10k-images-idx3-ubyte", lambda c: b"\0\0\x0d" + c[3:], "begins with '00000d03', .* '00000803'"),
        ("t10k-labels-idx1-ubyte", lambda c: b"", "begins with '', an idx file of bytes with '00000801'"),
        ("t10k-labels-idx1-ubyte", lambda c: c[:7] + b"\x3b" + c[8:-1], "has 59 labels for 60 images"),
        ("t10k-labels-idx1-ubyte", lambda c: c[:7] + b"\0", "it holds nothing"),
    ],
)
def test_broken_files_are_named(load, idx_folder, name, change, message):
    path = idx_folder / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=f"^{path}: .*{message}"):
        load()


def test_a_missing_file_is_named(load, idx_folder):
    (idx_folder / "train-labels-idx1-ubyte.gz").unlink()
    message = "holds neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte.gz"
    with pytest.raises(DataError, match=message):
        load()


def test_a_test_label_that_training_lacks(load, idx_folder):
    path = idx_folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")
    with pytest.raises(DataError, match=r"test labels are 0\.\.11, the classes 0\.\.9"):
        load()


def test_gzipped_and_raw_are_the_same(idx_folder):
    raw = idx_folder / "t10k-images-idx3-ubyte"
    packed = idx_folder / "packed.gz"
    packed.write_bytes(gzip.compress(raw.read_bytes()))
    assert torch.equal(read_idx(raw, 3), read_idx(packed, 3))


@pytest.mark.skipif(not FASHION.is_dir(), reason=f"{FASHION} is not there (apt install dataset-fashion-mnist)")
def test_fashion_mnist(make_config):
    dataset = load_data(make_config("idx", path=os.fspath(FASHION)), seed=0)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (54000, 6000, 10000)
    assert dataset.input_shape == (1, 28, 28)
    assert dataset.test.labels.bincount().tolist() == [1000] * 10
    assert (dataset.mean[0], dataset.std[0]) == pytest.approx((0.2860, 0.3530), abs=0.001)  # widely published


@pytest.mark.parametrize(
    ("shape", "held", "message"),
    [
        ((3,), 300 * 2**20, r"holds more than 3 elements, its header promises 3$"),
        ((60_000, 50, 50), 60_000 * 50 * 50, r"promises 150,000,000 elements, more than 100 times as many; unpack it"),
    ],
)
def test_a_small_packed_file_does_not_fill_the_memory(tmp_path, shape, held, message):
    """Neither with more than its header promises, nor with a header that promises all of it."""
    path = tmp_path / "packed.gz"
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    path.write_bytes(gzip.compress(header + bytes(held), compresslevel=1))
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        read_idx(path, len(shape))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20 * 2**20
