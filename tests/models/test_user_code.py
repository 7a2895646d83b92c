"""Code of the user's that makes a network: what it may change around itself, and what it may give."""

import os
import random

import numpy as np
import pytest
import torch
from torch import nn

from compressor.costs import params_macs
from compressor.errors import ModelError
from compressor.models import build, build_meta, has_weights, network_with_weights, reference_architecture, remarks

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
        self.scale, self.shift = float(np.random.rand()), torch.rand(3).tolist()
        self.a, self.fc = nn.Conv2d(3, 13, 3), nn.Linear(13, num_classes)

    def forward(self, x):
        x = (x * self.mask * self.scale).flatten(2)[:, :, self.order].view(x.shape)
        x = x * x.new_tensor(self.signs).view(1, 3, 1, 1) + x.new_tensor(self.shift).view(1, 3, 1, 1)
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
    return nn.Sequential(nn.Conv2d(3, 13, 8), nn.Flatten(), nn.Linear(13, num_classes))


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


def meta_buffer(num_classes):
    net = Net(num_classes)
    net.mask = net.mask.to("meta")
    return net


class Noting(Net):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


class Late(Noting):
    def get_extra_state(self):
        return self.seen  # which `forward` would set


class Unhashable(Net):
    __hash__ = None


class NotBegun(nn.Module):
    def __init__(self, num_classes=5):
        pass


def listing(num_classes):
    net = Net(num_classes)
    net.state_dict = lambda *arguments, **more: []
    return net


def sparse(num_classes):
    net = Net(num_classes)
    net.a.weight = nn.Parameter(net.a.weight.detach().to_sparse())
    return net


class Unsayable(Exception):
    def __str__(self):
        raise RuntimeError("hidden")


def unsayable(num_classes):
    raise Unsayable


def kept(num_classes):
    if not KEPT:
        KEPT.append(Net(num_classes))
    return KEPT[0]


def seeded(num_classes):
    torch.manual_seed(5)
    return Net(num_classes)


class Sharing(Net):
    # A tensor that shares its memory with a weight, a layer that is made under another seed, and one after it.
    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.b = nn.Conv2d(3, 13, 3)
        self.c = nn.Conv2d(3, 13, 3)
        self.first = self.a.weight.data

    def forward(self, x):
        return super().forward(x) + self.first.mean() + (self.b(x) + self.c(x)).mean()


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


@pytest.mark.parametrize("name", ["Net", "seeded", "draws_numpy", "Sharing"])
@pytest.mark.parametrize("seed", [0, 7])
def test_what_is_drawn_beside_weights_is_the_same_whenever_the_network_is_built(named, name, seed):
    """A network is built to be trained, and again to be shipped; growing takes its parts without weights."""
    architecture = named(name)
    first = build(architecture, seed).eval()
    state = {key: value.clone() for key, value in first.state_dict().items()}
    expected = first(IMAGES)
    random.random(), np.random.rand(), torch.rand(1)
    again, given = build(architecture, seed), network_with_weights(architecture, seed)
    grown = build_meta(architecture, seed).to_empty(device="cpu")
    grown.mask = first.mask  # growing keeps all buffers
    for other in (again, given, grown)[: 2 if name == "Sharing" else 3]:
        other.load_state_dict(state)
        assert torch.equal(other.eval()(IMAGES), expected)
    assert 0 < first.mask.std() < 1


def test_a_tensor_that_shares_memory_with_a_weight_goes_on_to_share_it(named):
    network = build(named("Sharing"), 0)
    assert network.first.data_ptr() == network.a.weight.data_ptr()
    assert not torch.equal(network.b.weight, network.c.weight)


@pytest.mark.parametrize("name", ["Net", "draws_numpy"])
def test_the_seed_of_the_recipe_decides_on_weights(named, name):
    architecture = named(name)
    assert not torch.equal(build(architecture, 0).a.weight, build(architecture, 1).a.weight)


def test_code_that_seeds_torch_is_said_to_begin_with_the_same_weights(named):
    architecture = named("seeded")
    assert not has_weights(architecture)
    assert remarks(architecture) == [
        "the code of nets_around:seeded seeds torch, so every seed of the recipe begins with the same weights"
    ]
    assert torch.equal(build(architecture, 0).a.weight, build(architecture, 1).a.weight)
    narrow = architecture.with_widths({"a": 4})
    assert not torch.equal(build(narrow, 0).a.weight, build(narrow, 1).a.weight)
    assert remarks(named("Net")) == []


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
        ("other_device", "0.weight has no values: it lies on the meta device"),
        ("meta_buffer", "mask has no values: it lies on the meta device"),
        ("Noting", "_extra_state is a dict; valid: extra state that is a tensor"),
        ("Late", "it has no state dict: AttributeError: 'Late' object has no attribute 'seen'"),
        ("doubles", r"a\.weight is float64, not float32 \(call \.float\(\) on the network\)"),
        ("brain_floats", r"a\.weight is bfloat16, not float32"),
        ("without_gradients_for_good", r"a\.weight cannot change: it was made under torch\.inference_mode"),
        ("ends", "cannot be built: it ends the process: no licence"),
        ("ends_well", "cannot be built: it ends the process: 0"),
        ("scripted", "it is TorchScript"),
        ("Unhashable", "gives a broken network: TypeError: unhashable type"),
        ("NotBegun", "gives a broken network: AttributeError"),
        ("listing", "its state dict is a list"),
        ("sparse", r"a\.weight is sparse_coo; valid: dense tensors"),
        ("unsayable", "cannot be built: Unsayable"),
        ("partly_scripted", "its part a is TorchScript"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_trained_is_refused_in_one_sentence(named, name, message):
    with pytest.raises(ModelError, match=f"^model.name: nets_around:{name}.*{message}") as refused:
        named(name)
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_copied_is_refused_with_what_can(named):
    with pytest.raises(ModelError, match=r"it cannot be copied: .*nn\.utils\.parametrizations\.weight_norm"):
        named("old_weight_norm")


def test_code_that_keeps_its_network_is_given_none_of_our_changes(named):
    architecture = named("kept")
    first = build(architecture, 0)
    with torch.no_grad():
        first.a.weight.zero_()
    assert build(architecture, 0).a.weight.std() > 0
    assert build(architecture.with_widths({"a": 4}), 0)(IMAGES).shape == (3, 5)


def test_code_that_goes_to_its_own_folder_when_it_is_imported_finds_its_files(tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    (own / "shape.txt").write_text("13")
    (tmp_path / "nets_elsewhere.py").write_text(
        "import os\nfrom pathlib import Path\nfrom torch import nn\nos.chdir('own')\n"
        "def make(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, int(Path('shape.txt').read_text()), 8), nn.Flatten(),"
        " nn.Linear(13, 5))\n"
    )
    monkeypatch.chdir(tmp_path)
    architecture = reference_architecture("nets_elsewhere:make", {}, 5, (3, 8, 8))
    assert build(architecture)(IMAGES).shape == (3, 5)
    assert os.getcwd() == str(tmp_path)  # noqa: PTH109


def test_multiply_adds_are_counted_of_a_network_that_needs_several_samples(named):
    assert params_macs.macs(named("OverSeveral")) == params_macs.macs(named("Net"))


def test_an_averaged_network_is_taken_out():
    from compressor.models.wrappers import unwrapped

    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    inside, found = unwrapped(torch.optim.swa_utils.AveragedModel(net))
    assert found == ["AveragedModel"]
    assert type(inside) is nn.Sequential
