"""Code of the user's that makes a network: what it may change around itself, and what it may give."""

import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from compressor.costs import params_macs
from compressor.errors import ModelError
from compressor.models import build, has_weights, network_with_weights, reference_architecture

CODE = """
import os, random, sys
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=5):
        super().__init__()
        self.register_buffer("mask", torch.rand(8, 8), persistent=False)
        self.order, self.signs = torch.randperm(64), [random.random() for _ in range(3)]
        self.scale = float(np.random.rand())
        self.a, self.fc = nn.Conv2d(3, 13, 3), nn.Linear(13, num_classes)

    def forward(self, x):
        x = (x * self.mask * self.scale).flatten(2)[:, :, self.order].view(x.shape)
        x = x * x.new_tensor(self.signs).view(1, 3, 1, 1)
        return self.fc(torch.relu(self.a(x)).mean((2, 3)))


def draws_numpy(num_classes):
    net = Net(num_classes)
    net.a.weight.data.copy_(torch.from_numpy(np.random.randn(13, 3, 3, 3)))
    return net


def no_gradients(num_classes):
    torch.set_grad_enabled(False)
    return Net(num_classes)


def other_folder(num_classes):
    os.chdir("/")
    return Net(num_classes)


def other_device(num_classes):
    torch.set_default_device("meta")
    return Net(num_classes)


def doubles(num_classes):
    torch.set_default_dtype(torch.float64)
    return Net(num_classes)


def brain_floats(num_classes):
    return Net(num_classes).bfloat16()


def without_gradients_for_good(num_classes):
    with torch.inference_mode():
        return Net(num_classes)


def ends(num_classes):
    sys.exit("no licence")


def ends_well(num_classes):
    sys.exit(0)


def scripted(num_classes):
    return torch.jit.trace(Net(num_classes), torch.zeros(2, 3, 8, 8))


def partly_scripted(num_classes):
    net = Net(num_classes)
    net.a = torch.jit.trace(net.a, torch.zeros(2, 3, 8, 8))
    return net


def old_weight_norm(num_classes):
    net = Net(num_classes)
    nn.utils.weight_norm(net.a)(torch.zeros(2, 3, 8, 8))
    return net


KEPT = []


def kept(num_classes):
    if not KEPT:
        KEPT.append(Net(num_classes))
    return KEPT[0]


def seeded(num_classes):
    torch.manual_seed(5)
    net = Net(num_classes)
    net.fc.bias.requires_grad_(False)
    return net


class OverSeveral(Net):
    def forward(self, x):
        assert len(x) > 1, "needs several"
        logits = super().forward(x)
        return logits - logits.mean(0)
"""
IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Architecture of a network that a function of `CODE` makes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_around.py").write_text(CODE)
    return lambda name: reference_architecture(f"nets_around:{name}", {}, 5, (3, 8, 8))


def test_what_no_file_of_weights_holds_is_the_same_at_every_seed(named):
    architecture = named("Net")
    first, second = build(architecture, 0), build(architecture, 1)
    assert not torch.equal(first.a.weight, second.a.weight)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(IMAGES), second.eval()(IMAGES))
    assert 0 < first.mask.std() < 1


def test_a_seed_of_the_code_decides_what_does_not_train_and_the_recipes_what_does(named):
    architecture = named("seeded")
    assert not has_weights(architecture)
    first, second = build(architecture, 0), build(architecture, 1)
    given = network_with_weights(architecture)
    assert not torch.equal(first.a.weight, second.a.weight)
    for other in (first, second):
        assert torch.equal(other.mask, given.mask)
        assert torch.equal(other.order, given.order)
        assert torch.equal(other.fc.bias, given.fc.bias)
    torch.manual_seed(5)
    assert torch.equal(given.mask, torch.rand(8, 8))


def test_weights_that_numpy_draws_are_no_weights_that_come_with_the_network(named):
    assert not has_weights(named("draws_numpy"))


@pytest.mark.parametrize("name", ["no_gradients", "other_folder", "other_device", "doubles"])
def test_what_code_changes_around_itself_is_set_back(named, name):
    def around():
        state = torch.is_grad_enabled(), torch.get_default_device(), torch.get_default_dtype()
        return (*state, os.getcwd(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: PTH109

    before = around()
    if name in ("no_gradients", "other_folder"):
        build(named(name))
    else:
        with pytest.raises(ModelError):
            named(name)
    assert around() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other_device", "mask|a.weight has no values: it lies on the meta device"),
        ("doubles", r"a\.weight is float64, not float32 \(call \.float\(\) on the network\)"),
        ("brain_floats", r"a\.weight is bfloat16, not float32"),
        ("without_gradients_for_good", r"a\.weight cannot train: it was made under torch\.inference_mode"),
        ("ends", "cannot be built: it ends the process: no licence"),
        ("ends_well", "cannot be built: it ends the process: 0"),
        ("scripted", "it is TorchScript"),
        ("partly_scripted", "its part a is TorchScript"),
        ("old_weight_norm", "cannot be copied: .*parametrizations.weight_norm"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_trained_is_refused_in_one_sentence(named, name, message):
    with pytest.raises(ModelError, match=f"^model.name: nets_around:{name}.*{message}") as refused:
        named(name)
    assert "\n" not in str(refused.value)


def test_code_that_keeps_its_network_is_given_none_of_our_changes(named):
    architecture = named("kept")
    first = build(architecture, 0)
    with torch.no_grad():
        first.a.weight.zero_()
    assert build(architecture, 0).a.weight.std() > 0
    assert build(architecture.with_widths({"a": 4}), 0)(IMAGES).shape == (3, 5)


def test_multiply_adds_are_counted_of_a_network_that_needs_several_samples(named):
    assert params_macs.macs(named("OverSeveral")) == params_macs.macs(named("Net"))


def test_an_averaged_network_is_taken_out():
    from compressor.models.wrappers import unwrapped

    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    inside, found = unwrapped(torch.optim.swa_utils.AveragedModel(net))
    assert found == ["AveragedModel"]
    assert type(inside) is nn.Sequential
