import copy

import pytest
import torch
from torch import nn

from compressor.dependency import dependency_graph, resize_
from compressor.models import build, example_input
from compressor.search.channel_scale import ChannelScales
from compressor.search.taylor_pruner import PruneSettings, TaylorPruner


class Scaled(nn.Module):
    """`Tiny` with the scales z written out, each a parameter of ones: where removal takes a channel away."""

    def __init__(self, tiny):
        super().__init__()
        self.net = tiny
        self.z_stem = nn.Parameter(torch.ones(tiny.stem.out_channels, 1, 1, dtype=torch.float64))
        self.z_inner = nn.Parameter(torch.ones(tiny.inner.out_channels, 1, 1, dtype=torch.float64))

    def forward(self, x):
        net = self.net
        x = torch.relu(net.bn1(net.stem(x)))
        x = x + net.outer(torch.relu(self.z_inner * net.bn2(net.inner(self.z_stem * x))))
        x = self.z_stem * torch.relu(net.bn3(x))
        return net.fc(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(16, 1, 8, 8, dtype=torch.float64), torch.arange(16) % 10


def shaken(architecture):
    """A network whose batch-norms are not at their initial values."""
    model = build(architecture, 1).double()
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return model


def test_the_derivatives_are_those_of_scales_written_out(tiny, batch):
    model = shaken(tiny)
    scaled = Scaled(copy.deepcopy(model))
    nn.functional.cross_entropy(scaled(batch[0]), batch[1]).backward()
    graph = dependency_graph(model, example_input(tiny))
    scales = ChannelScales(model, graph, ["stem", "inner"])
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    expected = torch.cat([scaled.z_stem.grad.flatten(), scaled.z_inner.grad.flatten()])
    torch.testing.assert_close(scales.derivatives(), expected)


def pruner_for(architecture, model, **changes):
    graph = dependency_graph(model, example_input(architecture))
    settings = PruneSettings(**{"every": 2, "channels": 3, "floor": 0.2} | changes)
    return TaylorPruner(graph, list(architecture.widths), {}, settings)


def steps(model, pruner, optimizer, count):
    torch.manual_seed(4)
    for _ in range(count):
        x, y = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.randint(10, (8,))
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        pruner.after_backward()
        optimizer.step()
        if pruner.after_step():
            return loss
    return loss


def test_squares_of_single_batches_are_summed(tiny, batch):
    model = shaken(tiny)
    pruner = pruner_for(tiny, model, every=100)
    pruner.start(model, torch.optim.SGD(model.parameters(), lr=0.0), 3)
    scales = ChannelScales(model, pruner.graph, list(tiny.widths))
    total = torch.zeros(36, dtype=torch.float64)
    for part in (slice(0, 8), slice(8, 16)):
        model.zero_grad()
        nn.functional.cross_entropy(model(batch[0][part]), batch[1][part]).backward()
        total += scales.derivatives() ** 2
        pruner.after_backward()
    torch.testing.assert_close(pruner.criteria, total)


def test_an_event_removes_the_lowest_channels_of_the_whole_network(tiny):
    model = shaken(tiny)
    pruner = pruner_for(tiny, model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    pruner.start(model, optimizer, 3)
    steps(model, pruner, optimizer, 1)
    weights = {"stem": model.stem.weight.detach().clone(), "inner": model.inner.weight.detach().clone()}
    torch.manual_seed(5)
    x, y = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.randint(10, (8,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    pruner.after_backward()
    lowest = set(pruner.criteria.argsort()[:3].tolist())
    assert not pruner.after_step()
    kept = [channel for channel in range(13) if channel not in lowest]
    kept_inner = [channel for channel in range(23) if channel + 13 not in lowest]
    assert torch.equal(model.stem.weight, weights["stem"][kept])
    assert torch.equal(model.inner.weight, weights["inner"][kept_inner][:, kept])
    assert pruner.events == 1


def test_every_event_is_recorded_and_pruning_ends_at_the_floor(tiny):
    model = shaken(tiny)
    pruner = pruner_for(tiny, model, channels=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner.start(model, optimizer, 3)
    steps(model, pruner, optimizer, 1000)
    assert pruner.reason == "fewer than 20% of the channels remain"
    assert len(pruner.records) == pruner.events == 15  # 36 - 2 * 15 = 6, the first below 0.2 * 36
    counts = [params for params, _ in pruner.records]
    assert counts == sorted(counts, reverse=True)
    for index, (_, widths) in enumerate(pruner.records):
        everywhere = all(widths[name] < tiny.widths[name] for name in widths)
        assert everywhere == (index >= pruner.early)
        assert all(width >= 1 for width in widths.values())
        assert sum(widths.values()) == 36 - 2 * (index + 1)
    assert pruner.records[-1][0] == sum(p.numel() for p in model.parameters())
    assert pruner.graph.widths == pruner.records[-1][1]


def rank_last(pruner, name):
    """Make every channel of one group less important than all others, whatever the gradients of this machine."""
    derivatives = pruner.scales.derivatives

    def ranked():
        values = derivatives().abs() + 1
        start = pruner.scales.starts[name]
        values[start : start + pruner.graph.groups[name].slices] = 0
        return values

    pruner.scales.derivatives = ranked


class Ranked(TaylorPruner):
    """The stem's channels are always the least important ones."""

    def _attach(self):
        super()._attach()
        rank_last(self, "stem")


@pytest.mark.parametrize(("minimum", "least"), [({}, 1), ({"stem": 4}, 4), ({"stem": 4, "inner": 9}, 4)])
def test_a_group_at_its_minimum_leaves_the_ranking_and_the_others_go_on(tiny, minimum, least):
    model = shaken(tiny)
    graph = dependency_graph(model, example_input(tiny))
    pruner = Ranked(graph, list(tiny.widths), {}, PruneSettings(1, 5, 0.2, minimum))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner.start(model, optimizer, 3)
    steps(model, pruner, optimizer, 1000)
    lost = 13 - least
    stems = [widths["stem"] for _, widths in pruner.records]
    assert stems[: lost // 5 + 1] == [13 - 5 * n for n in range(1, lost // 5 + 1)] + [least]
    assert set(stems[lost // 5 :]) == {least}
    totals = [sum(widths.values()) for _, widths in pruner.records]
    if "inner" in minimum:
        assert pruner.reason == "every group is at its minimum"
        assert pruner.records[-1][1] == minimum
        assert totals[:-1] == [36 - 5 * n for n in range(1, len(totals))]
    else:
        assert pruner.reason == "fewer than 20% of the channels remain"
        assert totals == [36 - 5 * n for n in range(1, len(totals) + 1)]
        assert totals[-1] < 0.2 * 36 <= totals[-2]


def test_a_group_that_starts_at_its_minimum_does_not_hold_up_the_records(tiny):
    model = shaken(tiny)
    pruner = pruner_for(tiny, model, minimum={"stem": 13}, channels=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner.start(model, optimizer, 3)
    steps(model, pruner, optimizer, 12)
    assert pruner.early == 0
    assert [widths for _, widths in pruner.records] == [{"stem": 13, "inner": 22 - n} for n in range(6)]


def test_stopping_at_the_minimum_changes_nothing_in_the_event_that_would_go_below_it(tiny):
    model = shaken(tiny)
    pruner = pruner_for(tiny, model, every=1, channels=36, stop_at_minimum=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner.start(model, optimizer, 3)
    steps(model, pruner, optimizer, 5)
    assert pruner.reason.endswith("would have fallen below its minimum of 1 channel")
    assert (model.stem.out_channels, model.inner.out_channels) == (13, 23)


def test_a_following_group_keeps_its_factor_and_loses_its_least_important_channels():
    from compressor.models import follows, reference_architecture

    architecture = reference_architecture("mobilenetv2", {}, 10, (1, 8, 8), 0.2)
    model = build(architecture, 0).double()
    graph = dependency_graph(model, example_input(architecture))
    following = follows(architecture)
    pruner = TaylorPruner(graph, list(architecture.widths), following, PruneSettings(1, 60, 0.05))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner.start(model, optimizer, 3)
    steps(model, pruner, optimizer, 1)
    assert pruner.events == 1
    widths = pruner.graph.widths
    assert sum(widths[name] for name in architecture.widths) == sum(architecture.widths.values()) - 60
    for name, (source, factor) in following.items():
        assert widths[name] == factor * widths[source]
    assert model(torch.zeros(2, 1, 8, 8, dtype=torch.float64)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in build(architecture.with_widths({n: widths[n] for n in architecture.widths})).parameters()
    )


def test_a_restored_pruner_goes_on_as_if_never_stopped(tiny):
    def start():
        model = shaken(tiny)
        pruner = pruner_for(tiny, model, every=3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        pruner.start(model, optimizer, 3)
        return model, pruner, optimizer

    model, pruner, optimizer = start()
    steps(model, pruner, optimizer, 10)
    snapshot, weights = pruner.state(), copy.deepcopy(model.state_dict())
    other, again, other_optimizer = start()
    again.restore(snapshot)
    other.load_state_dict(weights)
    assert again.graph.owners == pruner.graph.owners
    steps(model, pruner, optimizer, 20)
    steps(other, again, other_optimizer, 20)
    assert again.records == pruner.records
    assert again.graph.widths == pruner.graph.widths
    torch.testing.assert_close(again.criteria, pruner.criteria)


def test_physical_removal_is_masking_with_scales_to_the_last_digit(tiny):
    """Same channels removed, same losses, as with the paper's scales that are only set to zero."""
    model = shaken(tiny)
    scaled = Scaled(copy.deepcopy(model))
    scales = {"stem": scaled.z_stem, "inner": scaled.z_inner}
    alive = {name: list(range(scale.numel())) for name, scale in scales.items()}
    criteria = {name: torch.zeros(scale.numel(), dtype=torch.float64) for name, scale in scales.items()}
    pruner = pruner_for(tiny, model, every=3, channels=2)
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, 0.5, weight_decay=5e-4) for m in (model, scaled.net)]
    pruner.start(model, optimizers[0], 3)
    torch.manual_seed(6)
    for step in range(1, 31):
        x, y = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.randint(10, (8,))
        losses = [nn.functional.cross_entropy(network(x), y) for network in (model, scaled)]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=1e-12)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
        pruner.after_backward()
        for name, scale in scales.items():
            criteria[name] += scale.grad.flatten() ** 2
        for optimizer in optimizers:
            optimizer.step()
        pruner.after_step()
        for scale in scales.values():
            scale.grad = None
        if step % 3 == 0:
            ranked = sorted((float(criteria[name][c]), name, c) for name in scales for c in alive[name])
            for _, name, channel in ranked[:2]:
                alive[name].remove(channel)
                scales[name].data[channel] = 0
            for total in criteria.values():
                total.zero_()
            assert pruner.graph.widths == {name: len(channels) for name, channels in alive.items()}
    assert pruner.events == 10
    assert torch.allclose(model.inner.weight, scaled.net.inner.weight[alive["inner"]][:, alive["stem"]], rtol=1e-10)


def test_a_stream_that_only_batch_norms_read_has_derivatives_that_are_not_zero():
    """Scaling what makes a pre-activation stream changes nothing; taking it away does."""
    from compressor.models import reference_architecture

    architecture = reference_architecture("preact_resnet18", {}, 10, (1, 8, 8), 0.2)
    model = build(architecture, 0).double()
    graph = dependency_graph(model, example_input(architecture))
    scales = ChannelScales(model, graph, list(architecture.widths))
    torch.manual_seed(0)
    x, y = torch.randn(32, 1, 8, 8, dtype=torch.float64), torch.arange(32) % 10
    nn.functional.cross_entropy(model(x), y).backward()
    slopes = scales.derivatives().abs()
    typical = slopes.median()
    for name in ("conv1", "layer2.0.conv2", "layer3.0.conv2"):
        start = scales.starts[name]
        assert slopes[start : start + architecture.widths[name]].median() > 0.1 * typical


@pytest.mark.parametrize("name", ["mobilenetv2", "torchvision:mobilenet_v2", "torchvision:densenet121"])
def test_no_group_looks_worthless_only_because_a_batch_norm_rescales_it(name):
    from compressor.models import reference_architecture, source_of

    side = 8 if name == "mobilenetv2" else 32
    architecture = reference_architecture(name, {}, 10, (3, side, side), 0.1 if side == 8 else 1.0)
    model = build(architecture, 0).double()
    graph = (
        source_of(name).referenced(architecture)[1]
        if ":" in name
        else dependency_graph(model, example_input(architecture))
    )
    scales = ChannelScales(model, graph, list(graph.groups))
    torch.manual_seed(0)
    x, y = torch.randn(8, 3, side, side, dtype=torch.float64), torch.arange(8) % 10
    nn.functional.cross_entropy(model(x), y).backward()
    slopes = scales.derivatives().abs()
    for group, start in scales.starts.items():
        largest = slopes[start : start + graph.groups[group].channels].max()
        assert largest > 1e-6 * slopes.max(), group


class Shuffling(nn.Module):
    """Two branches, shuffled, of which one half passes the next block by: no channel can be cut out everywhere."""

    def __init__(self):
        super().__init__()
        self.left, self.bn1 = nn.Conv2d(1, 11, 1), nn.BatchNorm2d(11)
        self.right, self.bn2 = nn.Conv2d(1, 11, 1), nn.BatchNorm2d(11)
        self.block, self.bn3 = nn.Conv2d(11, 11, 3, padding=1), nn.BatchNorm2d(11)
        self.last, self.fc = nn.Conv2d(22, 7, 1), nn.Linear(7, 10)

    def forward(self, x):
        x = torch.cat([torch.relu(self.bn1(self.left(x))), torch.relu(self.bn2(self.right(x)))], 1)
        passed, x = shuffled(x).chunk(2, 1)
        x = shuffled(torch.cat([passed, torch.relu(self.bn3(self.block(x)))], 1))
        return self.fc(torch.relu(self.last(x)).mean((2, 3)))


def shuffled(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def test_shuffled_channels_are_zeroed_where_they_are_made_and_counted_as_removed():
    def start():
        torch.manual_seed(0)
        model = Shuffling().double()
        graph = dependency_graph(model, torch.zeros(2, 1, 8, 8))
        assert {name: group.exact for name, group in graph.groups.items()} == {"left": False, "last": True}
        pruner = TaylorPruner(graph, ["left", "last"], {}, PruneSettings(1, 2, 0.3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
        pruner.start(model, optimizer, 3)
        return model, pruner, optimizer

    model, pruner, optimizer = start()
    steps(model, pruner, optimizer, 3)
    snapshot, weights = pruner.state(), copy.deepcopy(model.state_dict())
    other, again, other_optimizer = start()
    again.restore(snapshot)
    other.load_state_dict(weights)
    for name, buffer in ((n, optimizer.state[p]["momentum_buffer"]) for n, p in model.named_parameters()):
        other_optimizer.state[other.get_parameter(name)]["momentum_buffer"] = buffer.clone()
    steps(model, pruner, optimizer, 40)
    steps(other, again, other_optimizer, 40)
    assert again.records == pruner.records
    gone = pruner.zeroed.slices["left"]
    assert len(set(gone)) == len(gone) == 11 - pruner.widths["left"] > 0
    for layer, norm in (("left", "bn1"), ("right", "bn2"), ("block", "bn3")):
        assert not model.get_submodule(layer).weight[gone].any()
        assert not model.get_submodule(norm).weight[gone].any()
        assert not model.get_submodule(norm).bias[gone].any()
    assert model.last.out_channels == pruner.widths["last"]
    params, widths = pruner.records[-1]
    small = copy.deepcopy(model)
    resize_(small, pruner.graph, widths)
    assert params == sum(parameter.numel() for parameter in small.parameters())
