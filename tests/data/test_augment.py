"""What augmentations may make of an image, seen on random pixels, where all windows are different."""

import pytest
import torch
from torch.nn import functional

from compressor.data.augment import cut_out, mix, move, rand_augment
from compressor.data.pixels import with_channels

HEIGHT, WIDTH = 17, 24  # 1/8 of them is 2 and 3: mixing them up shows


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.randint(0, 256, (200, 3, HEIGHT, WIDTH), generator=draw(99)).byte()


def windows(image):
    """Every window of the padded image: {(down, right): (C, H, W)}."""
    padded = functional.pad(image.float()[None], (3, 3, 2, 2), mode="reflect")[0].byte()
    return {(y, x): padded[:, y : y + HEIGHT, x : x + WIDTH] for y in range(2 * 2 + 1) for x in range(2 * 3 + 1)}


def test_no_augmentation_changes_nothing(images):
    assert move(images, (), draw()) is images
    assert move(images, ("cutout",), draw()) is images


def test_flip_gives_the_image_or_its_mirror_half_of_the_time(images):
    moved = move(images, ("flip",), draw())
    kept = (moved == images).flatten(1).all(1)
    mirrored = (moved == images.flip(3)).flatten(1).all(1)
    assert bool((kept ^ mirrored).all())
    assert 70 <= int(mirrored.sum()) <= 130  # 200 fair coins: 4 standard deviations are 28


def test_crop_gives_a_window_of_the_padded_image(images):
    moved = move(images, ("crop",), draw())
    places = set()
    for image, found in zip(images, moved, strict=True):
        matches = [place for place, window in windows(image).items() if torch.equal(window, found)]
        assert len(matches) == 1
        places.add(matches[0])
    assert len(places) >= 33  # of 35; the chance that one of 35 is missed by 200 draws is 0.3 %
    assert {y for y, _ in places} == set(range(5))
    assert {x for _, x in places} == set(range(7))


def test_crop_and_flip_give_a_window_or_its_mirror(images):
    moved = move(images, ("flip", "crop"), draw())
    for image, found in zip(images, moved, strict=True):
        assert any(
            torch.equal(window, found) or torch.equal(window.flip(2), found) for window in windows(image).values()
        )


def test_the_order_of_the_names_does_not_matter(images):
    assert torch.equal(move(images, ("flip", "crop"), draw()), move(images, ("crop", "flip"), draw()))


def test_sides_under_eight_pixels_are_not_cropped():
    tiny = torch.arange(2 * 7 * 7).view(2, 1, 7, 7).byte()
    assert torch.equal(move(tiny, ("crop",), draw()), tiny)


def test_cutout_hides_a_square_of_a_quarter_of_the_shorter_side():
    images = torch.ones(300, 3, HEIGHT, WIDTH)
    hidden = cut_out(images, draw()) == 0
    assert bool((hidden == hidden[:, :1]).all())  # the same in every channel
    rows, columns = hidden[:, 0].any(2).sum(1), hidden[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, hidden[:, 0].sum((1, 2)))  # a rectangle, whole unless at the border
    assert int(rows.min()) >= 2
    assert int(columns.min()) >= 2
    assert int(rows.max()) == int(columns.max()) == HEIGHT // 4
    assert bool(hidden[:, 0].any(0).all())  # no place is safe
    assert torch.equal(images, torch.ones(300, 3, HEIGHT, WIDTH))


def test_rgb_to_grey_is_what_pil_does():
    from PIL import Image

    colour = torch.randint(0, 256, (1, 3, 40, 40), generator=draw()).byte()
    expected = Image.fromarray(colour[0].permute(1, 2, 0).numpy()).convert("L")
    assert with_channels(colour, 1)[0, 0].flatten().tolist() == list(expected.tobytes())


def test_rand_augment_changes_every_image_by_itself_and_as_the_generator_says(images):
    state = torch.get_rng_state()
    changed = rand_augment(images[:40], draw(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert (changed.shape, changed.dtype) == ((40, 3, HEIGHT, WIDTH), torch.uint8)
    assert torch.equal(changed, rand_augment(images[:40], draw(3)))
    assert not torch.equal(changed, rand_augment(images[:40], draw(4)))
    different = [not torch.equal(one, own) for one, own in zip(changed, images, strict=False)]
    assert sum(different) > 20
    twins = rand_augment(images[:1].expand(20, -1, -1, -1), draw(3))
    assert len({one.numpy().tobytes() for one in twins}) > 5


@pytest.mark.parametrize("names", [("mixup",), ("cutmix",), ("mixup", "cutmix")])
def test_labels_are_mixed_as_the_images_are(names):
    """Images of one value each: how much of which is in a mixed image can be read off."""
    values = torch.arange(1.0, 9.0)
    images = values[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    labels = torch.arange(8)
    for seed in range(10):
        mixed, shares = mix(images, labels, names, 8, draw(seed))
        torch.testing.assert_close(shares.sum(1), torch.ones(8))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ values)
        assert int((shares > 0).sum(1).max()) <= 2
    assert torch.equal(mix(images, labels, names, 8, draw(1))[0], mix(images, labels, names, 8, draw(1))[0])


def test_nothing_is_mixed_unless_asked_for(images):
    labels = torch.arange(200)
    same, kept = mix(images, labels, ("flip", "crop"), 200, draw())
    assert same is images
    assert kept is labels
