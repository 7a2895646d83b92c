import copy
import random

import numpy as np
import pytest
import torch
import torch_pruning
from torch import nn

from compressor.dependency import ChannelRemover, dependency_graph, remove_channels_, resize_
from compressor.dependency.surgery import Slicer
from compressor.dependency.torch_pruning_engine import TorchPruningGraph
from compressor.errors import ModelError
from compressor.models import build, example_input, graph_of, reference_architecture

# Network, side of its images, width, groups that may lose channels, how many of them torch-pruning removes.
NETWORKS = [
    ("vgg11_bn", {}, 32, 0.25, 8, 8),
    ("preact_resnet18", {}, 32, 0.125, 12, 12),
    ("preact_resnet18", {"shortcut": "convcut"}, 32, 0.125, 17, 17),
    ("resnet20", {}, 32, 1.0, 12, 12),
    ("mobilenetv1", {}, 32, 0.25, 14, 14),
    ("mobilenetv2", {}, 8, 0.2, 26, 26),
    ("mlp", {}, 8, 0.5, 2, 2),
    ("lstm", {}, 7, 0.02, 2, 2),
    ("torchvision:resnet18", {}, 64, 1.0, 12, 12),
    ("torchvision:mobilenet_v2", {}, 64, 1.0, 25, 25),
    ("torchvision:squeezenet1_1", {}, 64, 1.0, 25, 25),
    ("torchvision:regnet_y_400mf", {}, 64, 1.0, 53, 53),
    ("torchvision:shufflenet_v2_x0_5", {}, 64, 1.0, 20, 18),
    ("torchvision:googlenet", {"init_weights": False}, 96, 1.0, 61, 61),
]


def network(name, options, side, width):
    shape = (side,) if name == "lstm" else (1 if ":" not in name else 3, side, side)
    architecture = reference_architecture(name, options, 50 if name == "lstm" else 10, shape, width)
    model, graph = build(architecture, 0), graph_of(architecture)
    return model, graph, example_input(architecture), [group.name for group in graph.groups.values() if group.exact]


def state_of(model, optimizer):
    """All that a removal may change, by name."""
    found = dict(model.state_dict())
    found |= {f"{name}: strides": tensor.stride() for name, tensor in model.named_parameters()}
    found |= {f"{name}: trains": tensor.requires_grad for name, tensor in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}: {key}"] = value
    for path, module in model.named_modules():
        found[f"{path}: mode"] = module.training
        for key in ("in_channels", "out_channels", "groups", "num_features", "in_features", "hidden_size"):
            found[f"{path}: {key}"] = getattr(module, key, None)
    listed = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert listed == {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in optimizer.state} <= listed
    return found


def assert_equal_states(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]) if isinstance(value, torch.Tensor) else value == right[key], key


def optimizer_of(model, kind="sgd"):
    """An optimizer with state for every parameter."""
    optimizer = (
        torch.optim.Adam(model.parameters())
        if kind == "adam"
        else torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    )
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return optimizer


def drawn(graph, groups, draw, most=3):
    """Units of a few groups to remove, at random; nothing if every group is down to one."""
    free = [name for name in groups if graph.groups[name].slices > 1]
    removed = {}
    for name in draw.sample(free, min(len(free), most)):
        slices = graph.groups[name].slices
        removed[name] = draw.sample(range(slices), draw.randint(1, min(3, slices - 1)))
    return removed


@pytest.mark.parametrize(("name", "options", "side", "width", "groups", "theirs"), NETWORKS)
def test_either_engine_leaves_the_same_network(name, options, side, width, groups, theirs):
    model, graph, example, names = network(name, options, side, width)
    remover = ChannelRemover(model, graph, example, names)
    record = remover.record()
    assert (record["groups"], len(record["torch_pruning"])) == (groups, theirs), record["tracer"]
    model = model.to(memory_format=torch.channels_last) if len(example.shape) == 4 else model
    model.train()
    other = copy.deepcopy(model)
    optimizers = optimizer_of(model), optimizer_of(other)
    draw, ours = random.Random(0), graph
    for _ in range(12):
        removed = drawn(graph, names, draw)
        graph = remover(model, graph, removed, optimizers[0])
        ours = remove_channels_(other, ours, removed, optimizers[1])
        assert graph.widths == ours.widths
        assert graph.owners == ours.owners
    assert_equal_states(state_of(model, optimizers[0]), state_of(other, optimizers[1]))
    if theirs == groups:
        assert remover.events == {"torch_pruning": 12, "tracer": 0}
    else:
        assert remover.events["torch_pruning"] >= 12 - remover.events["tracer"] > 0


@pytest.fixture
def vgg():
    return network("vgg11_bn", {}, 32, 0.125)


def test_a_hundred_events_down_to_one_channel_a_layer(vgg):
    model, graph, example, names = vgg
    remover, other, ours = ChannelRemover(model, graph, example, names), copy.deepcopy(model), graph
    optimizers = optimizer_of(model, "adam"), optimizer_of(other, "adam")
    draw, count = random.Random(1), 0
    while removed := drawn(graph, names, draw, most=4):
        graph = remover(model, graph, removed, optimizers[0])
        ours = remove_channels_(other, ours, removed, optimizers[1])
        count += 1
    assert set(graph.widths.values()) == {1}
    assert remover.events == {"torch_pruning": count, "tracer": 0}
    assert_equal_states(state_of(model, optimizers[0]), state_of(other, optimizers[1]))


def test_frozen_parameters_stay_frozen_and_the_network_keeps_its_mode(vgg):
    model, graph, example, names = vgg
    first = names[0]
    model.get_submodule(first).weight.requires_grad_(False)
    model.eval()
    remover = ChannelRemover(model, graph, example, names, "torch_pruning")
    remover(model, graph, {first: [0, 3]})
    assert not model.get_submodule(first).weight.requires_grad
    assert sum(not parameter.requires_grad for parameter in model.parameters()) == 1
    assert not any(module.training for module in model.modules())


def test_only_what_the_recipe_asks_for_is_used(vgg):
    model, graph, example, names = vgg
    remover = ChannelRemover(model, graph, example, names, "tracer")
    remover(model, graph, {names[0]: [0]})
    assert remover.events == {"torch_pruning": 0, "tracer": 1}
    assert set(remover.record()["tracer"]) == set(names)


def test_a_network_that_torch_pruning_cannot_do_is_an_error_where_it_must():
    model, graph, example, names = network("torchvision:shufflenet_v2_x0_5", {}, 64, 1.0)
    with pytest.raises(ModelError, match=r"^widths.engine: torch_pruning cannot remove the channels of stage\d\.0"):
        ChannelRemover(model, graph, example, names, "torch_pruning")


class Folded(nn.Module):
    """Its output is looked at before it is made: nothing that can be traced by autograd alone."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 13, 3), nn.Conv2d(13, 5, 1)

    def forward(self, x):
        with torch.no_grad():
            return self.last(self.stem(x))


def test_a_network_whose_layers_torch_pruning_does_not_see_goes_to_the_tracer():
    model, example = Folded(), torch.zeros(2, 3, 8, 8)
    graph = dependency_graph(model, example)
    remover = ChannelRemover(model, graph, example, list(graph.groups))
    assert remover(model, graph, {"stem": [0, 12]}).widths == {"stem": 11}
    assert model(example).shape == (2, 5, 6, 6)
    assert remover.record()["torch_pruning"] == []
    assert remover.refused["stem"] == "stem.weight is not in torch-pruning's graph"


def test_an_event_in_which_the_graph_would_cut_something_else_goes_to_the_tracer(vgg, monkeypatch):
    model, graph, example, names = vgg
    remover, before = ChannelRemover(model, graph, example, names), copy.deepcopy(model)
    real = TorchPruningGraph.cuts

    def wrong(self, group):
        found = real(self, group)
        axis = next(iter(found))
        return {**found, axis: np.append(found[axis], found[axis].max() + 1)}

    monkeypatch.setattr(TorchPruningGraph, "cuts", wrong)
    after = remover(model, graph, {names[0]: [1]})
    assert remover.events == {"torch_pruning": 0, "tracer": 1}
    assert remove_channels_(before, graph, {names[0]: [1]}) == after
    strict = ChannelRemover(before, after, example, names, "tracer")
    strict.engine, strict.refused = "torch_pruning", {}
    with pytest.raises(ModelError, match=r"torch-pruning would cut other channels of"):
        strict(before, after, {names[0]: [0]})


class Head(nn.Sequential):
    def __init__(self, channels):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))


def in_the_middle(layer):
    return lambda: nn.Sequential(nn.Conv2d(3, 8, 3), layer(), nn.ReLU(), nn.Conv2d(8, 8, 3), Head(8))


class Blurred(nn.Module):
    """A depth-wise filter that is fixed."""

    def __init__(self):
        super().__init__()
        self.stem, self.blur, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8, bias=False), Head(8)
        del self.blur.weight
        self.blur.register_buffer("weight", torch.full((8, 1, 3, 3), 1 / 9))

    def forward(self, x):
        return self.head(self.blur(self.stem(x)).relu())


class TwoOutputs(nn.Module):
    """torch-pruning cannot count the channels of the second."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu().mean((2, 3))
        return self.fc(x), x.square().mean()


class Halved(nn.Module):
    """torch-pruning's notes of where its halves begin go stale."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        left, right = self.stem(x).chunk(2, 1)
        return self.fc((self.left(left.relu()) * self.right(right)).mean((2, 3)))


def without_statistics():
    norm = nn.BatchNorm2d(8)
    norm.track_running_stats = False
    return norm


@pytest.mark.parametrize(
    ("make", "strict"),
    [
        (in_the_middle(lambda: nn.PReLU(8)), True),
        (in_the_middle(lambda: nn.BatchNorm2d(8, bias=False)), True),
        (in_the_middle(lambda: nn.GroupNorm(1, 8, bias=False)), True),
        (in_the_middle(without_statistics), False),
        (Blurred, False),
        (TwoOutputs, False),
        (Halved, True),
    ],
    ids=["PReLU", "norm-without-bias", "groups-without-bias", "unused-statistics", "fixed", "two-outputs", "halved"],
)
def test_layers_that_torch_pruning_gets_wrong_end_as_ours_do(make, strict):
    torch.manual_seed(0)
    model, example = make().train(), torch.randn(4, 3, 8, 8)
    graph = dependency_graph(model, example)
    first = next(iter(graph.groups))
    graph = resize_(model, graph, {first: graph.groups[first].channels + 4})
    other, ours = copy.deepcopy(model), graph
    remover = ChannelRemover(model, graph, example, list(graph.groups))
    optimizers = optimizer_of(model), optimizer_of(other)
    draw = random.Random(0)
    for _ in range(3):
        removed = drawn(graph, list(graph.groups), draw)
        graph = remover(model, graph, removed, optimizers[0])
        ours = remove_channels_(other, ours, removed, optimizers[1])
    assert graph.owners == ours.owners
    assert_equal_states(state_of(model, optimizers[0]), state_of(other, optimizers[1]))
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in other.named_parameters()]
    model.eval()(example)
    if strict:
        assert remover.events == {"torch_pruning": 3, "tracer": 0}


def test_what_fails_half_way_is_put_back(vgg, monkeypatch):
    model, graph, example, names = vgg
    remover, optimizer = ChannelRemover(model, graph, example, names, "torch_pruning"), optimizer_of(model)
    before, real, calls = state_of(model, optimizer), Slicer.sliced, []

    def fails(self, old, positions):
        calls.append(old)
        if len(calls) % 4 == 0:
            raise IndexError("in the middle")
        return real(self, old, positions)

    monkeypatch.setattr(Slicer, "sliced", fails)
    with pytest.raises(ModelError, match="IndexError: in the middle"):
        remover(model, graph, {names[0]: [0]}, optimizer)
    assert len(calls) == 8  # with the graph that was there, and with a new one
    assert_equal_states(state_of(model, optimizer), before)


def test_building_the_graph_draws_nothing_and_leaves_the_network_alone(vgg):
    model, graph, example, names = vgg
    model.train()
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ChannelRemover(model, graph, example, names)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert np.array_equal(np.random.get_state()[1], state[2])
    assert_equal_states(dict(model.state_dict()), before)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("removed", "message"), [({"nothing": [0]}, "nothing"), (None, "cannot lose its last channel")]
)
def test_what_cannot_be_removed_is_refused_before_anything_is_touched(vgg, removed, message):
    model, graph, example, names = vgg
    remover = ChannelRemover(model, graph, example, names)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = removed or {names[0]: [0], names[1]: range(graph.groups[names[1]].slices)}
    with pytest.raises(ModelError, match=message):
        remover(model, graph, given)
    assert_equal_states(dict(model.state_dict()), before)


def test_torch_pruning_still_slices_with_the_function_that_is_replaced():
    """The contract with torch-pruning < 1.7: every pruner of parameters slices through this private method."""
    seen = []
    for kind, stock in torch_pruning.function.PrunerBox.items():
        pruner = copy.copy(stock)
        pruner._prune_parameter_and_grad = lambda weight, kept, dim: seen.append(dim) or nn.Parameter(weight.detach())
        layer = {
            "CONV": lambda: nn.Conv2d(3, 4, 1),
            "LINEAR": lambda: nn.Linear(3, 4),
            "BN": lambda: nn.BatchNorm2d(4),
            "DEPTHWISE_CONV": lambda: nn.Conv2d(4, 4, 1, groups=4),
            "PRELU": lambda: nn.PReLU(4),
            "LN": lambda: nn.LayerNorm(4),
            "EMBED": lambda: nn.Embedding(7, 4),
            "GN": lambda: nn.GroupNorm(2, 4),
            "IN": lambda: nn.InstanceNorm2d(4, affine=True),
        }.get(kind.name)
        if layer is not None:
            seen.clear()
            pruner.prune_out_channels(layer(), [1])
            assert seen, kind.name
    graph = torch_pruning.DependencyGraph()
    assert {"REGISTERED_PRUNERS", "_in_channel_pruning_fn", "_out_channel_pruning_fn"} <= set(vars(graph))
    for method in ("_build_dependency", "get_out_channels", "get_pruning_group", "get_pruner_of_module"):
        assert callable(getattr(graph, method))
