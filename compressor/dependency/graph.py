"""What is known of a network's width groups: data, without the network itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from compressor.dependency.trace import Axis
from compressor.errors import ModelError, not_one_of

Indices = NDArray[np.int64]
NEW = -1  # in a selection: a slice that the old network does not have


@dataclass(frozen=True)
class WidthGroup:
    """Channels that must be resized together.

    Attributes:
        name: module path of the first producing layer
        channels: present width of that layer
        step: channels of one slice; the width stays a multiple of it
        norm: path of the affine batch-norm, with a ReLU behind it, between the group's only producing layer and the
            layers that read it; None if anything else is on the way
        exact: whether removing a slice removes the same channel everywhere; if not (channel shuffles), only the
            numbers fit, and the network has to be trained anew. Where a network normalises, softmaxes or convolves over
            its channels, the others feel that one has gone
        summed: whether products of two activations sum over these channels, as over those of queries and keys
    """

    name: str
    channels: int
    step: int = 1
    norm: str | None = None
    exact: bool = True
    summed: bool = False

    @property
    def slices(self) -> int:
        """What `remove_channels_` counts in."""
        return self.channels // self.step

    @property
    def units(self) -> int:
        """An earlier name of `slices`."""
        return self.slices


@dataclass(frozen=True, eq=False)
class Owners:
    """Who owns the positions of one dimension of one parameter: (L,) group number, or -1, and (L,) slice."""

    group: Indices
    slice: Indices

    @property
    def unit(self) -> Indices:
        """An earlier name of `slice`."""
        return self.slice

    @cached_property
    def numbers(self) -> frozenset[int]:
        """The groups that own a position."""
        return frozenset(np.unique(self.group).tolist()) - {-1}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Owners)
            and np.array_equal(self.group, other.group)
            and np.array_equal(self.slice, other.slice)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Positions:
    """Positions (k,) along one dimension of a parameter, and the slice (k,) of a group that each belongs to."""

    tensor: str
    dim: int
    index: Indices
    slice: Indices

    @property
    def unit(self) -> Indices:
        """An earlier name of `slice`."""
        return self.slice


@dataclass(frozen=True)
class DependencyGraph:
    """All resizable groups of one network at its present widths.

    Attributes:
        groups: {name: group}
        owners: {(parameter or buffer, dimension): owners of its positions}
        order: names of the groups that `owners` numbers
        producing: dimensions along which weights make channels
        reading: dimensions along which weights read channels
        fixed: {group name: reason} of what cannot be resized, such as the output layer
        uses: {parameter: positions of one image that it is multiplied at}
        products: multiply-adds of one image in products of two activations
        channelwise: depth-wise convolutions; their `groups` follow their width
        norms: {producing weight: path of the batch-norm that alone reads what it makes}
    """

    groups: Mapping[str, WidthGroup]
    owners: Mapping[Axis, Owners] = field(repr=False)
    order: tuple[str, ...] = field(repr=False)
    producing: frozenset[Axis] = field(default=frozenset(), repr=False)
    reading: frozenset[Axis] = field(default=frozenset(), repr=False)
    fixed: Mapping[str, str] = field(default_factory=dict)
    uses: Mapping[str, int] = field(default_factory=dict, repr=False)
    products: int = 0
    channelwise: frozenset[str] = field(default=frozenset(), repr=False)
    norms: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def widths(self) -> dict[str, int]:
        """{group name: channels}."""
        return {name: group.channels for name, group in self.groups.items()}

    @property
    def steps(self) -> dict[str, int]:
        """{group name: what its width must be a multiple of}."""
        return {name: group.step for name, group in self.groups.items()}

    def producers(self, name: str) -> tuple[Positions, ...]:
        """Where weights make the channels of a group."""
        return self._positions(name, self.producing)

    def readers(self, name: str) -> tuple[Positions, ...]:
        """Where weights read the channels of a group."""
        return self._positions(name, self.reading)

    def _positions(self, name: str, axes: frozenset[Axis]) -> tuple[Positions, ...]:
        number, found = self.order.index(name), []
        for (tensor, dim), owners in self.owners.items():
            if (tensor, dim) in axes and len(index := np.flatnonzero(owners.group == number)):
                found.append(Positions(tensor, dim, index, owners.slice[index]))
        return tuple(found)

    def fixing(self, reasons: Mapping[str, str]) -> DependencyGraph:
        """The graph without the groups named, {group name: why it cannot, or shall not, be resized}."""
        gone, owners = [number for number, name in enumerate(self.order) if name in reasons], {}
        for axis, owner in self.owners.items():
            group = np.where(np.isin(owner.group, gone), -1, owner.group)
            if (group >= 0).any():
                owners[axis] = Owners(group, owner.slice)
        groups = {name: group for name, group in self.groups.items() if name not in reasons}
        return replace(self, groups=groups, owners=owners, fixed={**self.fixed, **reasons})

    def at(self, widths: Mapping[str, int]) -> DependencyGraph:
        """The graph of the same network at other widths.

        Raises:
            ModelError: an unknown group, one that cannot be resized, or a width that it cannot have
        """
        return self.select(self.selection(widths))

    def selection(self, widths: Mapping[str, int]) -> dict[str, Indices]:
        """{group: the slices kept, then `NEW` ones} of the groups that change; raises as `at`."""
        select = {}
        for name, width in widths.items():
            if name in self.fixed:
                raise ModelError(f"width group {name} cannot be resized: {self.fixed[name]}")
            if name not in self.groups:
                raise ModelError(f"width group {not_one_of(name, self.groups)}")
            group = self.groups[name]
            if width < 1 or width % group.step:
                raise ModelError(f"width group {name}: {width} is not a multiple of {group.step}, from {group.step} on")
            if width != group.channels:
                slices = np.arange(width // group.step)
                select[name] = np.where(slices < group.slices, slices, NEW)
        return select

    def select(self, select: Mapping[str, Indices]) -> DependencyGraph:
        """The graph after a selection of slices, {group: old slice or `NEW`}."""
        return self.after(select, self.changes(select))

    def after(self, select: Mapping[str, Indices], changes: Mapping[Axis, tuple[Indices, Owners]]) -> DependencyGraph:
        """`select`, with its changes known."""
        groups = {
            name: replace(group, channels=len(select[name]) * group.step) if name in select else group
            for name, group in self.groups.items()
        }
        return replace(self, groups=groups, owners={**self.owners, **{axis: new for axis, (_, new) in changes.items()}})

    def changes(self, select: Mapping[str, Indices]) -> dict[Axis, tuple[Indices, Owners]]:
        """{dimension that a selection changes: (its new positions, the old one or `NEW` for each; their owners)}."""
        numbers = {self.order.index(name): np.asarray(slices) for name, slices in select.items()}
        if any((slices == NEW).any() for slices in numbers.values()):
            touched = {axis: owners for axis, owners in self.owners.items() if owners.numbers & set(numbers)}
            alike: dict[bytes, tuple[Indices, Owners]] = {}  # a layer and its norm have five tensors with equal owners
            grown = {}
            for axis, owners in touched.items():
                key = owners.group.tobytes() + owners.slice.tobytes()
                if key not in alike:
                    alike[key] = _with_new(owners, numbers)
                grown[axis] = alike[key]
            for axis, (_, owners) in grown.items():
                self._check_length(axis, owners, numbers)
            return grown
        renamed = {}
        for number, slices in numbers.items():
            renamed[number] = np.full(self.groups[self.order[number]].slices, NEW)
            renamed[number][slices] = np.arange(len(slices))
        changed = {}
        for axis, owners in self.owners.items():
            if not (mixed := owners.numbers & set(numbers)):
                continue
            slice_ = owners.slice.copy()
            for number in mixed:
                mine = owners.group == number
                slice_[mine] = renamed[number][owners.slice[mine]]
            index = np.flatnonzero((slice_ >= 0) | (owners.group < 0))
            changed[axis] = index, Owners(owners.group[index], slice_[index])
        return changed

    def _check_length(self, axis: Axis, owners: Owners, numbers: Mapping[int, Indices]) -> None:
        """Refuse growth where the channels of a group lie in another order than rising, such as after a flip."""
        for number in owners.numbers & set(numbers):
            name, before = self.order[number], int((self.owners[axis].group == number).sum())
            expected = before // self.groups[name].slices * len(numbers[number])
            if int((owners.group == number).sum()) != expected:
                raise ModelError(f"width group {name}: {axis[0]} has its channels in an order that cannot grow")


def _with_new(owners: Owners, numbers: Mapping[int, Indices]) -> tuple[Indices, Owners]:
    """One dimension's part of `DependencyGraph.changes` with slices that are new.

    Positions of one group stand in runs of rising slices (one run for a plain layer, one per part where parts must
    stay equal); within a run a slice holds a block of positions (a flattened map holds H·W of them).
    """
    group, slice_ = owners.group, owners.slice
    breaks = (np.diff(group) != 0) | (np.isin(group[1:], list(numbers)) & (np.diff(slice_) < 0))
    starts = [0, *(np.flatnonzero(breaks) + 1).tolist()]
    parts = []
    for start, end in zip(starts, [*starts[1:], len(group)], strict=True):
        number, index, mine = int(group[start]), np.arange(start, end), slice_[start:end]
        if number in numbers:
            chosen = numbers[number]
            first, last = np.searchsorted(mine, chosen, "left"), np.searchsorted(mine, chosen, "right")
            length = np.where(chosen == NEW, int((mine == mine[-1]).sum()), last - first)
            within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
            index = np.where(np.repeat(chosen == NEW, length), NEW, start + np.repeat(first, length) + within)
            mine = np.repeat(np.arange(len(chosen)), length)
        parts.append((index, np.full(len(index), number), mine))
    indices, groups, slices = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    return indices, Owners(groups, slices)


class LayerSizes:
    """How long every dimension of every parameter is, as a linear function of the widths: to count without resizing.

    Args:
        graph: of the network
    """

    def __init__(self, graph: DependencyGraph) -> None:
        self.groups = list(graph.groups)
        self._steps = np.array([graph.groups[name].step for name in self.groups], dtype=np.int64)
        column = {graph.order.index(name): index for index, name in enumerate(self.groups)}
        self._row = {axis: index for index, axis in enumerate(graph.owners)}
        self._base = np.zeros(len(graph.owners), dtype=np.int64)
        self._slope = np.zeros((len(graph.owners), len(self.groups)), dtype=np.int64)
        for row, owner in enumerate(graph.owners.values()):
            numbers, held = np.unique(owner.group, return_counts=True)
            for number, positions in zip(numbers.tolist(), held.tolist(), strict=True):
                if number < 0:
                    self._base[row] = positions
                else:
                    name = graph.order[number]
                    self._slope[row, column[number]] = positions // graph.groups[name].slices

    def at(self, widths: Mapping[str, int]) -> Callable[[str, int, int], int]:
        """A function (parameter, dimension, otherwise) → length at these widths; `otherwise` for a fixed one.

        Widths that are no multiples of a group's step count as the next larger one.
        """
        slices = -(-np.array([widths[name] for name in self.groups], dtype=np.int64) // self._steps)
        lengths: list[int] = (self._base + self._slope @ slices).tolist()

        def length(tensor: str, dim: int, otherwise: int) -> int:
            row = self._row.get((tensor, dim))
            return otherwise if row is None else lengths[row]

        return length


def layer_of(parameter: str) -> str:
    """Module path of the layer that a parameter belongs to, be it computed from it (torch's parametrizations)."""
    path, computed, _ = parameter.partition(".parametrizations.")
    return path if computed else parameter.rpartition(".")[0]
