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
    widths of that moment, as a share of the limit that is exceeded most. Where widths must be multiples, a group gives
    up a block once as many of its channels are due, and no event goes below the limits, whatever a block costs. The
    last event is left to the caller: when its gradients are there training ends.

    Args:
        graph: of the network at the start of pruning
        searched: groups that compete in the global ranking
        follows: as of `TaylorPruner`
        settings: `channels` and `floor` are not used
        events: E, 1 or more
        prices: the costs of {searched group: channels}, their limits, and how importance is weighed against them
        multiples: {searched group: what its channels must be a multiple of}; a group that is not named, of 1
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
        multiples: Mapping[str, int] | None = None,
        remove: Remove = remove_channels_,
    ) -> None:
        super().__init__(graph, searched, follows, settings, remove, prices)
        self.total, self.costs, self.limits = events, prices.costs, prices.limits
        self.multiples = dict(multiples or {})
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
        """{searched group: channels} when the first `count` of a ranking are gone, as far as they are whole blocks."""
        lost = dict.fromkeys(self.searched, 0)
        for name in ranked[:count]:
            lost[name] += 1
        found = {}
        for name, left in self.slices.items():
            step, multiple = self.graph.groups[name].step, self.multiples.get(name, 1)
            found[name] = min(left * step, -(-(left - lost[name]) * step // multiple) * multiple)
        return found

    def importance(self, name: str) -> NDArray[np.float64]:
        """The importance of every slice of a group, (slices,)."""
        begin = self.scales.starts[name]
        found: NDArray[np.float64] = (
            self.criteria[begin : begin + self.graph.groups[name].slices].double().cpu().numpy()
        )
        return found

    def _fewest(self, ranked: Sequence[str], targets: Mapping[str, float]) -> int:
        """How many slices of a ranking must go until every cost is within its target; or all."""
        low, high = 0, len(ranked)
        while low < high:
            middle = (low + high) // 2
            widths = self.after(ranked, middle)
            if all(self.costs[name](widths) <= target for name, target in targets.items()):
                high = middle
            else:
                low = middle + 1
        return low

    def _choose(self) -> dict[str, list[int]] | None:
        event = self.events + 1
        if event >= self.total:
            self.reason = "what is left goes at once, down to the budget"
            return None
        ranked = self.ranked()
        share = event / self.total
        targets = {n: begun * min(1.0, self.limits[n] / begun) ** share for n, begun in self.begun.items()}
        # Below the limits the last event would have nothing left to choose.
        count = min(self._fewest(ranked, targets), max(0, self._fewest(ranked, self.limits) - 1))
        removed: dict[str, list[int]] = {}
        for name, width in self.after(ranked, count).items():
            group = self.graph.groups[name]
            if (gone := group.slices - width // group.step) > 0:
                removed[name] = sorted(np.argsort(self.importance(name), kind="stable")[:gone].tolist())
        return removed | self._followers(removed)
