"""Latency on the runtime as a cost: estimated from a few networks that were measured.

A measurement takes seconds, and a search asks for a cost hundreds of times. So a search works with an estimate: a model
of the network's layers, fitted to a few dozen short measurements (`compressor.costs.latency_model`), or the
multiply-adds where there is none. Between the networks measured so far, ln(milliseconds) is linear in the logarithm of
that. The network that it finds is measured,
untrained, and the search's last step is repeated with the better estimate until the network found is one that was
measured: first a quick export, in the end the very file that would be shipped. What counts against the limit is the
upper end of the interval of what was measured, and a reserve of 1.5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.costs import params_macs
from compressor.costs.latency_model import LatencyModel
from compressor.models.architecture import Architecture

if TYPE_CHECKING:
    from compressor.bench import Ratio

_AIM = 1.02  # the upper end of an interval over its middle, about: what an estimate of it adds
_RESERVE = 1.015  # how much slower a network may be when it is verified, hours later, beside other neighbours
_CLOSE = 0.97  # of the limit: a network that takes less leaves room for a larger one
_TRUSTED = 6  # measurements after which any network within the limit will do, and estimates only rise
_APART = 0.5  # in ln(size): a new measurement replaces those of other methods that are nearer
# Of ln(milliseconds) in ln(size), for networks smaller and larger than those measured.
_SLOPES_BELOW, _SLOPES_ABOVE = (0.2, 1.5), (0.8, 1.5)
_LEAP, _STEEP = math.log(4), 8.0  # no network of more than four times the measured ones is tried before smaller ones
_SLOPE, _SLOPE_OF_MODEL = 0.8, 1.0  # while only one is measured


Measure = Callable[[Architecture, float, bool], "Ratio"]


@dataclass(frozen=True)
class _Point:
    size: float  # its logarithm: of what the model predicts, or of multiply-adds
    ms: float  # ln(milliseconds), median
    family: int
    exact: bool


class LatencyCost:
    """Milliseconds of one batch of an architecture; a cost like any other.

    Args:
        measure: architecture, ratio that the decision is about, whether to export as the shipped file is → its ratio
            to the unscaled network; called by `calibrate` alone
        reference: the unscaled network
        unscaled_ms: its milliseconds
        limit_ms: what the budget allows
        size: what latencies of networks of one family rise with
        model: predicts them as shares of the unscaled network's, and takes the place of `size`
        conditions: in words; what was found under others is of another cost
        block: channels that are computed at once
    """

    def __init__(
        self,
        measure: Measure,
        reference: Architecture,
        unscaled_ms: float,
        limit_ms: float,
        size: Callable[[Architecture], float] = params_macs.macs,
        *,
        model: LatencyModel | None = None,
        conditions: str = "",
        block: int = 1,
    ) -> None:
        self.conditions, self.block = conditions, block
        self.unscaled_ms, self.limit_ms = unscaled_ms, limit_ms
        self.records: list[dict[str, Any]] = []  # every measurement, as JSON values
        self._measure, self._model, self._reference, self._plain_size = measure, model, reference, size
        self._quick: dict[str, float] = {}  # milliseconds (upper end) of quick exports
        self._exact = {reference.to_json(): unscaled_ms}  # … of files as they are shipped
        self._points = [_Point(math.log(self._size(reference)), math.log(unscaled_ms), 0, exact=True)]
        self._family = 0
        self._found = 0
        self._export = 1.0  # the shipped file's time over the quick export's

    def __call__(self, architecture: Architecture) -> float:
        """The upper end of what was measured, else an estimate of it, in milliseconds, with the reserve."""
        key = architecture.to_json()
        if key in self._exact:
            return self._exact[key]
        if key in self._quick:
            return self._quick[key] * self._export
        return self._estimate(math.log(self._size(architecture)))

    def _size(self, architecture: Architecture) -> float:
        """What the latency of networks of one family rises with."""
        if self._model is None:
            return self._plain_size(architecture)
        predicted = self._model(architecture)
        if predicted is None:  # of another form than the networks that the model was fitted to
            scale = self._model(self._reference) or 1.0
            predicted = scale * self._plain_size(architecture) / self._plain_size(self._reference)
        return max(predicted, 1e-9)

    def begin(self, least: Architecture) -> None:
        """Another search begins, whose networks may be of other shapes; its least one is measured."""
        self._family += 1
        self._found = 0
        self.measured(least)

    def measured(self, architecture: Architecture) -> float:
        """What `__call__` gives, of a network that no search found, measured unless that was done before."""
        key = architecture.to_json()
        if key not in self._exact and key not in self._quick:
            self._learn(architecture, exact=False)
        return self(architecture)

    def calibrate(self, architecture: Architecture) -> bool:
        """Measure an architecture that a search found within the limit, unless that was done before.

        Returns:
            whether it is within the limit as the shipped file would be, and leaves little of it unused, or else was
            found twice
        """
        key = architecture.to_json()
        if key in self._exact:
            return self._exact[key] <= self.limit_ms
        if key not in self._quick:
            self._found += 1
            self._learn(architecture, exact=False)
            if not self._fills(self(architecture)):
                return False
        self._learn(architecture, exact=True)
        return self._fills(self._exact[key])

    def _fills(self, ms: float) -> bool:
        return ms <= self.limit_ms and (ms >= _CLOSE * self.limit_ms or self._found > _TRUSTED)

    def to_json(self) -> dict[str, Any]:
        """What was measured, as JSON values."""
        model = None if self._model is None else self._model.to_json()
        return {
            "unscaled_ms": self.unscaled_ms,
            "limit_ms": self.limit_ms,
            "measured": self.records,
            "layer_model": model,
        }

    def _learn(self, architecture: Architecture, exact: bool) -> None:
        key = architecture.to_json()
        ratio = self._measure(architecture, self.limit_ms / self.unscaled_ms / _RESERVE, exact)
        ms = ratio.high * self.unscaled_ms * _RESERVE
        if exact and key in self._quick:
            self._export = ms / self._quick[key]
        (self._exact if exact else self._quick)[key] = ms
        median = math.log(ratio.median * self.unscaled_ms * _RESERVE)
        point = _Point(math.log(self._size(architecture)), median, self._family, exact)
        self._points = [p for p in self._points if not self._replaces(point, p)] + [point]
        self.records.append(
            {
                "macs": round(self._plain_size(architecture)),
                "ms": ratio.median * self.unscaled_ms,
                "interval_ms": [ratio.low * self.unscaled_ms, ratio.high * self.unscaled_ms],
                "exact": exact,
                "widths": list(architecture.widths.values()),
            }
        )

    def _replaces(self, new: _Point, old: _Point) -> bool:
        distance = abs(new.size - old.size)
        return distance < 1e-9 or (old.family != new.family and distance < _APART)

    def _estimate(self, size: float) -> float:
        points = sorted(self._points, key=lambda point: point.size)
        sizes = np.array([point.size for point in points])
        # Larger networks take longer: what says otherwise is noise, or another family.
        export = math.log(self._export)
        logs = np.maximum.accumulate([point.ms + (0.0 if point.exact else export) for point in points])
        log = float(np.interp(size, sizes, logs))
        if size < sizes[0]:
            log += self._slope(sizes[:2], logs[:2], *_SLOPES_BELOW) * (size - sizes[0])
        elif size > sizes[-1]:
            log += self._slope(sizes[-2:], logs[-2:], *_SLOPES_ABOVE) * (size - sizes[-1])
            log += _STEEP * max(0.0, size - sizes[-1] - _LEAP)
        return math.exp(log) * _AIM * 1.01 ** max(0, self._found - _TRUSTED)

    def _slope(self, sizes: NDArray[np.float64], logs: NDArray[np.float64], least: float, most: float) -> float:
        if len(sizes) < 2:
            return _SLOPE if self._model is None else _SLOPE_OF_MODEL
        return float(np.clip((logs[1] - logs[0]) / (sizes[1] - sizes[0]), least, most))
