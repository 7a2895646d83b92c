"""Basic units and the stacked layers made of them (TissueNet, sections 3.2 and 3.5): data, without torch.

A unit (n0, n1, n2) is a small network of two weight layers, n0 inputs → n1 hidden → n2 outputs. A stacked layer is
units side by side: each reads its own piece of the input, and no weight crosses from one to another.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from compressor.errors import ModelError

_FEW = 3  # units, into which a layer is divided that is too narrow for two of as many inputs as asked for


class BasicUnit(NamedTuple):
    """(n0, n1, n2) nodes of a unit."""

    inputs: int
    hidden: int
    outputs: int

    def __str__(self) -> str:
        return f"({self.inputs}, {self.hidden}, {self.outputs})"


class Kind(NamedTuple):
    """So many equal units."""

    many: int
    unit: BasicUnit


@dataclass(frozen=True)
class Stack:
    """A stacked layer in place of two weight layers of a network.

    Attributes:
        second: module path of the second weight layer; that of the first is the stack's key in an architecture
        kinds: the units, side by side in this order, equal ones together
    """

    second: str
    kinds: tuple[Kind, ...]

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ModelError(f"stack of {self.second}: has no units")
        for count, unit in self.kinds:
            if count < 1 or min(unit) < 1:
                raise ModelError(f"stack of {self.second}: {count} units {unit}: all four numbers must be 1 or more")

    @property
    def count(self) -> int:
        """Number of units."""
        return sum(kind.many for kind in self.kinds)

    @property
    def inputs(self) -> int:
        """Channels that the stacked layer reads."""
        return sum(count * unit.inputs for count, unit in self.kinds)

    @property
    def hidden(self) -> int:
        """Channels between its two weight layers."""
        return sum(count * unit.hidden for count, unit in self.kinds)

    @property
    def outputs(self) -> int:
        """Channels that it makes."""
        return sum(count * unit.outputs for count, unit in self.kinds)

    @property
    def first_pieces(self) -> list[tuple[int, int, int]]:
        """(units, inputs, outputs of each) of the first weight layer."""
        return [(count, unit.inputs, unit.hidden) for count, unit in self.kinds]

    @property
    def second_pieces(self) -> list[tuple[int, int, int]]:
        """(units, inputs, outputs of each) of the second weight layer."""
        return [(count, unit.hidden, unit.outputs) for count, unit in self.kinds]

    @property
    def products(self) -> tuple[int, int]:
        """Pairs of a node with one that it feeds, in the first and in the second weight layer (equation 5)."""
        return self.products_in(1)

    def products_in(self, block: int) -> tuple[int, int]:
        """The same of units that are merged, with zeros between them, until they read whole blocks of channels."""
        return _products(self.first_pieces, block), _products(self.second_pieces, block)

    def to_json(self) -> dict[str, Any]:
        """JSON values: {"second": path, "units": [[count, n0, n1, n2], ...]}."""
        return {"second": self.second, "units": [[count, *unit] for count, unit in self.kinds]}

    @classmethod
    def from_json(cls, value: Any) -> Stack:
        """Read what `to_json` gave.

        Raises:
            ModelError: another form
        """
        if not isinstance(value, dict) or set(value) != {"second", "units"} or not isinstance(value["second"], str):
            raise ModelError(f"{value!r} is not a mapping with the keys second and units")
        rows = value["units"]
        if not isinstance(rows, list) or not all(_four_numbers(row) for row in rows):
            raise ModelError(f"units: {rows!r} is not a list of [count, n0, n1, n2], whole numbers from 1")
        return cls(value["second"], tuple(Kind(row[0], BasicUnit(*row[1:])) for row in rows))


def _products(pieces: Iterable[tuple[int, int, int]], block: int) -> int:
    total = 0
    for count, before, after in pieces:
        merged = min(count, -(-block // before))
        rows, columns = (-(-merged * nodes // block) * block for nodes in (before, after))
        total += -(-count // merged) * rows * columns
    return total


def grouped(units: Iterable[BasicUnit]) -> tuple[Kind, ...]:
    """Units grouped by kind, in the order in which the kinds first come."""
    counts: dict[BasicUnit, int] = {}
    for unit in units:
        counts[unit] = counts.get(unit, 0) + 1
    return tuple(Kind(count, unit) for unit, count in counts.items())


def spread(inputs: int, hidden: int, outputs: int, count: int) -> tuple[Kind, ...]:
    """So many units that share out the channels: equal in inputs and outputs, in hidden nodes within one.

    Args:
        inputs: channels to read, a multiple of `count`
        hidden: channels between, `count` or more
        outputs: channels to make, a multiple of `count`
        count: number of units

    Raises:
        ModelError: the channels cannot be shared out so
    """
    if inputs % count or outputs % count or hidden < count:
        raise ModelError(f"{count} units cannot share {inputs} inputs, {hidden} hidden nodes and {outputs} outputs")
    least, wider = divmod(hidden, count)
    kinds = ((count - wider, least), (wider, least + 1))
    return tuple(Kind(many, BasicUnit(inputs // count, nodes, outputs // count)) for many, nodes in kinds if many)


def most_units(inputs: int, outputs: int, nodes: int) -> int:
    """The most units that share `inputs` and `outputs` evenly, with at least `nodes` of the inputs each.

    Where that is one, it is two, or three, of fewer inputs, as a single unit is no stacked layer; else 1.
    """
    shared = math.gcd(inputs, outputs)
    several = [d for d in range(2, shared + 1) if shared % d == 0]
    few = [d for d in several if d <= _FEW]
    return max((d for d in several if inputs // d >= nodes), default=min(few, default=1))


def drawn(kinds: Sequence[BasicUnit], inputs: int, seed: str) -> tuple[Kind, ...]:
    """Units drawn at random for each position until the inputs are used up (section 4.6.2), grouped by kind.

    Args:
        kinds: to draw from, all with the same number of inputs
        inputs: channels to read, a multiple of that
        seed: decides the draw
    """
    draw = random.Random(seed)
    return grouped(draw.choice(kinds) for _ in range(inputs // kinds[0].inputs))


def _four_numbers(row: Any) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 4
        and all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in row)
    )
