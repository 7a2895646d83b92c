"""Which indices of which parameters carry the same channel: one forward pass, watched operator by operator.

Every index of every dimension of every parameter is a slot. A tensor that the pass computes knows, for each of its
elements, the slot that its channel comes from; operators tie the slots that must be resized together:

    conv weight (64, 3, 7, 7)  dim 0: slots 0…63       batch-norm weight (64,): slots 67…130, tied to 0…63
    sum of two branches        ties their slots        concatenation            puts them side by side

Operators that only move elements are run on the slots as they are run on the values, so views, shuffles, flattening,
windows and concatenation need no rules of their own. A network of torch operators needs no cooperation; what an
unknown operator does to a channel is not guessed: its channels are held at their number.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Slots = NDArray[np.int64]
Axis = tuple[str, int]  # (name of a parameter or buffer, dimension)
NONE = -1  # an element that belongs to no slot


@dataclass
class Trace:
    """What was seen; slots are numbers 0…count-1.

    Attributes:
        axes: {axis: number of its first slot}
        lengths: {axis: its length}
        produced: slots that a weight makes channels with (outputs of convolutions and products)
        read: slots that a weight reads channels with
        held: (slots, reason) that must keep their number
        kin: pairs of slots of parameters that one weight is computed from
        summed: slots that a product of two activations sums over, such as queries and keys
        divided: (slots of a dimension, number of equal parts that its length must have)
        cuts: (slots of a dimension, number of equal parts that an operator cuts it into, 0 for unequal ones)
        uses: {parameter: positions of one image that its convolution or product is computed at}
        products: multiply-adds of one image in products of two activations
        normed: {weight: names of the batch-norm that alone reads its output and of what reads the batch-norm}
    """

    axes: dict[Axis, int] = field(default_factory=dict)
    lengths: dict[Axis, int] = field(default_factory=dict)
    count: int = 0
    produced: list[Slots] = field(default_factory=list)
    read: list[Slots] = field(default_factory=list)
    held: list[tuple[Slots, str]] = field(default_factory=list)
    kin: list[tuple[int, int]] = field(default_factory=list)
    summed: list[Slots] = field(default_factory=list)
    divided: list[tuple[Slots, int]] = field(default_factory=list)
    cuts: list[tuple[Slots, int]] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)
    products: int = 0
    normed: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)
    ties: list[tuple[Slots, Slots]] = field(default_factory=list)
    splits: list[Slots] = field(default_factory=list)

    def channels(self) -> Slots:
        """(count,) the channel of every slot: tied slots have the same."""
        found = self._components()
        for split in self.splits:
            if self._even(found, split):
                found = self._components()
        return found

    def _components(self) -> Slots:
        left = np.concatenate([np.zeros(0, dtype=np.int64), *(pair[0] for pair in self.ties)])
        right = np.concatenate([np.zeros(0, dtype=np.int64), *(pair[1] for pair in self.ties)])
        graph = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(self.count, self.count))
        found = np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
        first = np.unique(found, return_index=True)[1]
        self.ties = [(np.arange(self.count), first[found])]  # the same, without repetition
        return found

    def _even(self, channel: Slots, split: Slots) -> bool:
        """A dimension that was split in several: channels may vary along one part, by default the last."""
        of = np.where(split >= 0, channel[split], NONE)
        varying = [axis for axis in range(of.ndim) if (of != of.take([0], axis)).any()]
        for axis in varying[:-1]:
            self.tie(split, np.broadcast_to(split.take([0], axis), split.shape))
        return len(varying) > 1

    def tie(self, left: Slots, right: Slots) -> None:
        """Tie slots of equal position; `NONE` ties nothing."""
        left, right = left.ravel(), right.ravel()
        both = (left >= 0) & (right >= 0) & (left != right)
        if both.any():
            self.ties.append((left[both], right[both]))

    def hold(self, slots: Slots, reason: str) -> None:
        """Note that these slots must keep their number."""
        slots = np.unique(slots)
        self.held.append((slots[slots >= 0], reason))
