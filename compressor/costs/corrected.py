"""A cost that is read off the ONNX file: estimated while a search goes on, corrected by files really exported.

An export takes seconds, and a search asks for a cost hundreds of times. So a search works with an estimate. The network
that it finds is exported, untrained; what the estimate lacked there is added to it from then on, and the search's last
step is repeated until the network found is one whose cost is known.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.recipe.cost import CostContext

if TYPE_CHECKING:
    from compressor.models.architecture import Architecture

_TRUSTED = 5  # exports after which the correction only rises and any estimate is close enough that is not too small


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
        estimate: of an architecture; what the true cost is larger by should be about the same for all
        close: by how much an estimate may be too large
    """

    def __init__(
        self, measure: Callable[[Architecture], float], estimate: Callable[[Architecture], float], close: float
    ) -> None:
        self._measure, self._estimate, self._close = measure, estimate, close
        self._known: dict[str, float] = {}
        self._offset = 0.0

    def __call__(self, architecture: Architecture) -> float:
        """The true cost where it is known, else an estimate."""
        known = self._known.get(architecture.to_json())
        return known if known is not None else self._estimate(architecture) + self._offset

    def begin(self, least: Architecture) -> None:
        """Measure the least network of a search."""
        self.calibrate(least)

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
        offset = true - self._estimate(architecture)
        self._offset = max(offset, self._offset) if len(self._known) > _TRUSTED else offset
        spare = before - true
        return spare >= 0 and (spare <= self._close or len(self._known) > _TRUSTED)
