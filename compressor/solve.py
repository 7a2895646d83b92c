"""The largest network of a one-parameter family whose costs all fit, exact to the channel.

A family gives real widths for a scale; whole widths are those rounded down. The scale is found by bisection (exact
where the costs never fall while it grows), then single channels are added while they fit. Knows only callables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.errors import BudgetError

Widths = NDArray[np.int64]
Cost = Callable[[Sequence[int]], float]
_UNBOUNDED = 10**9  # channels in one group: no real limit allows that
_STEPS = 80  # halvings of ln(scale): to the last bit of a float


@dataclass(frozen=True)
class Solution:
    """What `largest_within` found.

    Attributes:
        widths: (L,) whole channel counts
        scale: the family's scale before single channels were added
        costs: {cost name: value}, each at most its limit
        one_channel: {cost name: what one more channel of the cheapest group would add}
    """

    widths: tuple[int, ...]
    scale: float
    costs: dict[str, float]
    one_channel: dict[str, float]


def largest_within(
    costs: Mapping[str, Cost],
    limits: Mapping[str, float],
    real_widths: Callable[[float], NDArray[np.float64]],
    low: float,
    high: float,
    *,
    minimum: int = 1,
) -> Solution:
    """Find the largest widths of a family within all limits (NeuralScale Algorithm 3, solved exactly).

    Args:
        costs: {name: cost of whole widths (L,)}; each must not fall when a width grows
        limits: {name: largest allowed value}; the names are among those of `costs`
        real_widths: scale → (L,) real widths, rising with the scale
        low: a scale, above 0, to search from
        high: a scale to search to; doubled while it fits
        minimum: fewest channels of a group

    Returns:
        widths such that every cost is at most its limit and no group can take one more channel

    Raises:
        BudgetError: even `minimum` channels everywhere exceed a limit; names the nearest value that can be met
    """

    def whole(scale: float) -> Widths:
        real = real_widths(scale)
        return np.maximum(np.floor(np.minimum(real, _UNBOUNDED) + 1e-9), minimum).astype(np.int64)

    def fits(widths: Widths) -> bool:
        return all(costs[name](widths.tolist()) <= limit for name, limit in limits.items())

    least = np.full(len(real_widths(low)), minimum, dtype=np.int64)
    _check_feasible(costs, limits, least, minimum)
    scale, widths = _bisect(fits, whole, low, high, least)
    widths = _add_channels(fits, real_widths, widths, scale)
    values = {name: costs[name](widths.tolist()) for name in limits}
    return Solution(tuple(widths.tolist()), scale, values, _one_channel(costs, limits, widths))


def _check_feasible(costs: Mapping[str, Cost], limits: Mapping[str, float], least: Widths, minimum: int) -> None:
    for name, limit in limits.items():
        nearest = costs[name](least.tolist())
        if nearest > limit:
            raise BudgetError(
                f"budget.{name}: {limit:,.0f} cannot be met: with {minimum} channel(s) in every group the "
                f"network still costs {nearest:,.0f}, the smallest possible value"
            )


def _bisect(
    fits: Callable[[Widths], bool],
    whole: Callable[[float], Widths],
    low: float,
    high: float,
    least: Widths,
) -> tuple[float, Widths]:
    """The largest fitting scale, and its whole widths."""
    while fits(whole(high)):
        if (whole(high) == _UNBOUNDED).any():
            raise BudgetError("budget: no limit bounds the network's size")
        low, high = high, high * 2
    while not fits(whole(low)):
        high, low = low, low / 2
        if low < 1e-30:  # the family flattens out above the limit: start from the least network
            return low, least
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        if fits(whole(middle)):
            low = middle
        else:
            high = middle
        if (whole(low) == whole(high)).all() or high / low < 1 + 1e-14:
            break
    return low, whole(low)


def _add_channels(
    fits: Callable[[Widths], bool],
    real_widths: Callable[[float], NDArray[np.float64]],
    widths: Widths,
    scale: float,
) -> Widths:
    """Give single channels to groups while that fits, the group nearest to its next whole channel first."""
    widths = widths.copy()
    grew = True
    while grew:
        grew = False
        for group in np.argsort(widths + 1 - real_widths(scale), kind="stable"):
            widths[group] += 1
            if fits(widths):
                grew = True
            else:
                widths[group] -= 1
    return widths


def _one_channel(costs: Mapping[str, Cost], limits: Mapping[str, float], widths: Widths) -> dict[str, float]:
    """For each cost, the least that one more channel in any group adds."""
    more = [[w + (g == group) for g, w in enumerate(widths.tolist())] for group in range(len(widths))]
    return {name: min(costs[name](candidate) for candidate in more) - costs[name](widths.tolist()) for name in limits}
