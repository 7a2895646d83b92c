"""Division into train and validation, measured mean and std, the digits."""

import json
import subprocess
import sys
from collections import Counter

import pytest
import torch

from compressor.data import DataSet, TensorSplit, load_data
from compressor.data.dataset import complete, divide
from compressor.data.digits import DEFAULT_SIZE
from compressor.errors import DataError


def contents(split):
    """How often each image, with its label, is in a split."""
    images = split.samples(torch.arange(len(split)))[0]
    pairs = zip(images, split.labels.tolist(), strict=True)
    return Counter((image.numpy().tobytes(), label) for image, label in pairs)


def everything(split):
    return split.samples(torch.arange(len(split)))[0]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.9])
def test_the_division_is_disjoint_and_covers(numbered, make_config, share):
    part = numbered(541)
    train, validation = divide(part, make_config("x", validation=share), seed=3)
    assert len(validation) == round(541 * share)
    assert not set(train.labels.tolist()) & set(validation.labels.tolist())
    assert contents(train) + contents(validation) == contents(part)


def test_the_division_depends_on_the_seed_alone(numbered, make_config):
    part, config = numbered(100), make_config("x")
    first, again, other = (divide(part, config, seed)[1].labels.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_limit_chooses_by_seed_before_the_division(numbered, make_config):
    part = numbered(200)
    chosen = []
    for seed in (1, 2):
        train, validation = divide(part, make_config("x", limit=40, validation=0.25), seed)
        assert (len(train), len(validation)) == (30, 10)
        chosen.append({*train.labels.tolist(), *validation.labels.tolist()})
        assert len(chosen[-1]) == 40
    assert chosen[0] != chosen[1]


def test_a_limit_above_the_number_of_images_takes_all(numbered, make_config):
    train, validation = divide(numbered(20), make_config("x", limit=1000), seed=0)
    assert len(train) + len(validation) == 20


@pytest.mark.parametrize(("count", "share"), [(4, 0.1), (1, 0.9), (1, 0.5001)])
def test_too_few_images_for_validation(numbered, make_config, count, share):
    with pytest.raises(DataError, match=rf"data.validation: a share of {share} of {count} training images"):
        divide(numbered(count), make_config("x", validation=share), seed=0)


@pytest.mark.parametrize("share", [-0.1, 0.91, float("nan")])
def test_validation_outside_its_range(make_config, share):
    with pytest.raises(DataError, match=r"data.validation: .* is not a share between 0 and 0.9"):
        load_data(make_config("digits", validation=share), seed=0)


def test_digits(make_config):
    dataset = load_data(make_config("digits"), seed=0)
    assert dataset.describe() == {
        "name": "digits",
        "classes": 10,
        "train": 1294,
        "validation": 144,
        "test": 359,
        "input_shape": [1, DEFAULT_SIZE, DEFAULT_SIZE],
    }
    assert json.loads(json.dumps(dataset.describe())) == dataset.describe()
    assert dataset.class_names == tuple("0123456789")
    assert dataset.train.labels.unique().tolist() == list(range(10))


def test_digits_at_their_own_size_are_the_digits(make_config, digits):
    dataset = load_data(make_config("digits", image_size=8), seed=5)
    found = contents(dataset.train) + contents(dataset.validation) + contents(dataset.test)
    images, labels = digits
    assert found == contents(TensorSplit(images.unsqueeze(1), labels))


def test_digits_test_images_are_the_same_for_every_seed_and_limit(make_config):
    first = load_data(make_config("digits"), seed=0)
    other = load_data(make_config("digits", limit=100, validation=0.5), seed=1)
    assert contents(first.test) == contents(other.test)
    assert len(other.train) == len(other.validation) == 50
    assert not contents(first.train) & contents(first.test)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_train_images_have_mean_0_and_std_1(make_config, channels):
    dataset = load_data(make_config("digits", channels=channels), seed=0)
    normal = dataset.normalise(everything(dataset.train)).double()
    assert normal.shape[1] == channels
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(channels).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3)), torch.ones(channels).double(), atol=1e-5, rtol=0)


def test_mean_and_std_are_of_the_train_split_per_channel():
    train = TensorSplit(torch.tensor([[[[10]], [[0]]], [[[20]], [[255]]]]).byte(), torch.tensor([0, 1]))
    other = TensorSplit(torch.full((2, 2, 1, 1), 200).byte(), torch.tensor([0, 1]))
    dataset = complete("x", (train, other, other), ["a", "b"], seed=0)
    assert dataset.mean == pytest.approx((15 / 255, 0.5))
    assert dataset.std == pytest.approx((5 / 255, 0.5))


def test_a_constant_channel_normalises_to_finite_numbers():
    split = TensorSplit(torch.full((4, 1, 3, 3), 9).byte(), torch.tensor([0, 1, 0, 1]))
    dataset = complete("x", (split, split, split), ["a", "b"], seed=0)
    assert torch.equal(dataset.normalise(everything(split)), torch.zeros(4, 1, 3, 3))


def test_normalise_is_its_formula(make_config):
    dataset = load_data(make_config("digits"), seed=0)
    images = everything(dataset.validation)
    expected = (images / 255 - dataset.mean[0]) / dataset.std[0]
    torch.testing.assert_close(dataset.normalise(images), expected, atol=1e-5, rtol=1e-5)


def test_grey_is_repeated_to_three_channels(make_config):
    grey = load_data(make_config("digits", image_size=8), seed=0)
    colour = load_data(make_config("digits", image_size=8, channels=3), seed=0)
    assert colour.input_shape == (3, 8, 8)
    assert torch.equal(everything(colour.train), everything(grey.train).expand(-1, 3, -1, -1))


def test_a_label_without_a_class_name(numbered):
    split = numbered(12)
    with pytest.raises(DataError, match=r"x: train labels are 0\.\.11, the classes 0\.\.9"):
        complete("x", (split, split, split), [str(i) for i in range(10)], seed=0)


def test_splits_of_different_shapes(numbered):
    with pytest.raises(DataError, match="x: test images are"):
        complete("x", (numbered(3), numbered(3), numbered(3, side=17)), ["a", "b", "c"], seed=0)


def test_no_test_images(numbered):
    split = numbered(3)
    with pytest.raises(DataError, match="no test images"):
        complete("x", (split, split, split.subset(torch.arange(0))), ["a", "b", "c"], seed=0)


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long()),
        (torch.zeros(2, 4, 4).byte(), torch.zeros(2).long()),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(3).long()),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2).int()),
    ],
)
def test_a_split_refuses_other_tensors(pixels, labels):
    with pytest.raises(ValueError, match="must be"):
        TensorSplit(pixels, labels)


def test_importing_the_package_imports_no_torch():
    code = "import sys, compressor.data as d; assert 'torch' not in sys.modules; print(d.load_data.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("load_data\n", "")


def test_every_public_name_is_there():
    import compressor.data

    for name in compressor.data.__all__:
        found = getattr(compressor.data, name)
        assert getattr(found, "__name__", name) == name
    assert compressor.data.DataSet is DataSet
    with pytest.raises(AttributeError, match="no attribute 'Loader'"):
        _ = compressor.data.Loader


@pytest.mark.parametrize("validation", [0.1, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_every_class_gives_its_share_and_keeps_an_image(make_config, validation, seed):
    sizes = torch.tensor([40, 41, 1, 7, 2])
    labels = torch.arange(5).repeat_interleave(sizes)
    part = TensorSplit(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels)
    train, kept = divide(part, make_config("x", validation=validation), seed)
    assert len(kept) == round(validation * len(labels))
    assert (torch.bincount(train.labels, minlength=5) > 0).all()
    given = torch.bincount(kept.labels, minlength=5)
    assert ((given - validation * sizes).abs() < 1.5).all()


def test_classes_that_are_not_trained_are_said():
    part = TensorSplit(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 2, 2]))
    data = complete("x", (part, part.subset(torch.tensor([0])), part), ["a", "b", "c"], 0)
    assert data.remarks == ("1 of 3 classes have no training image: b",)
