import copy

import pytest
import torch
from torch import nn

from compressor.dependency import dependency_graph, remove_channels_, resize_
from compressor.errors import ModelError


class Net(nn.Module):
    """Widths are primes, so that a mix-up cannot cancel.

    stem(13) ─ bn ─ relu ─┬─ inner(23) ─ bn ─ relu ─ outer(13) ─ (+) ─ relu ─ cat ─ point(29) ─ flatten ─ fc(10)
                          ├──────────────────────────────────────┘             │
                          └─ depthwise(13) ─ bn ─ side(17) ────────────────────┘
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 13, 3, padding=1)
        self.bn0 = nn.BatchNorm2d(13)
        self.inner = nn.Conv2d(13, 23, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(23)
        self.outer = nn.Conv2d(23, 13, 3, padding=1)
        self.depthwise = nn.Conv2d(13, 13, 3, padding=1, groups=13)
        self.bn2 = nn.BatchNorm2d(13)
        self.side = nn.Conv2d(13, 17, 1)
        self.point = nn.Conv2d(30, 29, 1)
        self.fc = nn.Linear(29 * 4 * 4, 10)

    def forward(self, x):
        x = torch.relu(self.bn0(self.stem(x)))
        y = torch.relu(x + self.outer(torch.relu(self.bn1(self.inner(x)))))
        z = self.side(self.bn2(self.depthwise(x)))
        return self.fc(torch.relu(self.point(torch.cat([y, z], 1))).flatten(1))


WIDTHS = {"stem": 13, "inner": 23, "side": 17, "point": 29}


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net()
    x = torch.randn(8, 3, 4, 4)
    model(x)  # running statistics that are not the initial ones
    return model


@pytest.fixture
def graph(net):
    return dependency_graph(net, torch.zeros(2, 3, 4, 4))


def shapes(model):
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def test_groups_are_named_by_their_first_producer_and_leave_out_the_output(graph):
    assert graph.widths == WIDTHS
    assert set(graph.fixed) == {"fc"}
    assert "output" in graph.fixed["fc"]


def test_a_group_has_a_batch_norm_only_if_one_layer_makes_it_and_nothing_else_reads_that(graph):
    norms = {name: group.norm for name, group in graph.groups.items()}
    assert norms == {"stem": None, "inner": "bn1", "side": None, "point": None}


def test_planning_leaves_the_network_alone(net):
    before = copy.deepcopy(net.state_dict())
    net.train()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    dependency_graph(net, torch.zeros(2, 3, 4, 4))
    assert net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def masked_output(model, graph, removed, x):
    """What the full network computes when the removed channels are multiplied by zero wherever they are produced."""
    model = copy.deepcopy(model).eval()
    handles = []
    for name, channels in removed.items():
        # the depth-wise chain behind a removed channel would still add its biases: close it everywhere
        number = graph.order.index(name)
        makers = [axis for axis, owners in graph.owners.items() if number in owners.group and axis not in graph.reading]
        for path in {tensor.rpartition(".")[0] for tensor, _ in makers}:

            def zero(module, inputs, output, channels=tuple(channels)):
                keep = torch.ones(output.shape[1])
                keep[list(channels)] = 0
                return output * keep[:, None, None]

            handles.append(model.get_submodule(path).register_forward_hook(zero))
    return model(x)


@pytest.mark.parametrize(
    "removed",
    [
        {"inner": [0, 22]},
        {"stem": [1, 5, 12]},
        {"side": [16]},
        {"point": [0, 3, 28]},
        {"stem": [0], "inner": [7], "side": [2, 3], "point": [9]},
    ],
)
def test_removing_channels_computes_what_masking_them_does(net, graph, removed):
    net.double()
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    expected = masked_output(net, graph, removed, x)
    small = copy.deepcopy(net)
    after = remove_channels_(small, graph, removed)
    assert after.widths == {name: width - len(removed.get(name, ())) for name, width in WIDTHS.items()}
    torch.testing.assert_close(small.eval()(x), expected, rtol=1e-12, atol=1e-12)


def test_the_plan_after_removal_is_the_plan_of_the_smaller_network(net, graph):
    after = remove_channels_(net, graph, {"stem": [3], "point": [0, 28], "side": [1]})
    again = dependency_graph(net, torch.zeros(2, 3, 4, 4))
    assert after.widths == again.widths
    assert after.owners == again.owners


def test_the_optimizer_state_follows(net, graph):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    nn.functional.cross_entropy(net(torch.randn(8, 3, 4, 4)), torch.arange(8)).backward()
    optimizer.step()
    before = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in net.named_parameters()}
    remove_channels_(net, graph, {"inner": [0, 5]}, optimizer)
    kept = [channel for channel in range(23) if channel not in (0, 5)]
    names = dict(net.named_parameters())
    assert torch.equal(optimizer.state[names["inner.weight"]]["momentum_buffer"], before["inner.weight"][kept])
    assert torch.equal(optimizer.state[names["outer.weight"]]["momentum_buffer"], before["outer.weight"][:, kept])
    assert torch.equal(optimizer.state[names["stem.weight"]]["momentum_buffer"], before["stem.weight"])
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in names.values()}
    assert set(optimizer.state) == set(names.values())
    values = {name: p.detach().clone() for name, p in names.items()}
    nn.functional.cross_entropy(net(torch.randn(8, 3, 4, 4)), torch.arange(8)).backward()
    optimizer.step()
    assert all(not torch.equal(p, values[name]) for name, p in net.named_parameters() if name.endswith("weight"))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_slices_have_the_strides_of_their_memory_format(net, graph, memory_format):
    """Of a 1×1 kernel too, whose rows are contiguous in both orders: oneDNN crashed on the strides of the other."""
    net = net.to(memory_format=memory_format)
    after = remove_channels_(net, graph, {"stem": [3], "side": [1], "point": [0, 5]})
    resize_(net, after, {"stem": 21, "inner": 9})
    for parameter in net.parameters():
        fresh = torch.empty(parameter.shape)
        fresh = fresh.to(memory_format=memory_format) if parameter.dim() == 4 else fresh
        assert parameter.stride() == fresh.stride()


def test_a_group_never_loses_its_last_channel(net, graph):
    with pytest.raises(ModelError, match="last channel"):
        remove_channels_(net, graph, {"side": range(17)})


@pytest.mark.parametrize("widths", [{"stem": 5, "point": 7}, {"stem": 19, "inner": 31, "point": 37}, {"side": 1}])
def test_resizing_gives_a_network_that_trains(net, graph, widths):
    after = resize_(net, graph, widths)
    assert after.widths == WIDTHS | widths
    assert shapes(net)["fc.weight"] == (10, after.widths["point"] * 16)
    assert shapes(net)["point.weight"][1] == after.widths["stem"] + after.widths["side"]
    assert net.depthwise.groups == after.widths["stem"]
    output = net(torch.randn(4, 3, 4, 4))
    assert output.shape == (4, 10)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_growing_keeps_what_the_network_computes_and_shrinking_back_is_the_identity(net, graph):
    net.eval()
    x = torch.randn(3, 3, 4, 4)
    before, state = net(x), copy.deepcopy(net.state_dict())
    wide = resize_(net, graph, {"inner": 31, "point": 31})
    torch.testing.assert_close(net(x), before)
    resize_(net, wide, {"inner": 23, "point": 29})
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_wrong_names_are_told(net, graph):
    with pytest.raises(ModelError, match=r"'innner' is not one of inner, .*did you mean inner"):
        resize_(net, graph, {"innner": 3})
    with pytest.raises(ModelError, match=r"fc cannot be resized: .*output"):
        resize_(net, graph, {"fc": 3})


def test_a_network_that_insists_on_its_width_is_refused_before_training():
    class Literal(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.fc = nn.Linear(8 * 16, 2)

        def forward(self, x):
            return self.fc(self.conv(x).reshape(-1, 128))

    graph = dependency_graph(Literal(), torch.zeros(2, 3, 4, 4))
    assert "conv" in graph.fixed
    assert not graph.groups


def test_an_untraceable_network_is_told_in_one_sentence():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            raise RuntimeError("no forward today")

    with pytest.raises(ModelError, match=r"Broken does not run on inputs of shape \(3, 4, 4\): no forward today"):
        dependency_graph(Broken(), torch.zeros(2, 3, 4, 4))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 8, 1)
        self.third = nn.Conv2d(8, 8, 1)
        self.third.weight = self.second.weight
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.third(torch.relu(self.second(torch.relu(self.first(x))))).mean((2, 3)))


class Parametrised(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 1))
        self.second = nn.Conv2d(8, 7, 1)
        self.fc = nn.Linear(7, 2)

    def forward(self, x):
        return self.fc(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))


class Insisting(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = self.conv(x)
        assert x.shape[1] == 8, "eight channels or none"
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "free", "fixed"),
    [
        (Parametrised, {"first", "second"}, {"fc"}),
        (Insisting, set(), {"conv", "fc"}),
    ],
)
def test_what_cannot_be_resized_is_fixed_and_the_rest_still_trains(kind, free, fixed):
    torch.manual_seed(0)
    model = kind()
    graph = dependency_graph(model, torch.zeros(2, 3, 4, 4))
    assert set(graph.groups) == free
    assert fixed == set(graph.fixed)
    resize_(model, graph, dict.fromkeys(free, 5))
    output = model(torch.randn(3, 3, 4, 4))
    assert output.shape == (3, 2)
    output.sum().backward()


def test_shared_parameters_are_refused_and_a_module_under_two_names_is_not():
    with pytest.raises(ModelError, match="Tied: second and third share a parameter"):
        dependency_graph(Tied(), torch.zeros(2, 3, 4, 4))
    net = Net()
    net.again = net.inner
    assert dependency_graph(net, torch.zeros(2, 3, 4, 4)).widths == WIDTHS


class Sliced(nn.Module):
    """Part of a layer's channels goes one way, all of them another, as in cross-stage-partial blocks."""

    def __init__(self, part):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.some = nn.Conv2d(len(range(8)[part]), 6, 1)
        self.whole = nn.Conv2d(8, 6, 1)
        self.fc = nn.Linear(6, 2)
        self.part = part

    def forward(self, x):
        x = self.conv(x)
        return self.fc(torch.relu(self.some(x[:, self.part]) + self.whole(x)).mean((2, 3)))


@pytest.mark.parametrize("part", [slice(0, 4), slice(4, None), slice(-4, None)])
def test_a_sliced_layer_is_fixed_or_survives_every_width(part):
    for width in (4, 7, 12):
        model = Sliced(part)
        graph = dependency_graph(model, torch.zeros(2, 3, 4, 4))
        resize_(model, graph, dict.fromkeys(graph.groups, width))
        assert model(torch.randn(3, 3, 4, 4)).shape == (3, 2)
