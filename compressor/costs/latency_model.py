"""The latency of a network as a sum over its layers, fitted to networks that were measured.

    t = c + Σ_l (a_l · M_l + b_l · A_l + a'_l · M'_l + b'_l · A'_l + e_l · E_l + Σ_k g_lk · max(0, W_l - W_k))

M are multiply-adds and A activations, with every width rounded up to whole blocks of channels
(`compressor.costs.channel_block`); M' and A' are those of the widths as they are, since layers of few channels may run
on kernels that know no blocks; E is A where channels had to be padded, which takes time of its own, and 0 elsewhere. W
are weights, in blocks: those of a layer that exceed a cache are read anew for every image, and as the sizes of caches
are not known, the W_k are 0, 2^16, 2^18 and 2^20 (1/4, 1 and 4 MiB). No coefficient is below zero. There are more
coefficients than measurements, so a layer's are those of its kind (convolution, pointwise, depthwise, linear) and, of
M, A and the weights beyond 1 and 4 MiB, a share of its own, which is held small (ridge).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.costs.params_macs import Load, loads
from compressor.models.architecture import Architecture

_RIDGE = 0.3
_CACHES, _LARGE = (0, 2**16, 2**18, 2**20), (2**18, 2**20)  # weights
_LEAST = 8  # measurements that a fit needs

_Both = tuple[Sequence[Load], Sequence[Load]]
Loads = Callable[[Architecture], _Both | None]


@dataclass(frozen=True)
class LatencyModel:
    """Ratio of an architecture's latency to that of the unscaled network.

    Attributes:
        loads: what an architecture's layers do, in blocks of channels and as they are
        names: of the features, see `_features`
        coefficients: (features,), at least 0
        errors: (measurements,) relative error of each, predicted by the fit to all others
    """

    loads: Loads
    names: tuple[str, ...]
    coefficients: NDArray[np.float64]
    errors: NDArray[np.float64]

    def __call__(self, architecture: Architecture) -> float | None:
        """The ratio; None where the layers of the architecture are not known one by one."""
        found = self.loads(architecture)
        if found is None:
            return None
        known = dict(zip(self.names, self.coefficients.tolist(), strict=True))
        return math.fsum(known.get(name, 0.0) * value for name, value in _features(found).items())

    @property
    def median_error(self) -> float:
        """Of the relative errors."""
        return float(np.median(np.abs(self.errors)))

    @property
    def largest_error(self) -> float:
        """Of the relative errors."""
        return float(np.abs(self.errors).max())

    def to_json(self) -> dict[str, Any]:
        """What the report tells of it."""
        return {
            "probes": len(self.errors),
            "median_error": self.median_error,
            "largest_error": self.largest_error,
        }


def fit_model(
    measured: Sequence[tuple[Architecture, float]], block: int, loads_of: Callable[..., Any] = loads
) -> LatencyModel | None:
    """Fit the model to measurements.

    Args:
        measured: architectures of one network, and their latencies as ratios to the unscaled network's
        block: channels that are computed at once
        loads_of: (architecture, block) → what its layers do, or None

    Returns:
        the model; None where there are too few measurements, or layers are not known one by one
    """

    def both(architecture: Architecture) -> _Both | None:
        padded, plain = loads_of(architecture, block), loads_of(architecture, 1)
        return None if padded is None or plain is None else (padded, plain)

    rows = [found for architecture, _ in measured if (found := both(architecture)) is not None]
    if len(rows) < max(_LEAST, len(measured)):
        return None
    features = [_features(row) for row in rows]
    names = tuple(dict.fromkeys(name for row in features for name in row))
    values = np.array([[row.get(name, 0.0) for name in names] for row in features])
    ratios = np.array([ratio for _, ratio in measured], dtype=np.float64)
    errors = np.empty(len(ratios))
    for place in range(len(ratios)):
        others = np.arange(len(ratios)) != place
        predicted = values[place] @ _coefficients(names, values[others], ratios[others])
        errors[place] = predicted / ratios[place] - 1
    return LatencyModel(both, names, _coefficients(names, values, ratios), errors)


def _features(found: _Both) -> dict[str, float]:
    """A constant, the sums of each kind of layer, and each layer by itself, whose names hold a `/`."""
    features = {"constant": 1.0}
    in_blocks, plainly = ({load.name: load for load in layers} for layers in found)
    for name in dict.fromkeys([*in_blocks, *plainly]):  # at other widths a layer may be missing
        one = in_blocks.get(name) or plainly[name]
        padded, plain = (layers.get(name, Load(name, one.kind, 0.0, 0.0)) for layers in (in_blocks, plainly))
        own = {"macs": padded.macs, "values": padded.values}
        more = {"plain macs": plain.macs, "plain values": plain.values}
        more["padding"] = padded.values if padded.values != plain.values else 0.0
        beyond = {size: max(0.0, padded.weights - size) for size in _CACHES}
        more |= {f"weights beyond {size}": amount for size, amount in beyond.items()}
        for what, amount in (own | more).items():
            kind = f"{padded.kind}:{what}"
            features[kind] = features.get(kind, 0.0) + amount
        own |= {f"weights beyond {size}": beyond[size] for size in _LARGE}
        features |= {f"{padded.name}/{what}": amount for what, amount in own.items()}
    return features


def _coefficients(
    names: Sequence[str], values: NDArray[np.float64], ratios: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Non-negative least squares of relative errors, with a ridge on the layers' own shares."""
    from scipy.optimize import nnls

    scale = np.maximum(values.mean(axis=0), 1e-30)
    own = np.array(["/" in name for name in names])
    ridge = np.diag(np.where(own, math.sqrt(_RIDGE * len(ratios)), 0.0))[own]
    rows = np.vstack([values / scale / ratios[:, None], ridge])
    found, _ = nnls(rows, np.concatenate([np.ones(len(ratios)), np.zeros(len(ridge))]), maxiter=100 * rows.shape[1])
    coefficients: NDArray[np.float64] = found / scale
    return coefficients
