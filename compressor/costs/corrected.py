"""A cost that is read off the ONNX file: estimated while a search goes on, corrected by files really exported.

An export takes seconds, and a search asks for a cost hundreds of times. So a search works with an estimate. The network
that it finds is exported, untrained; from then on the estimate is corrected by a line between what was measured, and
the search's last step is repeated until the network found is one whose cost is known.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.recipe.cost import CostContext

if TYPE_CHECKING:
    from compressor.models.architecture import Architecture

_TRUSTED = 5  # exports after which any estimate is close enough that is not too small, and none is below a step


def corrected(
    context: CostContext,
    measure: Callable[[Path], float],
    estimate: Callable[[Architecture], float],
    close: float,
    progress: str,
) -> Corrected:
    """A cost that is read off the file, which knows that of the unscaled network; see `Corrected`.

    Args:
        context: exports networks
        measure: the cost of a file
        estimate: of an architecture
        close: by how much an estimate may be too large
        progress: said while the unscaled network is exported
    """
    cost = Corrected(lambda architecture: context.measure_file(architecture, measure), estimate, close)
    context.progress(progress)
    cost.calibrate(context.reference)
    return cost


class Corrected:
    """A cost of an architecture like any other, see `compressor.search.problem.Calibrated`.

    Args:
        measure: exports an architecture and gives its true cost; called by `calibrate` alone
        estimate: of an architecture; the true cost should rise with it
        close: by how much an estimate may be too large
    """

    def __init__(
        self, measure: Callable[[Architecture], float], estimate: Callable[[Architecture], float], close: float
    ) -> None:
        self._measure, self._estimate, self._close = measure, estimate, close
        self._known: dict[str, float] = {}
        self._points: dict[float, float] = {}  # {estimate: true cost}, the largest of several; of this search
        self._first: tuple[float, float] | None = None  # of them, the unscaled network's
        self._found = 0  # exports of this search

    def __call__(self, architecture: Architecture) -> float:
        """The true cost where it is known, else an estimate."""
        known = self._known.get(architecture.to_json())
        return known if known is not None else self._corrected(self._estimate(architecture))

    def begin(self, least: Architecture) -> None:
        """Another search begins, whose networks may be of other shapes; its least one is measured."""
        self._points, self._found = dict([self._first] if self._first else []), 0
        self.calibrate(least)
        self._add(least)

    def measured(self, architecture: Architecture) -> float:
        """What `__call__` gives, measured unless that was done before."""
        self.calibrate(architecture)
        return self(architecture)

    def calibrate(self, architecture: Architecture) -> bool:
        """Export an architecture, unless that was done before, and correct the estimate by its true cost.

        Returns:
            whether its cost was its true cost already, or a little more: what was found within a limit is within it
        """
        key = architecture.to_json()
        if key in self._known:
            return True
        before = self(architecture)
        self._known[key] = true = self._measure(architecture)
        self._add(architecture)
        self._found += 1
        spare = before - true
        return spare >= 0 and (spare <= self._close or self._found > _TRUSTED)

    def _add(self, architecture: Architecture) -> None:
        """Correct the estimate by a network whose cost is known."""
        estimate, true = self._estimate(architecture), self._known[architecture.to_json()]
        self._points[estimate] = max(true, self._points.get(estimate, true))
        self._first = self._first or (estimate, true)

    def _corrected(self, estimate: float) -> float:
        """The true cost that goes with an estimate: on a line through the measured ones beside it."""
        if not self._points:
            return estimate
        estimates = sorted(self._points)
        true = list(itertools.accumulate((self._points[one] for one in estimates), max))
        place = bisect.bisect_left(estimates, estimate)
        if len(estimates) == 1:
            return true[0] + estimate - estimates[0]
        if 0 < place < len(estimates) and self._found > _TRUSTED:
            return true[place]  # the cost may rise in steps: no more than what is known to fit is taken
        first = min(max(place - 1, 0), len(estimates) - 2)
        run, rise = estimates[first + 1] - estimates[first], true[first + 1] - true[first]
        return true[first] + (estimate - estimates[first]) * rise / run
