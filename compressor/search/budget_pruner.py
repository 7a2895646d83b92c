"""Global Taylor pruning that ends at a budget: every event brings the costs a step nearer to their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from compressor.dependency import DependencyGraph, Remove, remove_channels_
from compressor.search.prices import Prices
from compressor.search.taylor_pruner import PruneSettings, TaylorPruner


class BudgetPruner(TaylorPruner):
    """Observer that prunes towards limits: in event e of E every cost may be c₀·(limit/c₀)^(e/E), c₀ at the start.

    Channels go in the order of their importance per cost, I/Δc, where Δc is what one slice of the group costs at the
    widths of that moment, as a share of the limit that is exceeded most. The last event is left to the caller: when
    its gradients are there training ends.

    Args:
        graph: of the network at the start of pruning
        searched: groups that compete in the global ranking
        follows: as of `TaylorPruner`
        settings: `channels` and `floor` are not used
        events: E, 1 or more
        prices: the costs of {searched group: channels}, their limits, and how importance is weighed against them
        remove: takes the channels out of the network
    """

    def __init__(
        self,
        graph: DependencyGraph,
        searched: list[str],
        follows: Mapping[str, tuple[str, int]],
        settings: PruneSettings,
        *,
        events: int,
        prices: Prices,
        remove: Remove = remove_channels_,
    ) -> None:
        super().__init__(graph, searched, follows, settings, remove, prices)
        self.total, self.costs, self.limits = events, prices.costs, prices.limits
        self.begun = {name: self.costs[name](self.initial) for name in self.limits}

    @property
    def slices(self) -> dict[str, int]:
        """{searched group: slices left}."""
        return {name: self.graph.groups[name].slices for name in self.searched}

    def ranked(self) -> list[str]:
        """The groups of the slices that may go, in the order in which they should; a group that is named twice loses
        its two least important ones.
        """
        left = {name: slices - self.least[name] for name, slices in self.slices.items()}
        found = []
        for name in map(self._owner, self._ranking()):
            if left[name] > 0:
                found.append(name)
                left[name] -= 1
        return found

    def after(self, ranked: Sequence[str], count: int) -> dict[str, int]:
        """{searched group: channels} when the first `count` of a ranking are gone."""
        lost = dict.fromkeys(self.searched, 0)
        for name in ranked[:count]:
            lost[name] += 1
        return {name: (left - lost[name]) * self.graph.groups[name].step for name, left in self.slices.items()}

    def importance(self, name: str) -> NDArray[np.float64]:
        """The importance of every slice of a group, (slices,)."""
        begin = self.scales.starts[name]
        found: NDArray[np.float64] = (
            self.criteria[begin : begin + self.graph.groups[name].slices].double().cpu().numpy()
        )
        return found

    def _choose(self) -> dict[str, list[int]] | None:
        event = self.events + 1
        if event >= self.total:
            self.reason = "what is left goes at once, down to the budget"
            return None
        ranked = self.ranked()
        share = event / self.total
        targets = {n: begun * min(1.0, self.limits[n] / begun) ** share for n, begun in self.begun.items()}
        low, high = 0, len(ranked)  # the fewest slices whose loss is enough, or all
        while low < high:
            middle = (low + high) // 2
            widths = self.after(ranked, middle)
            if all(self.costs[name](widths) <= target for name, target in targets.items()):
                high = middle
            else:
                low = middle + 1
        removed: dict[str, list[int]] = {}
        for name, width in self.after(ranked, low).items():
            group = self.graph.groups[name]
            if (gone := group.slices - width // group.step) > 0:
                removed[name] = sorted(np.argsort(self.importance(name), kind="stable")[:gone].tolist())
        return removed | self._followers(removed)
