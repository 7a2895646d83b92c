"""CIFAR through torchvision's own reader, on files written here in its format, with their own md5 sums."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from compressor.data import load_data
from compressor.errors import DataError


def write_batch(path, name, content):
    """Write one pickled file; returns what torchvision wants to know of it."""
    data = pickle.dumps(content, protocol=2)
    (path / name).write_bytes(data)
    return name, hashlib.md5(data).hexdigest()


def rows(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    names = [f"kind{i}" for i in range(10)]
    train = [
        write_batch(folder, f"data_batch_{i}", {"data": rows(20, i), "labels": [j % 10 for j in range(20)]})
        for i in (1, 2)
    ]
    test = [write_batch(folder, "test_batch", {"data": rows(10, 3), "labels": list(range(10))})]
    meta = dict(zip(("filename", "md5"), write_batch(folder, "batches.meta", {"label_names": names}), strict=True))
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    monkeypatch.setattr(CIFAR10, "meta", {"key": "label_names", **meta})
    return tmp_path


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    names = [f"kind{i:02d}" for i in range(100)]
    for attribute, name, seed in (("train_list", "train", 1), ("test_list", "test", 2)):
        content = {"data": rows(100, seed), "fine_labels": list(range(100)), "coarse_labels": [0] * 100}
        monkeypatch.setattr(CIFAR100, attribute, [write_batch(folder, name, content)])
    name, md5 = write_batch(folder, "meta", {"fine_label_names": names})
    monkeypatch.setattr(CIFAR100, "meta", {"filename": name, "key": "fine_label_names", "md5": md5})
    return tmp_path


def test_cifar10(cifar10, make_config):
    dataset = load_data(make_config("cifar10", path=str(cifar10), validation=0.0), seed=0)
    assert (len(dataset.train), len(dataset.test), dataset.input_shape) == (40, 10, (3, 32, 32))
    assert dataset.class_names == tuple(f"kind{i}" for i in range(10))
    expected = torch.from_numpy(rows(10, 3)).view(10, 3, 32, 32)  # rows are stored channel by channel
    assert torch.equal(dataset.test.samples(torch.arange(10))[0], expected)
    assert dataset.test.labels.tolist() == list(range(10))


def test_cifar100_has_its_fine_classes(cifar100, make_config):
    dataset = load_data(make_config("cifar100", path=str(cifar100), image_size=8, channels=1), seed=0)
    assert (dataset.classes, dataset.class_names[7]) == (100, "kind07")
    assert dataset.input_shape == (1, 8, 8)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (90, 10, 100)


def test_a_broken_file(cifar10, make_config):
    folder = cifar10 / CIFAR10.base_folder
    (folder / "data_batch_2").write_bytes(b"half a dow")
    with pytest.raises(DataError, match=f"{folder}: cifar10 cannot be read: Dataset not found or corrupted"):
        load_data(make_config("cifar10", path=str(cifar10)), seed=0)


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_missing_files_name_what_was_looked_for(make_config, tmp_path, name, folder):
    message = rf"'{tmp_path}' does not hold {name} .*{tmp_path / folder}.*`data.download: true`"
    with pytest.raises(DataError, match=message):
        load_data(make_config(name, path=str(tmp_path)), seed=0)


def test_a_download_that_fails(make_config, tmp_path, monkeypatch):
    def offline(self):
        raise OSError("network is unreachable")

    monkeypatch.setattr(CIFAR10, "download", offline)
    with pytest.raises(DataError, match="cifar10 cannot be read: network is unreachable"):
        load_data(make_config("cifar10", path=str(tmp_path / "new"), download=True), seed=0)


DATA = Path(os.environ.get("COMPRESSOR_DATA", "/nowhere"))


@pytest.mark.skipif(
    not (DATA / CIFAR10.base_folder).is_dir(),
    reason="COMPRESSOR_DATA names no folder with cifar-10-batches-py",
)
def test_the_official_cifar10(make_config):
    dataset = load_data(make_config("cifar10", path=str(DATA)), seed=0)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (45000, 5000, 10000)
    assert dataset.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.003)
