"""The generated shapes: the same everywhere, disjoint parts, every class there and to be seen."""

import hashlib

import pytest
import torch

from compressor.data import load_data
from compressor.data.shapes import CLASSES, TEST, TRAIN, draw
from compressor.errors import DataError


@pytest.fixture
def load(make_config):
    return lambda seed=0, **fields: load_data(make_config("shapes", **fields), seed=seed)


def test_the_data_set(load):
    data = load()
    assert (data.task, data.class_names, data.input_shape) == ("segmentation", CLASSES, (3, 32, 32))
    assert (len(data.train) + len(data.validation), len(data.validation), len(data.test)) == (TRAIN, 200, TEST)
    share = torch.bincount(data.train.planes[:, -1].flatten(), minlength=4) / data.train.planes[:, -1].numel()
    assert float(share[0]) == pytest.approx(0.8, abs=0.05)
    assert float(share.min()) > 0.04  # no class can be left out of a mean over classes at no cost


def test_images_are_the_same_on_every_machine():
    found = hashlib.sha256(draw("train", 5, 32).numpy().tobytes()).hexdigest()
    assert found == "d5932047aa744defaeda00795cd66ed1e72074a5ec512ab4d3104b8d4898c17e"


def test_an_image_depends_on_its_part_and_number_alone(monkeypatch):
    whole = draw("train", 23, 16)
    assert torch.equal(draw("train", 7, 16), whole[:7])
    monkeypatch.setattr("compressor.data.shapes._CHUNK", 5 * 16 * 16)
    assert torch.equal(draw("train", 23, 16), whole)
    assert not torch.equal(draw("test", 23, 16), whole)


def test_parts_are_disjoint(load):
    data = load(limit=600, validation=0.3)
    images = [split.samples(torch.arange(len(split)))[0] for split in (data.train, data.validation, data.test)]
    seen = {image.numpy().tobytes() for image in torch.cat(images)}
    assert len(seen) == 600 + TEST


def test_the_seed_chooses_the_validation_images_only(load):
    first, other = load(seed=0, limit=60), load(seed=1, limit=60)
    assert torch.equal(first.test.planes, other.test.planes)
    assert not torch.equal(first.validation.planes, other.validation.planes)


def test_a_limit_may_ask_for_more(load):
    data = load(limit=TRAIN + 29, image_size=16, validation=0.0)
    assert len(data.train) == TRAIN + 29


@pytest.mark.parametrize("side", [16, 37, 64])
def test_sizes_and_grey(load, side):
    data = load(limit=29, image_size=side, channels=1)
    assert data.input_shape == (1, side, side)
    images, masks = data.train.samples(torch.arange(13))
    assert images.shape == (13, 1, side, side)
    assert masks.shape == (13, side, side)
    assert masks.unique().tolist() == [0, 1, 2, 3]


def test_shapes_are_brighter_than_the_background_in_one_channel():
    planes = draw("train", 100, 32)
    strongest, masks = planes[:, :3].amax(1), planes[:, 3]
    assert int(strongest[masks > 0].min()) >= 210 - 20
    assert int(strongest[masks == 0].max()) <= 150 + 20


def test_a_single_shape_has_the_form_of_its_class():
    masks = draw("train", 400, 64)[:, 3]
    filled = {1: [], 2: [], 3: []}
    for mask in masks:
        kinds = mask.unique().tolist()
        inner = not (mask[[0, -1]].any() or mask[:, [0, -1]].any())
        if len(kinds) == 2 and inner:
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            box = (int(rows.max() - rows.min()) + 1) * (int(columns.max() - columns.min()) + 1)
            filled[kinds[1]].append(int((mask > 0).sum()) / box)
    # Of its box a disc fills π/4, a square all, a triangle a half, less the edge of the pixel grid; two overlapping
    # shapes of a kind fill less.
    for kind, share in ((1, torch.pi / 4), (2, 1.0), (3, 0.5)):
        assert len(filled[kind]) > 20
        assert sorted(filled[kind])[len(filled[kind]) * 3 // 4] == pytest.approx(share, abs=0.08)


def test_images_too_small_to_tell_shapes_apart(load):
    with pytest.raises(DataError, match=r"image_size: 15 pixels are too few to distinguish shapes, 16 are enough"):
        load(image_size=15)
