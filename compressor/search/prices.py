"""What a channel costs at the widths of a moment, which its importance may be weighed against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from compressor.dependency import DependencyGraph

_LEAST_PRICE = 0.02  # of the mean: an estimate of a cost may take a layer for free that is not
Costs = Mapping[str, Callable[[Mapping[str, int]], float]]  # of {searched group: channels}


@dataclass(frozen=True)
class Prices:
    """Prices of channels under limits.

    Attributes:
        costs: {cost name: cost of {searched group: channels}}
        limits: {cost name: largest allowed value, above 0}
        exponent: of the price in importance / price^exponent; 0: importance alone counts
        block: channels that are computed at once, where costs rise in such steps
    """

    costs: Costs
    limits: Mapping[str, float]
    exponent: float = 1.0
    block: int = 1

    def share(self, widths: Mapping[str, int]) -> float:
        """The cost that exceeds its limit most, or comes nearest to it, as a share of that limit."""
        return max(self.costs[name](widths) / limit for name, limit in self.limits.items())

    def per_slice(self, graph: DependencyGraph, widths: Mapping[str, int]) -> dict[str, float]:
        """What one slice of each group costs, as a share of the limit that is exceeded most.

        Args:
            graph: of the network
            widths: {searched group: channels left}
        """
        shares = {name: self.costs[name](widths) / limit for name, limit in self.limits.items()}
        most = max(shares, key=lambda name: shares[name])
        found = {}
        for group, width in widths.items():
            step = graph.groups[group].step
            slices = width // step
            # Over several slices, in whole blocks: within a block nothing is saved, and padding may cost.
            whole = math.lcm(self.block, step) // step
            fewer = min(slices - 1, whole * -(-max(1, slices // 8) // whole))
            narrower = {**widths, group: width - fewer * step}
            saved = shares[most] - self.costs[most](narrower) / self.limits[most]
            found[group] = max(0.0, saved) / max(1, fewer)
        return found

    def order(
        self, importance: NDArray[np.float64], owners: NDArray[np.int64], price: NDArray[np.float64]
    ) -> list[int]:
        """Positions of slices in the order in which they should go.

        Args:
            importance: (slices,) of each
            owners: (slices,) the group of each, a position in `price`
            price: (groups,) of a slice of each; next to nothing counts as a small share of the others' mean, and where
                no group saves anything importance alone counts
        """
        price = np.maximum(price, _LEAST_PRICE * price.mean())
        weight = price[owners] ** self.exponent if self.exponent and price.any() else np.ones(len(owners))
        order: list[int] = np.lexsort((importance, importance / weight)).tolist()
        return order
