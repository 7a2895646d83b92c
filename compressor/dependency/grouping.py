"""Finding the width groups of a network: trace it, group what is tied, and try which widths its own code accepts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from compressor.dependency.constants import held_by_constants
from compressor.dependency.graph import NEW, DependencyGraph, Indices, Owners, Positions, WidthGroup, layer_of
from compressor.dependency.inputs import AnyInputs
from compressor.dependency.surgery import CONVS, RECURRENT, TRANSPOSED, apply_
from compressor.dependency.trace import Axis, Trace
from compressor.dependency.tracer import trace
from compressor.dependency.trial import resizable
from compressor.errors import ModelError


def dependency_graph(model: nn.Module, example: AnyInputs) -> DependencyGraph:
    """Find the width groups of a network.

    Args:
        model: left as it is; a copy is traced, on the meta device if it runs there
        example: one batch of inputs, (N, …), at the real size, N at least 2

    Raises:
        ModelError: it does not run, or its layers share parameters
    """
    traced, probe, found = _traced(model, example)
    graph = _graph(traced, found)

    def runs_at(slices: Mapping[str, Sequence[int]]) -> nn.Module:
        changed = copy.deepcopy(traced)
        apply_(changed, graph, {name: np.asarray(chosen) for name, chosen in slices.items()})
        return changed

    slices = {name: group.slices for name, group in graph.groups.items() if name not in graph.fixed}
    graph = graph.fixing(dict(graph.fixed) | resizable(traced, probe, slices, runs_at))
    if any(parts for _, parts in found.cuts):
        graph = graph.fixing(dict(graph.fixed) | _cut_at_fixed_places(graph, found, probe, runs_at))
    return graph.fixing(dict(graph.fixed) | held_by_constants(model, graph))


def _cut_at_fixed_places(
    graph: DependencyGraph,
    found: Trace,
    probe: AnyInputs,
    runs_at: Callable[[Mapping[str, Sequence[int]]], nn.Module],
) -> dict[str, str]:
    """{group: reason} of those whose channels the network's code cuts at numbers that do not follow their width.

    `x[:, :4]` of 12 channels is a third, but of 9 it is none: the network runs, and computes something else. So it is
    traced once more at other widths, where every cut must give as many parts as before.
    """
    other = {name: [*range(group.slices), NEW] for name, group in graph.groups.items()}
    again, channel = trace(runs_at(other), probe), found.channels()
    counts = [parts for _, parts in again.cuts]
    reasons = {}
    for index, (slots, parts) in enumerate(found.cuts):
        if parts and (len(counts) != len(found.cuts) or counts[index] != parts):
            cut = set(channel[slots[slots >= 0]].tolist())
            for name in graph.groups:
                if any(cut & set(_channels(found, channel, one).tolist()) for one in graph.producers(name)):
                    reasons[name] = f"{name}: its channels are cut at places that do not follow their number"
    return reasons


def _channels(found: Trace, channel: Indices, made: Positions) -> Indices:
    """The channels of the trace that lie at some positions of a parameter."""
    return channel[found.axes[made.tensor, made.dim] + made.index]


def _traced(model: nn.Module, example: AnyInputs) -> tuple[nn.Module, AnyInputs, Trace]:
    _check_unshared(model)
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # old hooks, such as nn.utils.weight_norm, forbid it
        raise ModelError(
            f"{type(model).__name__}: it cannot be copied: {_line(error)} (nn.utils.weight_norm and nn.utils.prune "
            "keep tensors that are computed; nn.utils.parametrizations.weight_norm and prune.remove do not)"
        ) from error
    try:
        meta, probe = copied.to("meta").float(), example.to("meta")
        return meta, probe, trace(meta, probe)
    except Exception:  # it looks at values, which tensors of the meta device have not
        try:
            real, example = copy.deepcopy(model).cpu().float(), example.cpu()
            return real, example, trace(real, example)
        except Exception as error:  # whatever the network's own code raises
            raise ModelError(
                f"{type(model).__name__} does not run on inputs of shape {tuple(example.shape[1:])}: {_line(error)}"
            ) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_unshared(model: nn.Module) -> None:
    holders: dict[nn.Parameter, str] = {}
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter in holders:
                raise ModelError(
                    f"{type(model).__name__}: {holders[parameter]} and {path} share a parameter, which is not supported"
                )
            holders[parameter] = path


def _graph(model: nn.Module, found: Trace) -> DependencyGraph:
    """The groups of a trace, before any was tried."""
    channel = found.channels()
    producing, reading = _axes(found, found.produced), _axes(found, found.read)
    of_channel, members = _join(found, channel, producing)
    names, fixed = _names(members), dict[str, str]()
    owners, slices, exact = _owners(found, channel, of_channel, members)
    groups = {}
    of_activations = {number for slots in found.summed for number in of_channel[channel[slots[slots >= 0]]].tolist()}
    for number, axes in enumerate(members):
        first = axes[0]
        recurrent = isinstance(model.get_submodule(layer_of(first[0])), RECURRENT)  # its gates share a hidden unit
        channels = slices[number] if recurrent else int((owners[first].group == number).sum())
        norm = found.normed.get(first[0]) if len(axes) == 1 and first[1] == 0 else None
        path = norm[0].rpartition(".")[0] if norm is not None and norm[1] == {"relu"} else None
        step, summed = channels // slices[number], number in of_activations
        groups[names[number]] = WidthGroup(
            names[number], channels, step=step, norm=path, exact=exact[number], summed=summed
        )
    for slots, reason in found.held:
        for number in set(of_channel[channel[slots]].tolist()) - {-1}:
            fixed.setdefault(names[number], f"{names[number]}: {reason}")
    channelwise = {
        path
        for path, m in model.named_modules()
        if isinstance(m, (*CONVS, *TRANSPOSED)) and m.groups > 1 and m.groups == m.in_channels
    }
    return DependencyGraph(
        groups=groups,
        owners=owners,
        order=tuple(names),
        producing=producing,
        reading=reading,
        fixed=fixed,
        uses=dict(found.uses),
        products=found.products,
        channelwise=frozenset(channelwise),
        norms={weight: norm.rpartition(".")[0] for weight, (norm, _) in found.normed.items()},
    )


def _axes(found: Trace, slots: list[Indices]) -> frozenset[Axis]:
    """The dimensions that these slots lie in, and those of parameters that make one weight with them."""
    marked = np.zeros(found.count, dtype=bool)
    for one in slots:
        marked[one[one >= 0]] = True
    axis_of = np.repeat(np.arange(len(found.axes)), list(found.lengths.values()))
    chosen = {int(axis) for axis in np.unique(axis_of[marked])}
    kin = {(int(axis_of[left]), int(axis_of[right])) for left, right in found.kin}
    while more := {axis for pair in kin if chosen & set(pair) for axis in pair} - chosen:
        chosen |= more
    return frozenset(axis for number, axis in enumerate(found.axes) if number in chosen)


def _join(found: Trace, channel: Indices, producing: frozenset[Axis]) -> tuple[Indices, list[list[Axis]]]:
    """Producing dimensions that share a channel are one group: (channel → group number or -1, its dimensions)."""
    of_channel = np.full(int(channel.max(initial=0)) + 1, -1)
    groups: dict[int, list[Axis]] = {}
    for number, (axis, first) in enumerate((a, f) for a, f in found.axes.items() if a in producing):
        mine = np.unique(channel[first : first + found.lengths[axis]])
        others = set(of_channel[mine].tolist()) - {-1}
        home = min(others, default=number)
        groups.setdefault(home, [])
        for other in others - {home}:
            groups[home] += groups.pop(other)
            of_channel[of_channel == other] = home
        groups[home].append(axis)
        of_channel[mine] = home
    place = {axis: index for index, axis in enumerate(found.axes)}
    members = sorted((sorted(axes, key=place.__getitem__) for axes in groups.values()), key=lambda m: place[m[0]])
    renumbered = np.full(max(groups, default=0) + 2, -1)
    for number, axes in enumerate(members):
        renumbered[of_channel[channel[found.axes[axes[0]]]]] = number
    return np.where(of_channel >= 0, renumbered[of_channel], -1), members


def _names(members: list[list[Axis]]) -> list[str]:
    """Module path of each group's first producing layer; the parameter's own name if that is taken, or it has none."""
    names: list[str] = []
    for (tensor, dim), *_ in members:
        choices = (layer_of(tensor), tensor, f"{tensor}[{dim}]")
        names.append(next(name for name in choices if name and name not in names))
    return names


def _owners(
    found: Trace, channel: Indices, of_channel: Indices, members: list[list[Axis]]
) -> tuple[dict[Axis, Owners], list[int], list[bool]]:
    """Owners of every dimension, and the number of slices of every group and whether they are exact."""
    count = len(members)
    slice_of = np.full(len(of_channel), -1)
    for axes in members:
        seen = channel[found.axes[axes[0]] : found.axes[axes[0]] + found.lengths[axes[0]]]
        slice_of[seen[np.sort(np.unique(seen, return_index=True)[1])]] = np.arange(len(np.unique(seen)))
    slices = [int(slice_of[of_channel == number].max(initial=-1)) + 1 for number in range(count)]
    exact, held = [True] * count, [list[int]() for _ in range(count)]
    owned: dict[Axis, tuple[Indices, Indices]] = {}
    for axis, first in found.axes.items():
        mine = channel[first : first + found.lengths[axis]]
        group = of_channel[mine]
        for number in set(group.tolist()) - {-1}:
            each = np.bincount(np.maximum(slice_of[mine[group == number]], 0), minlength=slices[number])
            held[number].append(int(each.sum()))
            if each.min() != each.max() or (slice_of[mine[group == number]] < 0).any():
                exact[number] = False
        if (group >= 0).any():
            owned[axis] = group, mine
    for slots, parts in found.divided:  # all lengths are multiples of the parts only if one slice has as many
        for number in set(of_channel[channel[slots[slots >= 0]]].tolist()) - {-1}:
            held[number].append(len(slots) // parts)
    for number in range(count):
        most = math.gcd(*held[number])
        if not exact[number] or (slices[number] == 1 and most > 1):
            exact[number], slices[number] = False, most
    return {axis: _owner(group, slice_of[mine], slices, exact) for axis, (group, mine) in owned.items()}, slices, exact


def _owner(group: Indices, slice_: Indices, slices: list[int], exact: list[bool]) -> Owners:
    slice_ = np.where(group >= 0, slice_, -1)
    for number in set(group.tolist()) - {-1}:
        if not exact[number]:
            mine = group == number
            slice_[mine] = np.arange(int(mine.sum())) % slices[number]
    return Owners(group, slice_)
