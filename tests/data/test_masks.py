"""Images and masks move together: here the mask can be computed from the image, also after it was changed."""

import math

import pytest
import torch

from compressor.data import IGNORED, Batches, MaskSplit, load_data, ordered, training_batches
from compressor.data.augment import move
from compressor.data.dataset import complete, divide
from compressor.data.masks import UNLABELLED
from compressor.errors import DataError
from compressor.recipe.sections import DataConfig

HEIGHT, WIDTH, CLASSES = 17, 24, 13
PLAIN = {"mean": (0.0, 0.0), "std": (1 / 255, 1 / 255)}  # normalised pixels are the pixels


def mask_of(images):
    """The class that the pixels (B, 2, H, W) of `random_split` spell."""
    return (images[:, 0] * 3 + images[:, 1]) % CLASSES


def random_split(count=53):
    images = torch.randint(0, 256, (count, 2, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0))
    return MaskSplit(torch.cat([images, mask_of(images)[:, None]], dim=1).byte())


def batches(split, **options):
    return Batches(split, 10, seed=3, **{**PLAIN, **options})


def test_a_split_gives_images_and_masks():
    split = random_split()
    images, masks = split.samples(torch.tensor([7, 2]))
    assert (split.shape, len(split), split.task) == ((2, HEIGHT, WIDTH), 53, "segmentation")
    assert images.dtype == torch.uint8
    assert masks.dtype == torch.int64
    assert torch.equal(images, split.planes[[7, 2], :2])
    assert torch.equal(masks, mask_of(images.long()))


def test_unlabelled_pixels_are_ignored_and_stay_so_in_the_store():
    planes = torch.tensor([[[[9, 9]], [[UNLABELLED, 4]]]]).byte()
    split = MaskSplit(planes)
    for _ in range(2):
        assert split.samples(torch.tensor([0]))[1].tolist() == [[[IGNORED, 4]]]
    assert split.target_range() == (4, 4)


@pytest.mark.parametrize("augment", [(), ("flip",), ("crop",), ("crop", "flip")])
def test_masks_move_with_their_images(augment):
    counted = seen = 0
    for images, masks in batches(random_split(), augment=augment).epoch(0):
        expected = mask_of(images.round().long())
        counts = masks != IGNORED
        assert torch.equal(masks[counts], expected[counts])
        counted, seen = counted + int(counts.sum()), seen + counts.numel()
    share = 1.0
    if "crop" in augment:  # shifts of -2..2 of 17 rows and -3..3 of 24 columns leave out 6/5 and 12/7 on average
        share = (1 - 6 / 5 / HEIGHT) * (1 - 12 / 7 / WIDTH)
    assert counted / seen == pytest.approx(share, abs=0.02 if "crop" in augment else 0)


@pytest.mark.parametrize("names", [("crop",), ("crop", "flip")])
def test_ignored_is_exactly_what_comes_from_outside(names):
    numbered = torch.arange(HEIGHT * WIDTH).view(1, 1, HEIGHT, WIDTH).expand(60, 2, -1, -1).short().contiguous()
    moved = move(numbered, names, torch.Generator().manual_seed(5), masked=True)
    for image, mask in moved.unbind(0):
        kept = image[mask == image]
        rows, columns = kept // WIDTH, kept % WIDTH
        # What is left is a rectangle of the image that touches one of its borders in each direction, each pixel
        # once; everything else is marked.
        area = (int(rows.max() - rows.min()) + 1) * (int(columns.max() - columns.min()) + 1)
        assert len(kept) == len(kept.unique()) == area
        assert HEIGHT - 2 <= int(rows.max() - rows.min()) + 1 <= HEIGHT
        assert WIDTH - 3 <= int(columns.max() - columns.min()) + 1 <= WIDTH
        assert bool((mask[mask != image] == UNLABELLED).all())
    assert bool((moved[:, 1] == UNLABELLED).any())


def test_images_are_moved_as_they_are_without_a_mask():
    planes = random_split().planes
    plain = move(planes[:, :2], ("crop", "flip"), torch.Generator().manual_seed(5))
    masked = move(planes, ("crop", "flip"), torch.Generator().manual_seed(5), masked=True)
    assert torch.equal(masked[:, :2], plain)


def test_cutout_hides_pixels_of_images_only():
    plain = list(batches(random_split()).epoch(0))
    cut = list(batches(random_split(), augment=("cutout",)).epoch(0))
    for (images, masks), (whole, same) in zip(cut, plain, strict=True):
        assert torch.equal(masks, same)
        hidden = (images != whole).any(1)
        assert bool(hidden.flatten(1).any(1).all())
        assert int(hidden.flatten(1).sum(1).max()) <= (HEIGHT // 4) ** 2


def test_the_store_is_not_changed_by_walking_it():
    split = random_split()
    before = split.planes.clone()
    for _ in batches(split, augment=("crop", "flip", "cutout")).epoch(0):
        pass
    assert torch.equal(split.planes, before)


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_starting_later_is_dropping_the_first(start):
    walk = batches(random_split(), augment=("crop", "flip", "cutout"))
    whole, rest = list(walk.epoch(2)), list(walk.epoch(2, start))
    assert len(whole) == len(walk) == 5
    assert len(rest) == 5 - start
    for (x, y), (u, v) in zip(whole[start:], rest, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def as_dataset(split, make_config, names=CLASSES, **fields):
    parts = (*divide(split, make_config("x", **fields), seed=1), split)
    return complete("x", parts, [str(i) for i in range(names)], seed=1)


def test_a_data_set_of_masks(make_config):
    split = random_split()
    data = as_dataset(split, make_config, limit=40, validation=0.25)
    assert (data.task, data.classes, data.input_shape) == ("segmentation", CLASSES, (2, HEIGHT, WIDTH))
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 53)
    expected = data.train.samples(torch.arange(30))[0].double().mean((0, 2, 3)) / 255  # the mask plays no part
    assert data.mean == pytest.approx(expected.tolist())
    walk = training_batches(data, 10, seed=0, augment=("crop",), channels_last=True)
    images, masks = next(walk.epoch(0))
    assert len(walk) == 3
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert masks.shape == (10, HEIGHT, WIDTH)


def test_ordered_walks_everything_in_order(make_config):
    data = as_dataset(random_split(), make_config)
    found = list(ordered(data.test, data, 7, channels_last=True))
    images, masks = data.test.samples(torch.arange(53))
    assert [len(y) for _, y in found] == [7] * 7 + [4]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in found)
    assert torch.equal(torch.cat([x for x, _ in found]), data.normalise(images))
    assert torch.equal(torch.cat([y for _, y in found]), masks)


def test_a_class_number_without_a_name(make_config):
    with pytest.raises(DataError, match=r"x: train labels are 0\.\.12, the classes 0\.\.11"):
        as_dataset(random_split(), make_config, names=CLASSES - 1)


def test_tasks_do_not_mix(numbered):
    labelled, masked = numbered(3), random_split(3)
    with pytest.raises(DataError, match="x: the test split is of the task segmentation, the train split of classif"):
        complete("x", (labelled, labelled, masked), ["a"] * CLASSES, seed=0)


@pytest.mark.parametrize("planes", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4).byte(), torch.zeros(3, 4).byte()])
def test_a_split_refuses_other_tensors(planes):
    with pytest.raises(ValueError, match="planes must be uint8"):
        MaskSplit(planes)


def test_masks_take_a_byte_per_pixel_until_they_are_asked_for():
    split = random_split()
    assert split.planes.element_size() * split.planes.numel() == math.prod((53, 3, HEIGHT, WIDTH))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_gets_the_same_batches():
    split = random_split()
    augment = ("crop", "flip", "cutout")
    here, there = (batches(s, augment=augment) for s in (split, MaskSplit(split.planes.cuda())))
    for (x, y), (u, v) in zip(here.epoch(3), there.epoch(3), strict=True):
        assert u.is_cuda
        assert v.is_cuda
        assert torch.equal(x, u.cpu())
        assert torch.equal(y, v.cpu())


@pytest.mark.parametrize("name", ["randaugment", "mixup", "cutmix"])
def test_what_masks_cannot_follow_is_refused(name):
    config = DataConfig(name="shapes", limit=20)
    data = load_data(config, seed=0)
    with pytest.raises(DataError, match=f"augment: {name} is for images with a class each, not for masks; valid: crop"):
        training_batches(data, 2, seed=0, augment=(name,))
