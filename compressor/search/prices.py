"""What a channel costs at the widths of a moment, which its importance may be weighed against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from compressor.dependency import DependencyGraph

Costs = Mapping[str, Callable[[Mapping[str, int]], float]]  # of {searched group: channels}


@dataclass(frozen=True)
class Prices:
    """Prices of channels under limits.

    Attributes:
        costs: {cost name: cost of {searched group: channels}}
        limits: {cost name: largest allowed value, above 0}
        exponent: of the price in importance / price^exponent; 0: importance alone counts
    """

    costs: Costs
    limits: Mapping[str, float]
    exponent: float = 1.0

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
            fewer = max(1, slices // 8) if slices > 1 else 0  # kernels take their time in steps, see `Cost.step`
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
            price: (groups,) of a slice of each; where nothing is saved a slice goes last, the least important first
        """
        weight = price[owners] ** self.exponent if self.exponent else np.ones(len(owners))
        worth = np.where(weight > 0, importance / np.where(weight > 0, weight, 1.0), np.inf)
        order: list[int] = np.lexsort((importance, worth)).tolist()
        return order
