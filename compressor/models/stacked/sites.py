"""Where a stacked layer can take the place of a pair of weight layers, in any network.

A pair is eligible if only its second layer reads what its first one makes, channel by channel (batch-norm, activation
and depth-wise convolutions may lie between), if there can be two units or more, and if they do not meet in a
bottleneck. The resolution may change within it by a stride (section 3.3), but not by pooling that halves it. The layer
that makes the logits stays a normal one: each class is to see everything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from compressor.dependency import DependencyGraph
from compressor.errors import ModelError, not_one_of
from compressor.models.stacked.layers import CONVOLUTIONS, channels_of

_STRATEGIES = ("all", "r", "alternate")


@dataclass(frozen=True)
class Site:
    """A pair of weight layers that a stacked layer can replace.

    Attributes:
        first: module path of the layer that reads
        second: … of the layer that makes
        hidden: width group between them
        reads: width group that the first reads; None if that width is fixed
        makes: width group that the second makes
        inputs: channels now
        nodes: … of the hidden group
        outputs: … that the second makes
        shared: whether other layers make the same width group, as on a residual stream
        taps: of the first layer's kernel and of the second's; 1 for Linear
    """

    first: str
    second: str
    hidden: str
    reads: str | None
    makes: str
    inputs: int
    nodes: int
    outputs: int
    shared: bool = False
    taps: tuple[int, int] = (1, 1)


def find_sites(model: nn.Module, graph: DependencyGraph) -> list[Site]:
    """All eligible pairs, in the order of the graph's groups.

    Args:
        model: the network
        graph: of it, at its present widths
    """
    # A layer that is registered twice would be replaced in one place only.
    places = Counter(child for module in model.modules() for child in module._modules.values())
    modules = {path: module for path, module in model.named_modules() if places[module] < 2}
    found = [_site(modules, graph, name) for name in graph.groups]
    return [site for site in found if site is not None]


def select(sites: Sequence[Site], strategy: str | Sequence[str], *, streams: Collection[str]) -> list[Site]:
    """The pairs that a strategy stacks, in the order of `sites`.

    Normal layers must lie between stacked ones, else units never exchange anything (section 3.3). On a residual stream
    the shortcut carries everything past a stacked layer.

    Args:
        sites: of one network
        strategy: all: the pairs of most weights first, while there is room; r: those without the first and the last
            stage, which is what makes the same width group; alternate: of pairs that follow one another, every second
            from the first on; or first layers of pairs
        streams: width groups that several layers make

    Raises:
        ModelError: the strategy or a first layer is unknown, or two of the pairs share a layer
    """
    if not isinstance(strategy, str):
        return _named(sites, strategy)
    if strategy not in _STRATEGIES:
        raise ModelError(f"search.strategy: {not_one_of(strategy, _STRATEGIES)}")
    chosen: list[Site] = []
    if strategy == "alternate":
        before: dict[str, Site] = {}
        for site in sites:
            follows = site.reads is not None and before.get(site.reads) in chosen
            if not follows and all(_compatible(site, other, streams) for other in chosen):
                chosen.append(site)
            before[site.makes] = site
        return chosen
    # The largest first; of equal ones the later, so that the layer that enters a stage stays a normal one.
    order = sorted(range(len(sites)), key=lambda index: (-_size(sites[index]), -index))
    for index in order:
        if all(_compatible(sites[index], other, streams) for other in chosen):
            chosen.append(sites[index])
    chosen.sort(key=sites.index)
    if strategy == "all" or not chosen:
        return chosen
    ends = {chosen[0].makes, chosen[-1].makes}
    return [site for site in chosen if site.makes not in ends]


def _named(sites: Sequence[Site], names: Sequence[str]) -> list[Site]:
    known = {site.first: site for site in sites}
    if unknown := [name for name in names if name not in known]:
        raise ModelError(f"search.strategy: {not_one_of(unknown[0], known)}")
    chosen = [site for site in sites if site.first in names]
    for place, site in enumerate(chosen):
        for other in chosen[:place]:
            if _layers(site) & _layers(other):
                shared = min(_layers(site) & _layers(other))
                raise ModelError(f"search.strategy: {other.first} and {site.first} are pairs that share {shared}")
    return chosen


def _compatible(site: Site, other: Site, streams: Collection[str]) -> bool:
    if _layers(site) & _layers(other):
        return False
    between = ({site.reads} & {other.makes}) | ({other.reads} & {site.makes})
    return between <= set(streams)


def _layers(site: Site) -> set[str]:
    return {site.first, site.second}


def _size(site: Site) -> int:
    return (site.taps[0] * site.inputs + site.taps[1] * site.outputs) * site.nodes


def _site(modules: dict[str, nn.Module], graph: DependencyGraph, name: str) -> Site | None:
    group = graph.groups[name]
    made = [axis for axis in graph.producers(name) if axis.tensor.rpartition(".")[0] not in graph.channelwise]
    read = [axis for axis in graph.readers(name) if axis.tensor.rpartition(".")[0] not in graph.channelwise]
    weights = [axis for axis in made if axis.tensor.endswith(".weight")]
    if group.step != 1 or not group.exact or group.summed or len(weights) != 1 or len(made) != 1 or len(read) != 1:
        return None
    (maker,), (reader,) = weights, read
    first, second = maker.tensor.removesuffix(".weight"), reader.tensor.removesuffix(".weight")
    if f"{second}.weight" != reader.tensor or first == second:
        return None
    layers = [modules.get(path) for path in (first, second)]
    if not _alike(layers) or maker.dim != 0 or reader.dim != 1:
        return None
    one, two = (layer for layer in layers if layer is not None)
    (inputs, nodes), (nodes_read, outputs) = channels_of(one), channels_of(two)
    straight = np.arange(nodes)
    whole = (
        nodes == nodes_read == group.channels
        and np.array_equal(maker.index, straight)
        and np.array_equal(maker.slice, straight)
        and np.array_equal(reader.index, straight)
        and np.array_equal(reader.slice, straight)
    )
    if not whole or math.gcd(inputs, outputs) < 2 or not _unpooled(modules, graph, name, (first, second)):
        return None
    reads, makes = _side(graph, (maker.tensor, 1), inputs), _side(graph, (reader.tensor, 0), outputs)
    if reads is _MIXED or not isinstance(makes, str) or nodes < min(inputs, outputs):
        return None
    return Site(
        first=first,
        second=second,
        hidden=name,
        reads=reads if isinstance(reads, str) else None,
        makes=makes,
        inputs=inputs,
        nodes=nodes,
        outputs=outputs,
        shared=len(graph.producers(makes)) > 1,
        taps=(_taps(one), _taps(two)),
    )


def _taps(layer: nn.Module) -> int:
    return layer.get_parameter("weight")[0, 0].numel()


def _alike(layers: Sequence[nn.Module | None]) -> bool:
    if all(type(layer) is nn.Linear for layer in layers):
        return True
    kinds = {type(layer) for layer in layers}
    if len(kinds) != 1 or not kinds <= set(CONVOLUTIONS):
        return False
    return all(isinstance(layer, CONVOLUTIONS) and layer.groups == 1 for layer in layers)


def _unpooled(modules: Mapping[str, nn.Module], graph: DependencyGraph, name: str, pair: tuple[str, str]) -> bool:
    """Whether the resolution within a pair changes by no more than its strides say, judged by numbers of positions."""
    number, first = graph.order.index(name), graph.uses.get(f"{pair[0]}.weight", 0)
    between = {
        tensor.rpartition(".")[0]
        for (tensor, _), owners in graph.owners.items()
        if number in owners.numbers and tensor.rpartition(".")[0] in graph.channelwise and tensor.endswith(".weight")
    }
    layers = [modules.get(path) for path in (*sorted(between), pair[1])]
    strides = [math.prod(layer.stride) if isinstance(layer, CONVOLUTIONS) else 1 for layer in layers]
    last = graph.uses.get(f"{pair[1]}.weight", 0)
    stride = math.prod(strides)
    # With a stride the last row may count in full or not; pooling would make a fourth, or a half, of it.
    return last == first if stride == 1 else first / 2 < last * stride < 2 * first


_MIXED = object()


def _side(graph: DependencyGraph, axis: tuple[str, int], channels: int) -> object:
    """The width group of a whole dimension, None if the width is fixed, or `_MIXED`."""
    owners = graph.owners.get(axis)
    if owners is None or not owners.numbers:
        return None
    numbers = owners.numbers
    if len(numbers) > 1 or (owners.group < 0).any():
        return _MIXED
    name = graph.order[next(iter(numbers))]
    if name not in graph.groups:
        return None
    one_each = len(owners.slice) == channels == graph.groups[name].channels and graph.groups[name].step == 1
    return name if one_each else _MIXED
