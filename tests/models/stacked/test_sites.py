"""Pairs that are found can be stacked with any units: the network runs, and gives what it gave."""

import math
from functools import cache

import pytest
import torch

from compressor.dependency import dependency_graph, resize_
from compressor.errors import ModelError
from compressor.models import build_meta, example_input, graph_of, reference_architecture, stackable
from compressor.models.architecture import Architecture
from compressor.models.stacked import Site, find_sites, select, stack_
from compressor.models.stacked.spec import Stack, spread

NETWORKS = [
    ("vgg16_bn", (3, 32, 32)),
    ("preact_resnet18", (3, 32, 32)),
    ("mobilenetv2", (3, 32, 32)),
    ("torchvision:resnet18", (3, 64, 64)),
    ("torchvision:resnet50", (3, 64, 64)),
    ("torchvision:vgg16_bn", (3, 64, 64)),
    ("torchvision:mobilenet_v2", (3, 64, 64)),
    ("torchvision:mnasnet0_5", (3, 64, 64)),
]


@cache
def planned(model, shape):
    reference = reference_architecture(model, {}, 10, shape)
    return reference, graph_of(reference)


def sites_of(model, shape):
    reference, graph = planned(model, shape)
    network = build_meta(reference)
    return reference, graph, network, find_sites(network, graph)


@pytest.mark.parametrize(("model", "shape"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_whatever_is_selected_runs_with_any_units(model, shape):
    reference, graph, network, sites = sites_of(model, shape)
    streams = {name for name in graph.groups if len(graph.producers(name)) > 1}
    chosen = select(sites, "all", streams=streams)
    assert chosen
    used = [path for site in chosen for path in (site.first, site.second)]
    assert len(set(used)) == len(used)
    stacks, hidden = {}, {}
    for number, site in enumerate(chosen):
        count = min(d for d in range(2, site.inputs + 1) if math.gcd(site.inputs, site.outputs) % d == 0)
        stacks[site.first] = Stack(site.second, spread(site.inputs, 7 * count + number % 2, site.outputs, count))
        hidden[site.hidden] = stacks[site.first].hidden
    resize_(network, graph, hidden)
    stack_(network, stacks)
    output = network(example_input(reference).to("meta"))
    assert output.shape == (2, 10)


@pytest.mark.parametrize(("model", "shape"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_normal_layers_lie_between_stacked_ones(model, shape):
    *_, graph, _, sites = sites_of(model, shape)
    streams = {name for name in graph.groups if len(graph.producers(name)) > 1}
    for strategy in ("all", "alternate"):
        chosen = select(sites, strategy, streams=streams)
        direct = {a.reads for a in chosen for b in chosen if a is not b and a.reads == b.makes}
        assert direct <= streams
    inner = select(sites, "r", streams=streams)
    assert {site.first for site in inner} < {site.first for site in select(sites, "all", streams=streams)}


def test_the_basic_blocks_are_the_pairs_of_a_resnet_those_with_a_stride_too():
    *_, sites = sites_of("torchvision:resnet18", (3, 64, 64))
    pairs = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [(site.first, site.second) for site in sites] == [(f"{path}.conv1", f"{path}.conv2") for path in pairs]


@pytest.mark.parametrize(
    ("model", "firsts"),
    [
        ("resnet20", [f"layer{stage}.conv1" for stage in ("1.0", "1.2", "2.1", "3.0", "3.2")]),
        ("mobilenetv2", [f"blocks.{number}.expand" for number in range(0, 17, 2)]),
    ],
)
def test_alternate_takes_every_second_pair_of_a_residual_stream(model, firsts):
    _, graph, _, sites = sites_of(model, (3, 32, 32))
    streams = {name for name in graph.groups if len(graph.producers(name)) > 1}
    assert [site.first for site in select(sites, "alternate", streams=streams)] == firsts


def test_of_pairs_that_share_a_layer_the_one_of_more_weights_is_taken():
    wide = Site("a", "b", "a", None, "b", 16, 16, 16, taps=(25, 9))
    narrow = Site("b", "c", "b", "a", "c", 16, 16, 16, taps=(9, 1))
    assert select([wide, narrow], "all", streams=()) == [wide]


@pytest.mark.parametrize(("model", "taps"), [("vgg16_bn", (9, 9)), ("mobilenetv2", (1, 1))])
def test_pairs_know_the_taps_of_their_kernels(model, taps):
    *_, sites = sites_of(model, (3, 32, 32))
    assert {site.taps for site in sites} == {taps}


def test_depthwise_convolutions_lie_within_a_pair():
    *_, sites = sites_of("mobilenetv2", (3, 32, 32))
    assert ("blocks.2.expand", "blocks.2.project") in [(site.first, site.second) for site in sites]


class Odd(torch.nn.Module):
    """Pairs that must not be found: read twice, pooled between, a bottleneck, and the logits."""

    def __init__(self, num_classes):
        super().__init__()
        conv = torch.nn.Conv2d
        self.enter, self.strided, self.after = conv(3, 8, 3, padding=1), conv(8, 8, 3, 2, 1), conv(8, 8, 3, padding=1)
        self.shared, self.one, self.two = conv(8, 8, 1), conv(8, 8, 1), conv(8, 8, 1)
        self.pooled, self.thin, self.wide = conv(8, 8, 1), conv(8, 2, 1), conv(2, 8, 1)
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.after(torch.relu(self.strided(torch.relu(self.enter(x)))))
        x = torch.relu(self.shared(torch.relu(x)))
        x = torch.cat([self.one(x), self.two(x)], 1).unflatten(1, (2, 8)).sum(1)
        x = self.pooled(torch.nn.functional.max_pool2d(torch.relu(x), 2))
        x = self.wide(torch.relu(self.thin(torch.relu(x))))
        return self.second(torch.relu(self.first(torch.relu(x).mean((2, 3)))))


def test_layers_that_do_more_than_meet_are_no_pair():
    network = Odd(10)
    graph = dependency_graph(network, torch.zeros(2, 3, 16, 16))
    firsts = {site.first for site in find_sites(network, graph)}
    assert "strided" in firsts
    assert firsts & {"enter", "shared", "one", "two", "thin", "first"} == set()


class Twofold(torch.nn.Module):
    """A pair whose first layer, or one around it, has a second name that the forward pass uses."""

    def __init__(self, whole_block):
        super().__init__()
        self.enter, self.head = torch.nn.Conv2d(3, 13, 3, padding=1), torch.nn.Linear(8, 10)
        self.block = torch.nn.Sequential(torch.nn.Conv2d(13, 24, 1), torch.nn.Conv2d(24, 26, 1))
        self.leave = torch.nn.Conv2d(26, 8, 3, padding=1)
        self.again = self.block if whole_block else torch.nn.Sequential(*self.block)

    def forward(self, x):
        return self.head(self.leave(self.again(self.enter(x))).mean((2, 3)))


@pytest.mark.parametrize(("whole_block", "found"), [(True, True), (False, False)])
def test_a_layer_that_has_two_places_is_in_no_pair(whole_block, found):
    network, images = Twofold(whole_block), torch.zeros(2, 3, 16, 16)
    sites = find_sites(network, dependency_graph(network, images))
    assert ("block.0" in {site.first for site in sites}) == found


def test_pairs_can_be_named_and_unknown_ones_are_refused():
    *_, sites = sites_of("preact_resnet18", (3, 32, 32))
    assert [site.first for site in select(sites, ["layer3.1.conv1"], streams=())] == ["layer3.1.conv1"]
    with pytest.raises(ModelError, match=r"layer9\.conv1.*layer1\.0\.conv1"):
        select(sites, ["layer9.conv1"], streams=())
    with pytest.raises(ModelError, match=r"search\.strategy: .*every.*alternate"):
        select(sites, "every", streams=())
    *_, overlapping = sites_of("vgg16_bn", (3, 32, 32))
    with pytest.raises(ModelError, match="share"):
        select(overlapping, ["conv8", "conv9"], streams=())


@pytest.mark.parametrize(("classes", "k", "printed"), [(100, 4, "4.08"), (100, 6, "4.14"), (10, 4, "4.04")])
def test_vgg16_has_the_papers_counts(classes, k, printed):
    from compressor.costs.params_macs import count_params

    skeleton, firsts = stackable(reference_architecture("vgg16_bn", {}, classes, (3, 32, 32)), "all")
    sites = {site.first: site for site in find_sites(build_meta(skeleton), graph_of(skeleton))}
    widths, stacks = dict(skeleton.widths), {}
    for first in firsts:
        site = sites[first]
        units = site.inputs // 2
        stacks[first] = Stack(site.second, spread(site.inputs, k * units, site.outputs, units))
        widths[site.hidden] = k * units
    tissue = Architecture(skeleton.model, classes, (3, 32, 32), widths, skeleton.options, stacks)
    assert f"{count_params(build_meta(tissue)) / 1e6:.2f}" == printed
