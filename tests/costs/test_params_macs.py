import random

import pytest
import torch
from torch import nn

from compressor.costs import of_widths, params_macs
from compressor.models import build, build_meta, reference_architecture
from compressor.models.architecture import Architecture


class Net(nn.Module):
    """(N, 3, 12, 10) ─ conv 3×3, stride 2 (13) ─ depth-wise 3×3 (13) ─ BN ─ conv 1×1 (23) ─ pool ─ linear (29)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 13, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(13, 13, 3, padding=1, groups=13, bias=False)
        self.norm = nn.BatchNorm2d(13)
        self.conv2 = nn.Conv2d(13, 23, 1, bias=False)
        self.linear = nn.Linear(23, 29)

    def forward(self, x):
        x = self.conv2(torch.relu(self.norm(self.depthwise(self.conv1(x)))))
        return self.linear(x.mean((2, 3)))


PARAMS = (27 * 13 + 13) + 9 * 13 + 2 * 13 + 13 * 23 + (23 * 29 + 29)
MACS = (27 * 13 + 9 * 13 + 13 * 23) * 6 * 5 + 23 * 29  # the stride leaves 6×5 positions; biases are not counted


def test_parameters_are_counted_once_and_buffers_are_not():
    model = Net()
    assert params_macs.count_params(model) == PARAMS
    model.again = model.linear
    assert params_macs.count_params(model) == PARAMS


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_macs_are_those_of_one_image(batch, device):
    with torch.device(device):
        assert params_macs.count_macs(Net(), torch.zeros(batch, 3, 12, 10)) == MACS


def test_counting_leaves_the_network_as_it_was():
    model = Net().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    params_macs.count_macs(model, torch.randn(2, 3, 12, 10))
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_macs_of_an_mlp_by_formula():
    architecture = Architecture("mlp", 7, (2, 5, 3), {"fc1": 13, "fc2": 23})
    assert params_macs.macs(architecture) == 30 * 13 + 13 * 23 + 23 * 7


@pytest.mark.parametrize("name", ["vgg11_bn", "preact_resnet18", "mobilenetv2", "torchvision:squeezenet1_0"])
def test_counts_without_weights_equal_those_of_the_real_network(name):
    architecture = reference_architecture(name, {}, 10, (3, 32, 32), 0.1)
    real = build(architecture)
    assert all(parameter.is_meta for parameter in build_meta(architecture).parameters())
    assert params_macs.COSTS["params"](architecture) == params_macs.count_params(real)
    assert params_macs.COSTS["macs"](architecture) == params_macs.count_macs(real, torch.zeros(3, 3, 32, 32))


def test_a_cost_of_widths_goes_by_the_references_order_and_counts_once():
    reference = Architecture("mlp", 7, (2, 5, 3), {"fc1": 500, "fc2": 300})
    asked = []

    def counted(architecture):
        asked.append(dict(architecture.widths))
        return params_macs.macs(architecture)

    of = of_widths(reference, counted)
    assert [of([13, 23]), of((13, 23)), of([23, 13])] == [
        30 * 13 + 13 * 23 + 23 * 7,
        30 * 13 + 13 * 23 + 23 * 7,
        30 * 23 + 23 * 13 + 13 * 7,
    ]
    assert asked == [{"fc1": 13, "fc2": 23}, {"fc1": 23, "fc2": 13}]
    with pytest.raises(ValueError, match="zip"):
        of([13])


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:squeezenet1_1"])
def test_counting_layer_by_layer_is_counting_the_resized_network(name):
    architecture = reference_architecture(name, {}, 10, (3, 32, 32), 0.2)
    odd = architecture.with_widths(
        {group: width + (5 * index) % 7 for index, (group, width) in enumerate(architecture.widths.items())}
    )
    resized = build_meta(odd)
    assert params_macs.params(odd) == params_macs.count_params(resized)
    assert params_macs.macs(odd) == params_macs.count_macs(resized, torch.zeros(1, 3, 32, 32, device="meta"))


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet18", "mobilenetv2"])
@pytest.mark.parametrize("seed", range(3))
def test_shortcuts_are_counted_only_where_widths_differ(name, seed):
    draw = random.Random(seed)
    own = reference_architecture(name, {"shortcut": "conv"}, 10, (3, 32, 32), 0.2)
    drawn = own.with_widths({group: draw.choice([width, 3, draw.randint(1, 9)]) for group, width in own.widths.items()})
    network = build_meta(drawn)
    assert params_macs.params(drawn) == params_macs.count_params(network)
    assert params_macs.macs(drawn) == params_macs.count_macs(network, torch.zeros(1, 3, 32, 32, device="meta"))


MODULE = """
import torch
from torch import nn

class Gram(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 13, 3, padding=1)
        self.mixed = nn.Conv2d(13, 13, 3, padding=1)
        self.fc = nn.Linear(13, num_classes)

    def forward(self, x):
        x = self.mixed(torch.relu(self.conv(x))).flatten(2)
        weights = torch.softmax(x.transpose(1, 2) @ x, -1)   # activations times activations
        return self.fc((x @ weights).mean(2))
"""


def test_products_of_activations_are_counted_at_every_width(tmp_path, monkeypatch):
    (tmp_path / "gramnet_for_cost.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    architecture = reference_architecture("gramnet_for_cost:Gram", {}, 10, (3, 4, 4))
    for widths in ({"conv": 13, "mixed": 13}, {"conv": 5, "mixed": 23}):
        a, b = widths["conv"], widths["mixed"]
        layers = 16 * (27 * a + 9 * a * b) + 10 * b
        products = 2 * 16 * 16 * b
        assert params_macs.macs(architecture.with_widths(widths)) == layers + products
