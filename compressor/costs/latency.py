"""Latency on the runtime as a cost: estimated from a few networks that were measured.

A measurement takes seconds, and a search asks for a cost hundreds of times. So a search works with an estimate: a model
of the network's layers, fitted to a few dozen short measurements (`compressor.costs.latency_model`), times what it was
off by at the networks measured since, the more the nearer these are. Where there is no model, ln(milliseconds) is
linear in the logarithm of the multiply-adds between the networks measured so far. The network that a search finds is
measured, untrained, and the search's last step is repeated with the better estimate until the network found is one that
was measured: first a quick export, in the end the very file that would be shipped. What counts against the limit is the
upper end of the interval of what was measured, and a reserve of 1.5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
_SLOPE = 0.8  # while only one is measured
# Of what the model is off by, in ln: how much it varies for all networks alike, and from one to another; the distance,
# a mean of |ln(width / width)| over the groups, over which that changes; how much measurements scatter.
_SHARED, _OWN, _FAR, _SCATTER = 0.05, 0.05, 0.3, 0.005


Measure = Callable[[Architecture, float, bool], "Ratio"]


@dataclass(frozen=True)
class _Point:
    size: float  # its logarithm: of multiply-adds
    ms: float  # ln(milliseconds), median
    family: int
    exact: bool
    widths: Mapping[str, float]  # their logarithms
    off: float | None  # ln(milliseconds / what the model predicts); None: it predicts nothing


class LatencyCost:
    """Milliseconds of one batch of an architecture; a cost like any other.

    Args:
        measure: architecture, ratio that the decision is about, whether to export as the shipped file is → its ratio
            to the unscaled network; called by `calibrate` alone
        reference: the unscaled network
        unscaled_ms: its milliseconds
        limit_ms: what the budget allows
        size: what latencies of networks of one family rise with
        model: predicts them as shares of the unscaled network's, and takes the place of `size` where it can
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
        self._measure, self._model, self._size = measure, model, size
        self._quick: dict[str, float] = {}  # milliseconds (upper end) of quick exports
        self._exact = {reference.to_json(): unscaled_ms}  # … of files as they are shipped
        self._family = 0
        self._points = [self._point(reference, math.log(unscaled_ms), exact=True)]
        self._found = 0
        self._kriged: NDArray[np.float64] | None = None  # of the points with `off`, see `_off`
        self._export = 1.0  # the shipped file's time over the quick export's

    def __call__(self, architecture: Architecture) -> float:
        """The upper end of what was measured, else an estimate of it, in milliseconds, with the reserve."""
        key = architecture.to_json()
        if key in self._exact:
            return self._exact[key]
        if key in self._quick:
            return self._quick[key] * self._export
        predicted = self._predicted(architecture)
        size = math.log(max(1e-9, self._size(architecture)))
        log = self._on_line(size) if predicted is None else predicted + self._off(architecture)
        log += _STEEP * max(0.0, size - max(point.size for point in self._points) - _LEAP)
        return math.exp(log) * _AIM * 1.01 ** max(0, self._found - _TRUSTED)

    def _predicted(self, architecture: Architecture) -> float | None:
        """The logarithm of the milliseconds by the model; None where there is none for such a network."""
        share = None if self._model is None else self._model(architecture)
        return None if share is None or share <= 0 else math.log(share * self.unscaled_ms)

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
        self._points.append(self._point(architecture, median, exact=exact))
        self._kriged = None
        self.records.append(
            {
                "macs": round(self._size(architecture)),
                "ms": ratio.median * self.unscaled_ms,
                "interval_ms": [ratio.low * self.unscaled_ms, ratio.high * self.unscaled_ms],
                "exact": exact,
                "widths": list(architecture.widths.values()),
            }
        )

    def _point(self, architecture: Architecture, ms: float, *, exact: bool) -> _Point:
        predicted, size = self._predicted(architecture), math.log(max(1e-9, self._size(architecture)))
        off = None if predicted is None else ms - predicted
        return _Point(size, ms, self._family, exact, _logs(architecture), off)

    def _off(self, architecture: Architecture) -> float:
        """The logarithm of what the model is off by at an architecture: kriging between the measured networks."""
        points, widths = [point for point in self._points if point.off is not None], _logs(architecture)
        if self._kriged is None:
            off = np.array([(point.off or 0.0) + self._export_of(point) for point in points])
            between = np.array([[_alike(one.widths, other.widths) for other in points] for one in points])
            self._kriged = np.linalg.solve(between + _SCATTER**2 * np.eye(len(points)), off)
        return math.fsum(_alike(point.widths, widths) * float(k) for point, k in zip(points, self._kriged, strict=True))

    def _export_of(self, point: _Point) -> float:
        """What the shipped file of a measured network takes beside the measured one, in ln."""
        return 0.0 if point.exact else math.log(self._export)

    def _on_line(self, size: float) -> float:
        """The logarithm of the milliseconds of a network by its multiply-adds."""
        points: list[_Point] = []  # the last of those that are alike, and those of this search before others
        for new in self._points:
            points = [old for old in points if not _replaces(new, old)] + [new]
        points.sort(key=lambda point: point.size)
        sizes = np.array([point.size for point in points])
        # Larger networks take longer: what says otherwise is noise, or another family.
        logs = np.maximum.accumulate([point.ms + self._export_of(point) for point in points])
        log = float(np.interp(size, sizes, logs))
        if size < sizes[0]:
            log += _slope(sizes[:2], logs[:2], *_SLOPES_BELOW) * (size - sizes[0])
        elif size > sizes[-1]:
            log += _slope(sizes[-2:], logs[-2:], *_SLOPES_ABOVE) * (size - sizes[-1])
        return log


def _logs(architecture: Architecture) -> dict[str, float]:
    """Logarithms of the widths."""
    return {name: math.log(width) for name, width in architecture.widths.items()}


def _alike(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Covariance of what the model is off by at two networks; those of other groups have little in common."""
    if one.keys() != other.keys():
        return _SHARED**2
    distance = math.fsum(abs(value - other[name]) for name, value in one.items()) / len(one)
    return _SHARED**2 + _OWN**2 * math.exp(-distance / _FAR)


def _replaces(new: _Point, old: _Point) -> bool:
    distance = abs(new.size - old.size)
    return distance < 1e-9 or (old.family != new.family and distance < _APART)


def _slope(sizes: NDArray[np.float64], logs: NDArray[np.float64], least: float, most: float) -> float:
    if len(sizes) < 2:
        return _SLOPE
    return float(np.clip((logs[1] - logs[0]) / (sizes[1] - sizes[0]), least, most))
