"""Literal sizes in a graph, made to follow the sizes of what they are applied to.

Exporters write the sizes of one run into a file: the batch, and numbers of channels. Each of these literals is put into
a relation to the input's sizes, so that the graph runs with other batches and other widths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compressor.models.from_onnx.values import Dim

Segment = tuple[list[int], list[int]]  # axes of the input and axes of the output that hold the same elements


@dataclass(frozen=True)
class ReshapePlan:
    """How the sizes of a reshaped tensor follow.

    Attributes:
        rules: for every axis: ("wanted", k) as the graph computes it, ("same", k) as axis k of the input, ("times",
            axes) their product, ("literal", size), or ("rest", (axes, others)) the product of the input's axes divided
            by the sizes of other axes of the output
    """

    rules: tuple[tuple[str, Any], ...]

    def sizes(self, shape: Sequence[Any], wanted: Sequence[Any]) -> list[Any]:
        """The sizes, one of which may be -1."""
        found: list[Any] = []
        rest = [place for place, (kind, _) in enumerate(self.rules) if kind == "rest"]
        for place, (kind, value) in enumerate(self.rules):
            if kind == "wanted":
                found.append(wanted[value])
            elif kind == "same":
                found.append(shape[value])
            elif kind == "times":
                found.append(math.prod(shape[axis] for axis in value))
            else:
                found.append(value if kind == "literal" else (-1 if place == rest[-1] else None))
        for place in rest[:-1]:
            axes, others = self.rules[place][1]
            found[place] = math.prod(shape[axis] for axis in axes) // math.prod(found[axis] for axis in others)
        return found


def segments(before: Sequence[int], after: Sequence[int]) -> list[Segment] | None:
    """Divide the axes of a tensor and of its reshaped form into the shortest runs with the same elements.

    (N, 4, H, W) to (N, 2, 2, H, W) is N-N, 4-(2, 2), H-H, W-W. None: there are none, a size is 0.
    """
    if 0 in before or 0 in after:
        return None
    found: list[Segment] = []
    left = right = 0
    while left < len(before) or right < len(after):
        ins, outs, product_in, product_out = [], list[int](), 1, 1
        if left < len(before):
            ins, product_in, left = [left], before[left], left + 1
        if right < len(after):
            outs, product_out, right = [right], after[right], right + 1
        while product_in != product_out:
            if product_in < product_out and left < len(before):
                ins.append(left)
                product_in, left = product_in * before[left], left + 1
            elif product_out < product_in and right < len(after):
                outs.append(right)
                product_out, right = product_out * after[right], right + 1
            else:
                return None
        found.append((ins, outs))
    return _joined(found)


def _joined(found: list[Segment]) -> list[Segment]:
    """Axes of length 1 that stand alone on one side go to the run before."""
    kept: list[Segment] = []
    for ins, outs in found:
        if kept and (not ins or not outs):
            kept[-1] = (kept[-1][0] + ins, kept[-1][1] + outs)
        else:
            kept.append((ins, outs))
    return kept


def reshape_plan(
    shape: Sequence[int], larger: Sequence[int], wanted: Sequence[Any], *, zeros: bool, batch: int
) -> ReshapePlan | None:
    """How the sizes of a reshape follow, from what it does to one batch.

    Args:
        shape: of the input in the batch that the file was made of
        larger: of the same in a larger batch: where they differ, the batch is part of an axis
        wanted: the sizes that the graph asks for; a `Dim` where it computes them from a tensor's
        zeros: whether 0 stands for 0 rather than for the size of the input
        batch: samples of the first of these batches
    """
    after = [shape[axis] if size == 0 and not zeros else int(size) for axis, size in enumerate(wanted)]
    total = math.prod(shape)
    if -1 in after:
        others = -math.prod(after)
        if not others or total % others:
            return None
        after[after.index(-1)] = total // others
    if math.prod(after) != total or all(isinstance(size, Dim) for size in wanted):
        return None
    runs = segments(shape, after)
    if runs is None:
        return None
    grows = [one != other for one, other in zip(shape, larger, strict=True)]
    runs = _rows_joined(runs if batch > 1 else _ones_moved(runs, grows, after), grows, len(after))
    rules: list[tuple[str, Any]] = [("literal", size) for size in after]
    explicit = next((place for place, size in enumerate(wanted) if not isinstance(size, Dim) and size == -1), None)
    for place, size in enumerate(wanted):
        if isinstance(size, Dim):
            rules[place] = ("wanted", place)
        elif size == 0 and not zeros:
            rules[place] = ("same", place)
    for ins, outs in runs:
        _plan_run(rules, ins, outs, shape=shape, larger=larger, after=after, explicit=explicit, batch=batch)
    return ReshapePlan(tuple(rules))


def _ones_moved(runs: list[Segment], grows: Sequence[bool], after: Sequence[int]) -> list[Segment]:
    """An axis of 1 behind what the batch of one is a part of may be that batch: (T, E) to (T, 1, E)."""
    kept: list[Segment] = []
    for ins, outs in runs:
        moved = 0
        if kept and any(grows[axis] for axis in kept[-1][0]) and not any(grows[axis] for axis in ins):
            while moved < len(outs) - 1 and after[outs[moved]] == 1:
                moved += 1
        if moved:
            kept[-1] = (kept[-1][0], kept[-1][1] + outs[:moved])
        kept.append((ins, outs[moved:]))
    return kept


def _rows_joined(runs: list[Segment], grows: Sequence[bool], rank: int) -> list[Segment]:
    """Where the batch would become a part of the last axis, the features, it is one of the rows before them.

    Attention whose batch is the second axis does so: (T, N, E) to (T * N, E).
    """
    kept: list[Segment] = []
    for ins, outs in runs:
        if kept and any(grows[axis] for axis in ins) and outs == [rank - 1] and len(ins) > 1:
            kept[-1] = (kept[-1][0] + ins, kept[-1][1] + outs)
        else:
            kept.append((ins, outs))
    return kept


def _plan_run(
    rules: list[tuple[str, Any]],
    ins: list[int],
    outs: list[int],
    *,
    shape: Sequence[int],
    larger: Sequence[int],
    after: Sequence[int],
    explicit: int | None,
    batch: int,
) -> None:
    literal = [place for place in outs if rules[place][0] == "literal"]
    if not literal:
        return
    batched = any(shape[axis] != larger[axis] for axis in ins)
    large = [place for place in literal if after[place] != 1] or literal
    several = sum(shape[axis] != 1 for axis in ins) > 1
    if explicit in literal:
        free = explicit
    elif batched:  # the axis that is the batch, or contains it
        free = next((place for place in literal if after[place] == batch), literal[0])
    else:  # channels come before positions; of parts of channels the last is what widths change
        free = large[0] if several else large[-1]
    others = [place for place in outs if place != free]
    if all(after[place] == 1 and rules[place][0] == "literal" for place in others):
        rules[free] = ("times", tuple(ins))
    else:
        rules[free] = ("rest", (tuple(ins), tuple(others)))


def equal_parts(ranges: Sequence[tuple[int, int]], length: int) -> dict[tuple[int, int], tuple[int, int]]:
    """{(start, end): (part, parts)} where slices of an axis are all its equal parts; else nothing."""
    ordered = sorted(set(ranges))
    count = len(ordered)
    if count < 2 or length % count:
        return {}
    each = length // count
    if ordered != [(place * each, (place + 1) * each) for place in range(count)]:
        return {}
    return {found: (place, count) for place, found in enumerate(ordered)}
