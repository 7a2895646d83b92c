"""Which widths a recipe's `widths` section lets change: patterns of module paths."""

import pytest

from compressor.errors import RecipeError
from compressor.models import reference_architecture
from compressor.recipe import WidthsConfig
from compressor.search.bounds import bounds_of


@pytest.fixture(scope="module")
def resnet():
    return reference_architecture("torchvision:resnet18", {}, 10, (3, 32, 32))


def free(reference, **section):
    bounds = bounds_of(WidthsConfig(**section), reference)
    return {name for name, frozen in zip(reference.widths, bounds.frozen, strict=True) if not frozen}


LAST = {"layer4.0.conv1", "layer4.1.conv1", "layer4.0.conv2"}  # the last is a stream, with layer4.1.conv2


def test_only_the_layers_of_a_pattern_change(resnet):
    assert free(resnet) == set(resnet.widths)
    for pattern in ("layer4", "layer4.*"):
        assert free(resnet, only=(pattern,)) == LAST
    assert free(resnet, only=("layer4.?.conv1",)) == {"layer4.0.conv1", "layer4.1.conv1"}
    assert free(resnet, only=("layer4",), frozen=("layer4.0",)) == {"layer4.1.conv1"}


def test_a_group_with_one_frozen_layer_keeps_its_width(resnet):
    """The stream of layer1 begins with conv1."""
    left = free(resnet, frozen=("layer1.1.conv2", "layer4", "fc"))  # the head has no width to change
    assert left == set(resnet.widths) - LAST - {"conv1"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"frozen": ("head.*",)}, r"widths\.frozen: 'head\.\*' is not one of .*, nor a pattern of these"),
        ({"only": ("layer9",)}, r"widths\.only: 'layer9' is not one of"),
        ({"frozen": ("*",)}, r"widths\.frozen: every width group of the network would keep its width"),
        ({"only": ("layer1.1.conv2",)}, r"widths\.only: every width group"),
        ({"minimum": {"layer4.*": 3}}, r"widths\.minimum: 'layer4\.\*' is not one of"),
    ],
)
def test_what_names_no_layer_is_refused(resnet, section, message):
    with pytest.raises(RecipeError, match=message):
        bounds_of(WidthsConfig(**section), resnet)


def test_widths_of_the_zoo_go_by_their_names():
    reference = reference_architecture("resnet20", {"shortcut": "conv"}, 10, (3, 32, 32))
    some = sorted(reference.widths)[:3]
    assert free(reference, frozen=tuple(some)) == set(reference.widths) - set(some)
