"""The forms of VGG, MLP and LeNet-5 in which TissueNet stacks layers."""

import pytest
import torch

from compressor.errors import ModelError
from compressor.models import build, reference_architecture, stackable


@pytest.mark.parametrize(
    ("depth", "names"),
    [
        (11, ["conv1", "conv1b", "conv1c", "conv2", "conv2b", "conv2c", "conv3", "conv4", "conv4b"]),
        (16, ["conv1", "conv2", "conv2b", "conv3", "conv4", "conv4b", "conv5", "conv6", "conv7"]),
        (19, ["conv1", "conv2", "conv2b", "conv3", "conv4", "conv4b", "conv5", "conv6", "conv7"]),
    ],
)
def test_every_stage_has_a_pair_behind_the_layer_that_enters_it(depth, names):
    reference = reference_architecture(f"vgg{depth}_bn", {"pairs": [1, 2, 3, 4, 5]}, 10, (3, 32, 32))
    assert list(reference.widths)[:9] == names
    assert len(reference.widths) == 15
    with torch.no_grad():
        assert build(reference.with_widths(dict.fromkeys(reference.widths, 3)))(torch.zeros(2, 3, 32, 32)).shape == (
            2,
            10,
        )


@pytest.mark.parametrize("bad", [[0], [6], [1, 1], "all", [True], [1.0]])
def test_stages_that_are_not_there_are_refused(bad):
    with pytest.raises(ModelError, match=r"model\.options\.pairs"):
        reference_architecture("vgg16_bn", {"pairs": bad}, 10, (3, 32, 32))


def test_a_form_keeps_widths_by_their_names():
    narrow = reference_architecture("vgg16_bn", {}, 10, (3, 32, 32), 0.25)
    form, firsts = stackable(narrow, "r", 0.25)
    assert firsts == ["conv4", "conv6", "conv9"]
    assert {name: form.widths[name] for name in narrow.widths} == dict(narrow.widths)
    assert form.widths["conv4b"] == 32


def test_an_mlp_is_stacked_with_as_many_outputs_as_inputs():
    form, firsts = stackable(reference_architecture("mlp", {}, 10, (1, 28, 28)), "all")
    assert (firsts, form.widths["fc2"]) == (["fc1"], 784)


def test_other_networks_have_no_form_of_their_own():
    reference = reference_architecture("preact_resnet18", {}, 10, (3, 32, 32))
    assert stackable(reference, "all") == (reference, None)


@pytest.mark.parametrize("style", ["classic", "tissue"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 24), (1, 16, 16)])
def test_lenet_takes_any_image_from_its_least_side_on(style, shape):
    reference = reference_architecture("lenet5", {"style": style}, 7, shape)
    with torch.no_grad():
        assert build(reference)(torch.zeros(2, *shape)).shape == (2, 7)


def test_lenet5_has_its_known_layers():
    model = build(reference_architecture("lenet5", {}, 10, (1, 28, 28)))
    weights = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("bn"))
    assert weights == 61_706  # of LeNet-5 on 28×28, padded
