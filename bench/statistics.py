"""Medians and how well they are known."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["median_interval"]

_RESAMPLES: Final = 2000
_CHUNK: Final = 1_000_000  # values drawn at a time


def median_interval(values: ArrayLike, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap the median: the percentile interval over 2000 resamples.

    Args:
        values: (N,) samples, N at least 1
        level: share of the bootstrap medians inside the interval, between 0 and 1
        seed: of the resampling

    Returns:
        lower and upper end, in the unit of the samples; both are the sample itself where there is one
    """
    samples, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(samples))
    medians = [
        np.median(samples[rng.integers(0, len(samples), (min(rows, _RESAMPLES - start), len(samples)))], axis=1)
        for start in range(0, _RESAMPLES, rows)
    ]
    low, high = np.quantile(np.concatenate(medians), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def quantiles(values: Sequence[float], *shares: float) -> list[float]:
    """Give quantiles of samples by linear interpolation."""
    return [float(value) for value in np.quantile(np.asarray(values), shares)]
