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

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.costs.params_macs import Load, loads
from compressor.models.architecture import Architecture

_RIDGE = 0.3
_CACHES, _LARGE = (0, 2**16, 2**18, 2**20), (2**18, 2**20)  # weights
_AMOUNTS = (
    *("macs", "values", "plain macs", "plain values", "padding"),
    *(f"weights beyond {size}" for size in _CACHES),
)
_OWN = ("macs", "values", *(f"weights beyond {size}" for size in _LARGE))
_LEAST = 8  # measurements that a fit needs

_Both = tuple[Sequence[Load], Sequence[Load]]
Loads = Callable[[Architecture], _Both | None]


@dataclass(frozen=True, eq=False)
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
    _per_layer: dict[tuple[str, str], tuple[float, ...]] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, architecture: Architecture) -> float | None:
        """The ratio; None where the layers of the architecture are not known one by one."""
        found = self.loads(architecture)
        if found is None:
            return None
        per_layer = ((self._of_layer(name, kind), amounts) for name, kind, amounts in _layers(found))
        return self._known["constant"] + math.fsum(
            coefficient * amount for own, amounts in per_layer for coefficient, amount in zip(own, amounts, strict=True)
        )

    @functools.cached_property
    def _known(self) -> dict[str, float]:
        return dict(zip(self.names, self.coefficients.tolist(), strict=True))

    def _of_layer(self, name: str, kind: str) -> tuple[float, ...]:
        """Coefficients of what a layer does, in the order of `_AMOUNTS`: a search asks for them thousands of times."""
        if (name, kind) not in self._per_layer:
            known, own = self._known, {what: f"{name}/{what}" for what in _OWN}
            self._per_layer[name, kind] = tuple(
                known.get(f"{kind}:{what}", 0.0) + known.get(own.get(what, ""), 0.0) for what in _AMOUNTS
            )
        return self._per_layer[name, kind]

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


def _layers(found: _Both) -> Iterator[tuple[str, str, tuple[float, ...]]]:
    """Of every layer its name, its kind and what it does: `_AMOUNTS`."""
    in_blocks, plainly = ({load.name: load for load in layers} for layers in found)
    for name in in_blocks | plainly:  # at other widths a layer may be missing
        kind = (in_blocks.get(name) or plainly[name]).kind
        nothing = Load(name, kind, 0.0, 0.0)
        padded, plain = in_blocks.get(name, nothing), plainly.get(name, nothing)
        padding = padded.values if padded.values != plain.values else 0.0
        beyond = (max(0.0, padded.weights - size) for size in _CACHES)
        yield name, kind, (padded.macs, padded.values, plain.macs, plain.values, padding, *beyond)


def _features(found: _Both) -> dict[str, float]:
    """A constant, the sums of each kind of layer, and each layer by itself, whose names hold a `/`."""
    features = {"constant": 1.0}
    for name, kind, amounts in _layers(found):
        of_layer = dict(zip(_AMOUNTS, amounts, strict=True))
        for what, amount in of_layer.items():
            features[f"{kind}:{what}"] = features.get(f"{kind}:{what}", 0.0) + amount
        features |= {f"{name}/{what}": of_layer[what] for what in _OWN}
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
