"""Torch datasets and loaders of the user's: the same samples whatever the number of workers, and from any batch on."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from compressor.data import load_data, ordered, training_batches
from compressor.data.torch_data import data_of
from compressor.errors import DataError, RunError
from compressor.pipeline import run_folder
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe
from compressor.recipe.sections import DataConfig
from tests.support.small import small_recipe

CPU = torch.device("cpu")


class Noisy(Dataset):
    """Images whose first pixel is their number; the others are drawn by all three generators, as transforms do."""

    classes = ("a", "b", "c")

    def __init__(self, count=31, shape=(3, 4, 5)):
        self.count, self.shape = count, shape
        self.targets = [index % 3 for index in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.rand(self.shape)
        image[0, 0, 0], image[0, 0, 1], image[0, 0, 2] = index, random.random(), np.random.rand()
        return image, self.targets[index]


def config(**values):
    return DataConfig(**({"name": "mine:make", "validation": 0.2, "workers": 0} | values))


def data(train=None, test=None, **values):
    return data_of((train or Noisy(), test or Noisy(9)), config(**values), 0, CPU)


def walked(found, epoch, start=0, seed=5, **more):
    batches = training_batches(found, 4, seed=seed, **more)
    return [(x.clone(), y.clone()) for x, y in batches.epoch(epoch, start)]


def equal(one, two):
    pairs = zip(one, two, strict=False)
    return len(one) == len(two) and all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_a_data_set_of_the_tasks(recwarn):
    found = data()
    assert (found.task, found.input_shape, found.class_names) == ("classification", (3, 4, 5), ("a", "b", "c"))
    assert [len(split) for split in (found.train, found.validation, found.test)] == [25, 6, 9]
    assert torch.bincount(found.validation.labels).tolist() == [2, 2, 2]
    masks = TensorDataset(torch.rand(8, 1, 6, 6), torch.zeros(8, 6, 6, dtype=torch.int64))
    found = data_of({"train": masks, "test": masks, "classes": 4}, config(), 0, CPU)
    assert (found.task, found.classes) == ("segmentation", 4)
    tokens = TensorDataset(torch.zeros(8, 5, dtype=torch.int64), torch.zeros(8, 5, dtype=torch.int64))
    assert data_of({"train": tokens, "test": tokens, "classes": 7}, config(), 0, CPU).task == "language"


def test_batches_depend_on_seed_epoch_and_number_alone():
    found = data()
    torch.manual_seed(1)
    state, in_python, in_numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = walked(found, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == (in_python, in_numpy)
    random.seed(9)
    torch.manual_seed(2)
    assert equal(first, walked(found, 2))
    assert equal(first[3:], walked(found, 2, start=3))
    assert not equal(first, walked(found, 3))
    assert not equal(first, walked(found, 2, seed=6))
    numbers = sorted(int(image[0, 0, 0]) for images, _ in first for image in images)
    assert len(set(numbers)) == len(numbers) == 24
    for images, labels in first:
        assert labels.tolist() == [int(image[0, 0, 0]) % 3 for image in images]


def test_workers_load_the_same_samples():
    alone, shared = data(), data(workers=2)
    assert equal(walked(alone, 1), walked(shared, 1))
    assert equal(walked(alone, 1)[2:], walked(shared, 1, start=2))
    assert equal(list(ordered(alone.test, alone, 4)), list(ordered(shared.test, shared, 4)))


def test_images_may_be_mixed_but_not_moved():
    images, shares = walked(data(), 0, augment=("mixup",), channels_last=True)[0]
    assert shares.shape == (4, 3)
    assert images.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(DataError, match=r"augment: mixup: a loader of .* gives batches as they are"):
        walked(data(train=DataLoader(Noisy(), 4)), 0, augment=("mixup",))
    with pytest.raises(DataError, match="augment: flip: images of torch datasets change in their own transforms"):
        training_batches(data(), 4, seed=0, augment=("flip",))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_keeps_its_batches_and_gives_them_again(workers):
    """Also where the network draws between two batches, and from any batch on."""
    own = torch.Generator()
    loader = DataLoader(Noisy(), batch_size=5, shuffle=True, num_workers=workers, generator=own if workers else None)
    found = data(train=loader)
    assert any("order and size of batches are its own" in remark for remark in found.remarks)
    assert len(found.validation) == 0
    first = walked(found, 1)
    assert [len(labels) for _, labels in first] == [5, 5, 5, 5, 5, 5, 1]
    torch.manual_seed(4)
    batches = training_batches(found, 4, seed=5)
    again = []
    for batch in batches.epoch(1, 2):
        torch.rand(3)
        random.random()
        again.append(batch)
    assert equal(first[2:], again)
    assert not equal(first, walked(found, 2))


def test_labels_are_found_within_subsets():
    part = Subset(Subset(Noisy(), range(10, 30)), [3, 4, 5, 0, 7, 8, 9])
    assert data(train=part).train.labels is not None
    assert sorted(torch.cat([data(train=part).train.labels, data(train=part).validation.labels]).tolist()) == sorted(
        (10 + index) % 3 for index in (3, 4, 5, 0, 7, 8, 9)
    )


def test_loaders_give_the_samples_of_their_samplers_only():
    whole = Noisy(60)
    train = DataLoader(whole, 8, sampler=SubsetRandomSampler(np.arange(40)))
    test = DataLoader(whole, batch_sampler=BatchSampler(range(40, 60), 7, False))
    found = data_of({"train": train, "validation": DataLoader(Subset(whole, [3, 1])), "test": test}, config(), 0, CPU)
    assert [len(split) for split in (found.train, found.validation, found.test)] == [40, 2, 20]
    seen = torch.cat([images[:, 0, 0, 0] for images, _ in ordered(found.test, found, 6)])
    assert seen.tolist() == list(range(40, 60))
    seen = torch.cat([images[:, 0, 0, 0] for images, _ in walked(found, 0)])
    assert sorted(seen.tolist()) == list(range(40))


class Odd(Noisy):
    """What it lists is not what its samples have."""

    target_transform = staticmethod(lambda label: label + 1)

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, label + 1


def test_labels_that_a_transform_changes_are_those_of_the_samples():
    given = {"train": Odd(), "test": Odd(9), "classes": 4}
    found = data_of(given, config(), 0, CPU)
    assert found.train.labels is None
    assert max(int(labels.max()) for _, labels in walked(found, 0)) == 3
    wrong = data_of(given | {"classes": 3}, config(), 0, CPU)
    with pytest.raises(DataError, match=r"train: labels are \d to 3, the classes are 0\.\.2"):
        walked(wrong, 0)


class Broken(Noisy):
    def __getitem__(self, index):
        if index == 7:
            raise OSError("disk gone")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_fails_is_said_in_one_sentence(workers):
    with pytest.raises(DataError, match=r"^mine:make: train fails at samples .*: OSError: disk gone$"):
        walked(data(train=Broken(), workers=workers, validation=0.0), 0)


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.rand(3, 4, 5), 1


def dataset(*samples):
    class Given(Dataset):
        def __len__(self):
            return len(samples)

        def __getitem__(self, index):
            return samples[index]

    return Given()


IMAGE = torch.rand(3, 4, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "gives an int; valid: \\(train, test\\)"),
        ((Noisy(),), "gives a tuple of 1; valid"),
        ({"train": Noisy()}, "gives a mapping with the keys train; valid"),
        ((Stream(), Noisy()), "train is a Stream; valid: a dataset with a length"),
        ((Noisy(), [1, 2, 3]), "test: a sample is an int, not \\(input, target\\)"),
        ((dataset((IMAGE, 1, 2)), Noisy()), "a sample is a tuple of 3"),
        ((dataset(("text", 1)), Noisy()), "inputs are a str; let a transform make tensors"),
        ((dataset(((IMAGE * 255).byte(), 1)), Noisy()), "inputs uint8 .*; let a transform scale them to floats"),
        ((dataset((IMAGE, torch.arange(4))), Noisy()), "targets \\(2, 4\\), which is no classification"),
        ((dataset((IMAGE, 0.5)), Noisy()), "targets are float64; classes are whole numbers"),
        ((DataLoader(Noisy(5), 16, drop_last=True), Noisy()), "its loader gives no batch"),
        ((Noisy(), Noisy(shape=(3, 8, 8))), "test samples are of classification with inputs \\(3, 8, 8\\)"),
        ((dataset((IMAGE, 1)), dataset((IMAGE, 1))), "what are the classes"),
        ({"train": Noisy(), "test": Noisy(), "classes": 2}, "train: labels are 0 to 2, the classes are 0..1"),
        ((Noisy(), Noisy(0)), "its test part has no samples"),
    ],
)
def test_what_is_no_data_is_refused(given, message):
    with pytest.raises(DataError, match=message):
        data_of(given, config(validation=0.0), 0, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_gets_the_same_samples():
    alone = data()
    shared = data_of((Noisy(), Noisy(9)), config(workers=2), 0, torch.device("cuda"))
    for (one, label), (other, its) in zip(walked(alone, 1), walked(shared, 1), strict=True):
        assert other.is_cuda
        assert torch.equal(one, other.cpu())
        assert torch.equal(label, its.cpu())


CODE = """
import torch
from torch.utils.data import TensorDataset

def make(count=60):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 4
    images += labels[:, None, None, None]
    whole, part = TensorDataset(images, labels), TensorDataset(images[:20], labels[:20])
    return {"train": whole, "test": part, "classes": list("abcd")}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "data_of_mine.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return "data_of_mine:make"


@pytest.mark.usefixtures("quick_export", "no_figures")
def test_a_run_on_data_of_ones_own(module, tmp_path, monkeypatch):
    given = {"name": module, "options": {"count": 80}, "workers": 1}
    recipe = parse_recipe(small_recipe(data=given, train={"epochs": 3, "batch_size": 16}))
    report = run(recipe, tmp_path / "out")
    assert report["dataset"]["train"] == 72
    assert report["budget"]["met"]
    assert report["parity"]["max_rel_error"] <= 1e-4
    assert report["accuracy"]["onnx"] > 0.5
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "another"))
    with pytest.raises(RunError, match=r"data\.name: data_of_mine:make is code that this user has not begun"):
        run_folder.load(tmp_path / "out")


def test_code_that_fails_is_said_in_one_sentence(module):
    for name, options, message in (
        ("data_of_mine:none", {}, "cannot import data_of_mine:none"),
        ("absent_of_mine:make", {}, "cannot import absent_of_mine:make"),
        (module, {"size": 3}, "data_of_mine:make fails: TypeError"),
    ):
        with pytest.raises(DataError, match=message):
            load_data(config(name=name, options=options), seed=0)
