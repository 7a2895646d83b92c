"""Values that do not train: they are never drawn anew, and a group that cannot get more of them is fixed."""

import copy

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from compressor.dependency import dependency_graph, remove_channels_, resize_
from compressor.errors import ModelError
from compressor.models.initialise import reinitialise_

IMAGES = torch.zeros(2, 3, 8, 8)


class Blurred(nn.Module):
    """A frozen norm, a depth-wise blur kernel, and positions, of the channels of `a`; `b` has nothing of that kind."""

    def __init__(self, norm=None, positions=None):
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 12, 1), FrozenBatchNorm2d(12)
        kernel = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("blur", (kernel[:, None] * kernel / 16).repeat(12, 1, 1, 1))
        self.positions = None if positions is None else nn.Parameter(positions, requires_grad=False)
        self.b, self.fc = nn.Conv2d(12, 7, 1), nn.Linear(7, 5)
        if norm is not None:
            self.norm.running_mean.copy_(norm)

    def forward(self, x):
        x = torch.relu(self.norm(self.a(x)))
        x = nn.functional.conv2d(x, self.blur, padding=1, groups=x.shape[1])
        if self.positions is not None:
            x = x + self.positions
        return self.fc(torch.relu(self.b(x)).mean((2, 3)))


class Bins(nn.Module):
    """The expectation over eight bins, whose values are a formula in the weight of a convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.bins, self.expect = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 1), nn.Conv2d(8, 1, 1, bias=False)
        self.expect.weight.requires_grad_(False).copy_(torch.arange(8.0).view(1, 8, 1, 1))
        self.fc = nn.Linear(1, 5)

    def forward(self, x):
        return self.fc(self.expect(self.bins(torch.relu(self.a(x))).softmax(1)).mean((2, 3)))


class FrozenStem(nn.Module):
    """Its first norm was trained and stays in evaluation; the other one follows the data."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.b, self.other, self.fc = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.Linear(12, 5)
        self.norm.running_mean.copy_(torch.arange(8.0))
        self.other.running_mean.fill_(3.0)

    def train(self, mode):
        super().train(mode)
        self.norm.eval()
        self.fc.bias.requires_grad_(mode)
        return self

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.fc(torch.relu(self.other(self.b(x))).mean((2, 3)))


def test_statistics_of_a_norm_that_stays_in_evaluation_are_constants():
    model = FrozenStem().train(False)
    resized = copy.deepcopy(model)
    graph = dependency_graph(model, IMAGES)
    assert set(graph.groups) - set(graph.fixed) == {"b"}
    assert "norm.running_mean" in graph.fixed["stem"]
    resize_(resized, graph, {"b": 5})
    reinitialise_(resized, model)
    assert torch.equal(resized.norm.running_mean, model.norm.running_mean)
    assert torch.equal(resized.other.running_mean, torch.zeros(5))
    assert not any(module.training for module in model.modules())
    assert not model.fc.bias.requires_grad


@pytest.mark.parametrize("width", [5, 12, 17])
def test_channels_that_a_group_gains_have_the_constants_of_the_others(width):
    model = Blurred()
    resized = copy.deepcopy(model)
    graph = dependency_graph(model, IMAGES)
    resize_(resized, graph, {"a": width, "b": 9})
    reinitialise_(resized, model)
    assert torch.equal(resized.norm.weight, torch.ones(width))
    assert torch.equal(resized.norm.running_var, torch.ones(width))
    assert torch.equal(resized.blur, model.blur[:1].repeat(width, 1, 1, 1))
    assert resized(torch.randn(2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("make", "fixed", "constant"),
    [
        (lambda: Blurred(norm=torch.arange(12.0)), "a", r"norm\.running_mean, which does not train \(a buffer\)"),
        (lambda: Blurred(positions=torch.arange(12.0).view(12, 1, 1)), "a", r"positions, .* \(requires_grad=False\)"),
        (Bins, "bins", r"expect\.weight, which does not train \(requires_grad=False\)"),
    ],
)
def test_a_group_whose_constants_cannot_be_continued_is_fixed_and_they_keep_their_values(make, fixed, constant):
    model = make()
    graph = dependency_graph(model, IMAGES)
    assert fixed in graph.fixed
    assert fixed not in graph.groups
    with pytest.raises(ModelError, match=constant):
        resize_(copy.deepcopy(model), graph, {fixed: 3})
    resized = copy.deepcopy(model)
    resize_(resized, graph, {name: group.channels - 1 for name, group in graph.groups.items()})
    reinitialise_(resized, model)
    kept = dict(model.named_buffers()) | {n: p for n, p in model.named_parameters() if not p.requires_grad}
    found = dict(resized.named_buffers()) | dict(resized.named_parameters())
    assert all(torch.equal(values, found[name]) for name, values in kept.items())
    assert all(found[name].requires_grad is values.requires_grad for name, values in kept.items())


def test_equal_positions_are_continued():
    model = Blurred(positions=torch.linspace(0, 1, 64).view(1, 8, 8).repeat(12, 1, 1))
    graph = dependency_graph(model, IMAGES)
    resize_(model, graph, {"a": 15})
    assert torch.equal(model.positions, model.positions[:1].repeat(15, 1, 1))
    assert not model.positions.requires_grad


def test_removal_takes_the_constants_of_the_channel():
    model = Blurred()
    model.blur.mul_(torch.arange(1.0, 13).view(12, 1, 1, 1))
    whole, graph = copy.deepcopy(model), dependency_graph(Blurred(), IMAGES)
    remove_channels_(model, graph, {"a": [3, 4]})
    assert torch.equal(model.blur, whole.blur[[0, 1, 2, *range(5, 12)]])
