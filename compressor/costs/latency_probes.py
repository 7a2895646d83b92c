"""The networks that a latency model is fitted to: drawn where a search will go, measured within a budget of time."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from compressor.costs.latency_model import LatencyModel, fit_model
from compressor.costs.params_macs import loads, macs
from compressor.errors import CompressorError
from compressor.files import digest_of, read_json, write_json
from compressor.models import steps
from compressor.models.architecture import Architecture

SECONDS, USUAL_MS = 60.0, 50.0  # of measuring, for networks of up to so many milliseconds; longer in proportion
_FEWEST, _PER_GROUP, _MOST = 12, 2, 48  # probes
_ALIGNED = 4  # channels: finer than any block, so that its effect is seen
_WIDE = 16  # narrower groups change in steps of one channel
_SPREAD = 0.35  # of ln(width) around the common scale
_EQUAL = 1e-3  # relative errors that differ by less are the same
_WIDEST = 1.5  # times the unscaled width


class Probe(Protocol):
    """The part of `compressor.costs.latency_measurement.Runtime` that probing uses."""

    @property
    def block(self) -> int:
        """Channels that are computed at once."""

    def probe(self, architecture: Architecture) -> float:
        """Ratio of an architecture's latency to the unscaled network's, measured for a moment."""


def probed_model(
    runtime: Probe,
    reference: Architecture,
    share: float,
    unscaled_ms: float,
    folder: Path,
    progress: Callable[[str], None] = lambda text: None,
) -> LatencyModel | None:
    """Measure a few dozen networks, and fit a model to them.

    Args:
        runtime: measures
        reference: the unscaled network
        share: of its latency that the search will look for
        unscaled_ms: its latency
        folder: keeps what was measured under the conditions of `runtime`: a search that is resumed goes by the same
            model
        progress: called with a sentence

    Returns:
        the model; None where latency does not follow from layers, or a line in the multiply-adds is as good
    """
    if loads(reference, runtime.block) is None:
        return None
    wanted = min(_MOST, _FEWEST + _PER_GROUP * len(reference.widths))
    allowed = SECONDS * max(1.0, unscaled_ms / USUAL_MS)
    lowest = 2.0 ** math.floor(math.log2(min(1.0, share) ** 0.6 / 1.5))  # few such: searches share what is measured
    networks = draw(reference, lowest, wanted, runtime.block)
    folder.mkdir(parents=True, exist_ok=True)
    key = repr([network.to_json() for network in networks])
    kept = folder / f"{digest_of(key, 16)}.json"
    known: dict[str, Any] = read_json(kept) if kept.exists() else {"ratios": [], "seconds": 0.0}
    ratios, spent = list(known["ratios"]), float(known["seconds"])
    while len(ratios) < len(networks) and spent + spent / max(1, len(ratios)) < allowed:  # as long as another one fits
        progress(f"measuring networks to estimate latency by: {len(ratios) + 1} of {len(networks)}")
        begun = time.monotonic()
        try:
            ratios.append(runtime.probe(networks[len(ratios)]))
        except CompressorError:  # one that cannot be built or exported teaches nothing
            ratios.append(None)
        spent += time.monotonic() - begun
        write_json(kept, {"ratios": ratios, "seconds": spent})
    measured = [(network, ratio) for network, ratio in zip(networks, ratios, strict=False) if ratio is not None]
    model = fit_model(measured, runtime.block)
    better = model is not None and model.median_error < _error_of_line(measured) - _EQUAL
    return model if better else None


def _error_of_line(measured: Sequence[tuple[Architecture, float]]) -> float:
    """Median relative error of a line in the logarithms of multiply-adds and latency, each predicted by the others."""
    sizes = np.log([max(1, macs(network)) for network, _ in measured])
    ratios = np.log([ratio for _, ratio in measured])
    errors = []
    for place in range(len(ratios)):
        others = np.arange(len(ratios)) != place
        slope, offset = np.polyfit(sizes[others], ratios[others], 1)
        errors.append(abs(math.exp(offset + slope * sizes[place] - ratios[place]) - 1))
    return float(np.median(errors))


def draw(reference: Architecture, lowest: float, count: int, block: int = 1) -> list[Architecture]:
    """Networks whose widths scatter around common scales, the unscaled one among them.

    Every other one has whole blocks of channels where groups are wide enough, as what a search finds has: such are
    faster for their size.

    Args:
        reference: the unscaled network
        lowest: scale of the narrowest networks
        count: of networks
        block: channels that are computed at once
    """
    rng, own = random.Random(0), steps(reference)
    found = {reference.to_json(): reference}
    for place in range(1, 4 * count):
        scale = lowest ** ((place * 0.618034) % 1.0)  # evenly, whatever the count
        widths = {}
        for name, width in reference.widths.items():
            step = math.lcm(own.get(name, 1), _ALIGNED if width >= _WIDE else 1)
            if place % 2 and width >= 2 * math.lcm(step, block):
                step = math.lcm(step, block)
            most = max(step, math.floor(_WIDEST * width / step) * step)
            drawn = round(width * scale * math.exp(rng.gauss(0, _SPREAD)) / step) * step
            widths[name] = min(most, max(step, drawn))
        network = reference.with_widths(widths)
        found.setdefault(network.to_json(), network)
        if len(found) == count:
            break
    return list(found.values())
