"""Wrappers of others' tools are taken off, wherever they are, and the user hears of it."""

import pytest
import torch
from torch import nn

from compressor.costs import params_macs
from compressor.models import build, has_weights, offer, reference_architecture, remarks
from compressor.models.wrappers import unwrapped

IMAGES = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 13, 3), nn.ReLU())
        self.fc = nn.Linear(13, 5)

    def forward(self, x):
        return self.fc(self.stem(x).mean((2, 3)))


def compiled(net):
    return torch.compile(net)


def compiled_in_place(net):
    net.compile()
    return net


def compiled_part(net):
    net.stem = torch.compile(net.stem)
    return net


def compiled_function(net):
    net.forward = torch.compile(net.forward)
    return net


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda net: net, []),
        (nn.DataParallel, ["DataParallel"]),
        (compiled, ["torch.compile"]),
        (compiled_in_place, ["torch.compile"]),
        (compiled_part, ["torch.compile"]),
        (compiled_function, ["torch.compile"]),
        (lambda net: nn.DataParallel(compiled(net)), ["DataParallel", "torch.compile"]),
        (lambda net: compiled(nn.DataParallel(net)), ["torch.compile", "DataParallel"]),
    ],
)
def test_what_is_inside_is_as_it_was(wrap, names):
    net = Net()
    expected, keys = net(IMAGES), list(net.state_dict())
    inside, found = unwrapped(wrap(net))
    assert found == names
    assert type(inside) is Net
    assert list(inside.state_dict()) == keys
    assert torch.equal(inside(IMAGES), expected)
    assert not [module for module in inside.modules() if "Optimized" in type(module).__name__]


def test_a_wrapped_network_is_resized_and_the_user_told():
    name = offer("wrapped", nn.DataParallel(Net()))
    architecture = reference_architecture(name, {}, 5, (3, 8, 8))
    assert architecture.widths == {"stem.0": 13}
    assert build(architecture.with_widths({"stem.0": 7}))(IMAGES).shape == (2, 5)
    assert remarks(architecture) == ["given:wrapped is taken out of DataParallel"]


@pytest.fixture
def factories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_with_weights.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def fresh(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 13, 3), nn.Flatten(), nn.Linear(13 * 36, num_classes))\n"
        "def trained(num_classes):\n"
        "    net = fresh(num_classes)\n"
        "    net.load_state_dict(torch.load('kept.pt'))\n"
        "    return net\n"
        "def backbone(num_classes):\n"
        "    net = nn.Sequential(*trained(num_classes), nn.Linear(num_classes, 11), nn.Linear(11, num_classes))\n"
        "    return net\n"
        "def seeded(num_classes):\n"
        "    torch.manual_seed(0)\n"
        "    return fresh(num_classes)\n"
        "def forked(num_classes):\n"
        "    with torch.random.fork_rng():\n"
        "        torch.manual_seed(0)\n"
        "        return fresh(num_classes)\n"
        "def large_head(num_classes):\n"
        "    return nn.Sequential(*trained(num_classes), nn.Linear(num_classes, 4000), nn.Linear(4000, num_classes))\n"
        "class Positioned(nn.Sequential):\n"
        "    def __init__(self, *layers):\n"
        "        super().__init__(*layers)\n"
        "        self.table = nn.Parameter(torch.sin(torch.arange(3.0 * 64 * 50).view(50, 3, 8, 8)))\n"
        "    def forward(self, x):\n"
        "        return super().forward(x + self.table.mean(0))\n"
        "def table(num_classes):\n"
        "    return Positioned(*fresh(num_classes))\n"
        "def formula(num_classes):\n"
        "    net = fresh(num_classes)\n"
        "    net[0].bias.data.copy_(torch.linspace(0, 1, 13))\n"
        "    return net\n"
    )
    net = nn.Sequential(nn.Conv2d(3, 13, 3), nn.Flatten(), nn.Linear(13 * 36, 5))
    torch.save(net.state_dict(), "kept.pt")
    return net


def test_weights_that_code_loads_are_known_and_not_used_unasked(factories):
    fresh, trained = (
        reference_architecture(f"nets_with_weights:{name}", {}, 5, (3, 8, 8)) for name in ("fresh", "trained")
    )
    assert [has_weights(fresh), has_weights(trained)] == [False, True]
    first, second = build(trained, 0), build(trained, 1)
    assert not torch.equal(first[0].weight, factories[0].weight)
    assert not torch.equal(first[0].weight, second[0].weight)
    assert torch.equal(first[0].weight, build(trained, 0)[0].weight)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("backbone", True),
        ("large_head", True),
        ("seeded", False),
        ("forked", False),
        ("formula", False),
        ("table", False),
    ],
)
def test_weights_are_those_of_the_code_where_most_are_the_same_whatever_the_seed(factories, name, known):
    architecture = reference_architecture(f"nets_with_weights:{name}", {}, 5, (3, 8, 8))
    assert has_weights(architecture) == known
    first, second, narrow, other = (
        build(architecture.with_widths(dict(architecture.widths) | {"0": width}), seed)
        for width, seed in ((13, 0), (13, 1), (7, 0), (7, 1))
    )
    assert not torch.equal(first[0].weight, factories[0].weight)
    assert torch.equal(first[0].weight, second[0].weight) == (name in ("seeded", "forked"))  # as the code wants it
    assert not torch.equal(narrow[0].weight, other[0].weight)
    assert torch.equal(first[0].weight, build(architecture, 0)[0].weight)
    torch.manual_seed(3)  # has its effect again
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(2))


def test_another_network_of_the_same_name_is_another_one():
    first = reference_architecture(offer("again", Net()), {}, 5, (3, 8, 8))
    other = Net()
    other.stem[0], other.fc = nn.Conv2d(3, 13, 1), nn.Linear(13, 5, bias=False)
    counts = []
    for network in (Net(), other):
        offer("again", network)
        counts.append(params_macs.params(first.with_widths({"stem.0": 7})))
    assert counts == [7 * 27 + 7 + 7 * 5 + 5, 7 * 3 + 7 + 7 * 5]


def test_a_part_under_two_names_is_taken_out_of_both():
    net = Net()
    net.again = net.stem = torch.compile(net.stem)
    inside, found = unwrapped(net)
    assert found == ["torch.compile"]
    assert inside.again is inside.stem
    assert type(inside.stem) is nn.Sequential
