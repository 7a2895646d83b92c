"""The largest network of a one-parameter family whose costs all fit, exact to the channel.

A family gives real widths for a scale; whole widths are those rounded down to what each group may have. The scale is
found by bisection. A cost may fall where a width grows (two widths that become equal drop the 1×1 convolution between
them), so the scales above at which a width changes are tried too. Then single steps of one group are added while they
fit. Knows only callables; `of_widths` makes them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from compressor.costs.budget import amount
from compressor.errors import BudgetError
from compressor.models.architecture import Architecture

Widths = NDArray[np.int64]
Cost = Callable[[Sequence[int]], float]
Family = Callable[[float], NDArray[np.float64]]
UNBOUNDED = 10**9  # channels in one group: no real limit allows that
_STEPS = 80  # halvings of ln(scale): to the last bit of a float
_BREAKPOINTS = 16  # changes of a width that are tried above the scale that bisection finds
_BEYOND = 1.1  # … while no cost is more than this many times its limit
_FULL = 0.99  # of a limit: more is not looked for by exchanging steps
_EXCHANGES = 4
_STARTS = 3  # of the fitting networks found so, those that single steps are added to


def _each(value: int) -> Widths:
    return np.array(value, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Bounds:
    """The channel counts that each group may have.

    Whole multiples of `multiple` from `minimum` to `maximum`; a group whose minimum is its maximum keeps that width,
    a multiple or not.

    Attributes:
        minimum: (L,) fewest channels, or one number for all groups
        maximum: (L,) most channels, or one number
        multiple: (L,) channels in one step, or one number
    """

    minimum: Widths = field(default_factory=lambda: _each(1))
    maximum: Widths = field(default_factory=lambda: _each(UNBOUNDED))
    multiple: Widths = field(default_factory=lambda: _each(1))

    def __post_init__(self) -> None:
        if not (self.least >= 1).all() or not (self.least <= self.most).all():
            raise ValueError(f"no width is a multiple of {self.multiple} from {self.minimum} to {self.maximum}")

    def of(self, groups: int) -> Bounds:
        """The same bounds with all arrays of shape (groups,)."""
        arrays = (self.minimum, self.maximum, self.multiple)
        return Bounds(*(np.broadcast_to(array, (groups,)) for array in arrays))

    @property
    def frozen(self) -> NDArray[np.bool_]:
        """(L,) whether a group keeps its width: its minimum is its maximum."""
        return np.asarray(self.minimum == self.maximum)

    @property
    def coarse(self) -> bool:
        """Whether some group changes in steps of several channels."""
        return bool((self.multiple > 1).any())

    @property
    def least(self) -> Widths:
        """(L,) the fewest channels that a group may have: its minimum, rounded up to a multiple."""
        return np.where(self.frozen, self.minimum, -(-self.minimum // self.multiple) * self.multiple)

    @property
    def most(self) -> Widths:
        """(L,) the most channels that a group may have: its maximum, rounded down to a multiple."""
        return np.where(self.frozen, self.maximum, self.maximum // self.multiple * self.multiple)

    def whole(self, real: NDArray[np.float64]) -> Widths:
        """Real widths (L,) rounded down to allowed ones."""
        floor = np.floor(np.minimum(real, UNBOUNDED) + 1e-9).astype(np.int64)
        allowed: Widths = np.clip(floor // self.multiple * self.multiple, self.least, self.most)
        return allowed

    def grown(self, widths: Widths, group: int) -> Widths | None:
        """The widths with one step more in one group, or None if it may not grow."""
        wider = widths.copy()
        wider[group] += self.multiple[group]
        return wider if wider[group] <= self.maximum[group] else None


@dataclass(frozen=True)
class Solution:
    """What `largest_within` found.

    Attributes:
        widths: (L,) whole channel counts
        scale: the family's scale before single steps were added
        costs: {cost name: value}, each at most its limit
        one_channel: {cost name: the least that one more step of a group would add}; empty if none may grow
        binding: the limit that stops most groups from growing, of equals the one with the least relative slack; None
            if no group may grow
    """

    widths: tuple[int, ...]
    scale: float
    costs: dict[str, float]
    one_channel: dict[str, float]
    binding: str | None


def largest_within(
    costs: Mapping[str, Cost],
    limits: Mapping[str, float],
    real_widths: Family,
    low: float,
    high: float,
    bounds: Bounds | None = None,
    *,
    exchange: bool = False,
    reach: int | None = None,
) -> Solution:
    """Find the largest widths of a family within all limits (NeuralScale Algorithm 3, solved exactly).

    Args:
        costs: {name: cost of whole widths (L,)}; each should grow with the widths, but for jumps down
        limits: {name: largest allowed value}; the names are among those of `costs`
        real_widths: scale → (L,) real widths, rising with the scale
        low: a scale, above 0, to search from
        high: a scale to search to; doubled while it fits
        bounds: what widths the groups may have; None: any
        exchange: leave the family, a step of one group for steps of others, where more than 1 % of a limit is unused
        reach: exchanging moves no group by more than this many steps; None: as far as it takes

    Returns:
        widths such that every cost is at most its limit and no single group can take one more step that costs something

    Raises:
        BudgetError: even the least allowed widths exceed a limit; names the nearest value that can be met
    """
    search = _Search(costs, limits, real_widths, (bounds or Bounds()).of(len(real_widths(low))))
    search.check_feasible()
    starts = search.starts(*search.bisect(low, high))
    filled = [(scale, search.fill(widths, order)) for scale, widths in starts for order in search.orders(scale, widths)]
    scale, widths = max(filled, key=lambda found: search.fullness(found[1]))
    return search.solution(scale, search.exchange(widths, reach) if exchange else widths)


class _Search:
    """One call of `largest_within`; every network's cost is asked for once."""

    def __init__(
        self, costs: Mapping[str, Cost], limits: Mapping[str, float], real_widths: Family, bounds: Bounds
    ) -> None:
        self.limits, self.real_widths, self.bounds = limits, real_widths, bounds
        self._costs = {name: functools.cache(costs[name]) for name in limits}

    def cost(self, name: str, widths: Widths) -> float:
        return self._costs[name](tuple(widths.tolist()))

    def fits(self, widths: Widths) -> bool:
        return all(self.cost(name, widths) <= limit for name, limit in self.limits.items())

    def fullness(self, widths: Widths) -> float:
        """The largest cost as a share of its limit."""
        return max(self.cost(name, widths) / limit for name, limit in self.limits.items())

    def whole(self, scale: float) -> Widths:
        return self.bounds.whole(self.real_widths(scale))

    def check_feasible(self) -> None:
        least = self.bounds.least
        fewest = "1 channel" if (least == 1).all() else f"the fewest allowed channels ({least.min()} to {least.max()})"
        for name, limit in self.limits.items():
            nearest = self.cost(name, least)
            if nearest > limit:
                raise BudgetError(
                    f"budget.{name}: {amount(name, limit)} cannot be met: with {fewest} in every group the "
                    f"network still costs {amount(name, nearest)}"
                )

    def bisect(self, low: float, high: float) -> tuple[float, Widths]:
        """A fitting scale that ends to fit just above it, and its whole widths."""
        while self.fits(self.whole(high)):
            if (self.bounds.maximum < UNBOUNDED).all() and (self.whole(high) == self.bounds.most).all():
                return high, self.bounds.most
            if ((self.real_widths(high) >= UNBOUNDED) & (self.bounds.maximum >= UNBOUNDED)).any():
                raise BudgetError("budget: no limit bounds the network's size")
            if high > 1e300:  # the family flattens out below the limit: single steps fill what is left
                return high, self.whole(high)
            low, high = high, high * 2
        while not self.fits(self.whole(low)):
            high, low = low, low / 2
            if low < 1e-30:  # the family flattens out above the limit: start from the least network
                return low, self.bounds.least
        for _ in range(_STEPS):
            middle = math.sqrt(low) * math.sqrt(high)
            if self.fits(self.whole(middle)):
                low = middle
            else:
                high = middle
            if (self.whole(low) == self.whole(high)).all() or high / low < 1 + 1e-14:
                break
        return low, self.whole(low)

    def starts(self, scale: float, widths: Widths) -> list[tuple[float, Widths]]:
        """The fullest of the fitting networks from a scale on upwards, the fullest first."""
        found = [(scale, widths)]
        for above, wider in self._changes(scale):
            if self.fits(wider):
                found.append((above, wider))
            elif self.fullness(wider) > _BEYOND:
                break
        return sorted(found, key=lambda start: -self.fullness(start[1]))[:_STARTS]

    def _changes(self, scale: float) -> Iterator[tuple[float, Widths]]:
        """The next scales at which a width changes, and the widths from there on."""
        for _ in range(_BREAKPOINTS):
            before, step = self.whole(scale), 1e-6
            while (self.whole(scale * (1 + step)) == before).all():
                step *= 2
                if step > 1e6:  # nothing may grow
                    return
            low, high = scale, scale * (1 + step)
            while high / low > 1 + 1e-13 and low < (middle := math.sqrt(low) * math.sqrt(high)) < high:
                low, high = (middle, high) if (self.whole(middle) == before).all() else (low, middle)
            scale = high
            yield scale, self.whole(scale)

    def orders(self, scale: float, widths: Widths) -> Iterator[list[int]]:
        """Orders in which groups are offered a step: nearest to the next width first, most expensive step first."""
        distance = widths + self.bounds.multiple - self.real_widths(scale)
        yield np.argsort(distance, kind="stable").tolist()
        after = {}
        for group in range(len(widths)):
            wider = self.bounds.grown(widths, group)
            after[group] = self.fullness(wider) if wider is not None else 0.0
        yield sorted(after, key=lambda group: -after[group])

    def fill(self, widths: Widths, order: Sequence[int]) -> Widths:
        """Give single steps to groups, in this order, round after round while one fits."""
        grew = True
        while grew:
            grew = False
            for group in order:
                wider = self.bounds.grown(widths, group)
                if wider is not None and self.fits(wider) and not self.free(widths, wider):
                    widths, grew = wider, True
        return widths

    def free(self, widths: Widths, wider: Widths) -> bool:
        """Whether no limited cost changes: then none says how wide a group should be, and the family alone does."""
        return all(self.cost(name, widths) == self.cost(name, wider) for name in self.limits)

    def exchange(self, widths: Widths, reach: int | None) -> Widths:
        """Take a step from one group for steps of others, while that leaves less of a limit unused than before.

        Only where a step is so expensive that much is unused: the steps of a residual stream, say.
        """
        begun, far = widths, None if reach is None else reach * self.bounds.multiple
        for _ in range(_EXCHANGES):
            if self.fullness(widths) >= _FULL:
                break
            tried = [widths]
            for group in np.flatnonzero(widths - self.bounds.multiple >= self.bounds.least).tolist():
                fewer = widths.copy()
                fewer[group] -= self.bounds.multiple[group]
                others = [other for other in range(len(widths)) if other != group]
                tried += [self.fill(fewer, order) for order in (others, others[::-1])]
            near = [one for one in tried if far is None or (np.abs(one - begun) <= far).all()]
            best = max(near, key=self.fullness)
            if best is widths:
                break
            widths = best
        return self.fill(widths, range(len(widths)))

    def solution(self, scale: float, widths: Widths) -> Solution:
        costs = {name: self.cost(name, widths) for name in self.limits}
        grown = [wider for group in range(len(widths)) if (wider := self.bounds.grown(widths, group)) is not None]
        one_step = {}
        stops = dict.fromkeys(self.limits, 0)
        for name, limit in self.limits.items():
            after = [self.cost(name, wider) for wider in grown]
            stops[name] = sum(value > limit for value in after)
            if added := [value - costs[name] for value in after if value > costs[name]]:
                one_step[name] = min(added)
        binding = max(self.limits, key=lambda name: (stops[name], costs[name] / self.limits[name]))
        return Solution(tuple(widths.tolist()), scale, costs, one_step, binding if grown else None)


def of_widths(reference: Architecture, cost: Callable[[Architecture], float]) -> Cost:
    """A cost of whole channel counts, in the order of `reference.widths`, remembered by its argument."""
    seen: dict[tuple[int, ...], float] = {}

    def of(widths: Sequence[int]) -> float:
        key = tuple(int(width) for width in widths)
        if key not in seen:
            seen[key] = float(cost(reference.with_widths(dict(zip(reference.widths, key, strict=True)))))
        return seen[key]

    return of
