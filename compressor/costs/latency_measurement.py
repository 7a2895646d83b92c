"""Measures architectures against the unscaled network on ONNX Runtime, untrained: latency does not ask for weights.

What was measured is kept in the user's cache folder, by machine, conditions and architecture: a ratio between two
networks on one machine is steadier than milliseconds, though other work on the machine moves it by some per cent.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from compressor import __version__
from compressor.bench import Conditions, Pairs, Ratio, machine_fingerprint, measure_pairs, median_alone
from compressor.bench.turns import Turns
from compressor.costs.channel_block import channel_block
from compressor.costs.latency_model import LatencyModel
from compressor.costs.latency_probes import probed_model
from compressor.exporters import Form, export_onnx, export_probe, finish, samples_of
from compressor.exporters.layouts import probed
from compressor.exporters.scheme_choice import choose
from compressor.files import cache_folder, digest_of, keep_known, read_json, read_known, write_json
from compressor.models import build, example_input
from compressor.models.architecture import Architecture
from compressor.models.initialise import noise_like, scatter_
from compressor.recipe import BenchConfig
from compressor.recipe.precision import precisions

LOOKS = (2, 4, 8, 16, 32)  # blocks: a network far from the limit needs few
_PROBE, _FEW, _ENOUGH = 2, 4, 8  # blocks to learn from, to turn a network near the limit down, and to take it
VERIFICATION_LOOKS = (4, 8, 16, 32, 64, 128)
_PATIENCE, _PATIENCE_AT_LAST = 120.0, 300.0  # seconds, after which no further block is begun
_TRUE = 0.04  # share by which a quick export's latency may differ from the shipped file's
_PLAIN = Form()
_FORMAT = 2  # of the cache's keys and entries
_CONSTANT = 64  # values: what is smaller may be a shape rather than a weight
_FAR = 1.15  # times the limit, or less than the limit by as much
_NEAR = 1.05  # the limit over the upper end: little of the limit is left
_TURNS, _TURNS_WARM = 12, 2  # of networks side by side, which differ by multiples; …
_MOST_TURNS, _TURNS_MS = 200, 50.0  # … of small ones more, that take so long in all
_NARROW = 1.05  # upper end over lower end


class Runtime:
    """The unscaled network as a file, and what it takes to measure others beside it.

    Args:
        reference: the unscaled network
        conditions: how models are run
        opset: of shipped files
        folder: for files while it measures; what is in it may be kept for another `Runtime`
        progress: called with a sentence on what is measured
        stacked: how stacked layers are exported, see `compressor.exporters.layouts`
        form: of shipped files; the unscaled network takes the same
    """

    def __init__(
        self,
        reference: Architecture,
        conditions: Conditions,
        *,
        opset: int | None,
        folder: Path,
        progress: Callable[[str], None] = lambda text: None,
        stacked: str = "auto",
        form: Form = _PLAIN,
    ) -> None:
        self.conditions, self._stacked, self._form = conditions, stacked, form
        self._reference, self._opset, self._folder, self._progress = reference, opset, folder, progress
        folder.mkdir(parents=True, exist_ok=True)
        # Another recipe may have left its own behind.
        what = f"{reference.to_json()} {opset} {torch.__version__}" + ("" if form.plain else f" {form}")
        self._anchor = folder / f"unscaled-{_digest(what)}.onnx"

    @functools.cached_property
    def block(self) -> int:
        """Channels that the provider computes at once, see `channel_block`; a run that is resumed keeps to it."""
        known = self._folder / f"block-{_digest(repr(self.conditions))}.json"
        if not known.exists():
            self._progress("measuring how many channels are computed at once")
            write_json(known, channel_block(self.conditions))
        block: int = read_json(known)
        return block

    def unscaled_ms(self, blocks: int = _ENOUGH) -> tuple[float, float]:
        """Milliseconds of the unscaled network by the clock: median and upper end of its interval.

        Measured once for each folder: milliseconds of the same machine are others an hour later.
        """
        what = f"{self._anchor.name} {self.conditions.provider} {self.conditions.batch} {self.conditions.threads}"
        known = self._folder / f"unscaled-{_digest(what)}.json"
        if not known.exists():
            path = self._file_of_reference()
            self._progress("measuring the unscaled network")
            median, (_, high) = median_alone(path, self.conditions, blocks=blocks)
            write_json(known, {"median_ms": median, "high_ms": high})
        record = read_json(known)
        return record["median_ms"], record["high_ms"]

    def ratio(self, architecture: Architecture, limit: float, exact: bool) -> Ratio:
        """How many times as long as the unscaled network an architecture takes.

        Args:
            architecture: what to measure
            limit: the ratio that the decision is about; near it, more is measured
            exact: export as the shipped file is exported; else as fast as possible
        """
        return self._ratio(architecture, limit, exact or not self._quick_is_true)

    def probe(self, architecture: Architecture) -> float:
        """The same by a short measurement, of which many are taken."""
        return self._ratio(architecture, None, not self._quick_is_true, enough=_PROBE).median

    def side_by_side(self, architectures: Sequence[Architecture]) -> list[float]:
        """Milliseconds of networks that take turns, exported as fast as possible: of use beside each other only."""
        self._progress(f"measuring {len(architectures)} networks side by side")
        with tempfile.TemporaryDirectory(prefix="compressor-", dir=self._folder) as folder:
            paths = [Path(folder) / f"{place}.onnx" for place in range(len(architectures))]
            for architecture, path in zip(architectures, paths, strict=True):
                self._export(architecture, path, exact=False)
            turns = Turns(paths, self.conditions)
            turns.warm_up(_TURNS_WARM)
            turns.run(_TURNS)
            slowest = max(float(np.median(times)) for times in turns.wall_ms)
            turns.run(int(min(_MOST_TURNS, _TURNS_MS / slowest)))
        return [float(np.median(times)) for times in turns.wall_ms]

    def model(self, share: float, unscaled_ms: float) -> LatencyModel | None:
        """What predicts latencies from layers, see `probed_model`.

        Args:
            share: of the unscaled network's latency that a search will look for
            unscaled_ms: that latency
        """
        how = _digest(repr((self.conditions, self._opset, self._form)))
        return probed_model(self, self._reference, share, unscaled_ms, self._folder / f"probes-{how}", self._progress)

    @functools.cached_property
    def _quick_is_true(self) -> bool:
        """Whether the unscaled network takes as long exported quickly as exported as it would be shipped."""
        same = self._ratio(self._reference, None, exact=False).median
        if abs(same - 1) > _TRUE:
            self._progress(f"quick exports would take {same:.2f} times as long as shipped files: none is used")
        return abs(same - 1) <= _TRUE

    def _ratio(self, architecture: Architecture, limit: float | None, exact: bool, enough: int = _FEW) -> Ratio:
        key = f"{_digest(architecture.to_json())}-{'exact' if exact else 'quick'}"
        if (known := self._cache.get(key)) is not None and _decides(*known, limit, enough):
            return known[0]
        with tempfile.TemporaryDirectory(prefix="compressor-", dir=self._folder) as folder:
            path = Path(folder) / "candidate.onnx"
            self._export(architecture, path, exact)
            pairs = measure_pairs(
                self._file_of_reference(),
                path,
                self.conditions,
                lambda so_far: _decides(so_far.ratio(), len(so_far.wall_ms), limit, enough),
                looks=LOOKS,
                max_seconds=_PATIENCE,
            )
        ratio = pairs.ratio()
        self._cache.put(key, ratio, len(pairs.wall_ms))
        self._progress(f"measured {architecture.model}: {ratio.median:.3f} of the unscaled network's latency")
        return ratio

    def verify(self, path: Path, limit_ms: float, share: float | None) -> dict[str, Any]:
        """Measure a shipped file beside the unscaled network until it is within its limit or not.

        Args:
            path: the file
            limit_ms: of a batch
            share: the limit as a share of the unscaled network's latency, which then decides

        Returns:
            JSON values: verdict ("met", "missed" or "inconclusive"), cost_ms (the upper end of the interval, which
            is what a budget counts), medians, intervals and how they were measured
        """

        def judge(pairs: Pairs) -> str:
            ratio = pairs.ratio()
            low, high = (ratio.low, ratio.high) if share is not None else pairs.candidate_ms()[1]
            limit = limit_ms if share is None else share
            return "met" if high <= limit else "missed" if low > limit else "inconclusive"

        pairs = measure_pairs(
            self._file_of_reference(),
            path,
            self.conditions,
            lambda so_far: judge(so_far) != "inconclusive",
            looks=VERIFICATION_LOOKS,
            max_seconds=_PATIENCE_AT_LAST,
            progress=lambda done, most: self._progress(f"verifying: block {done} of at most {most}"),
        )
        ratio, (median, interval) = pairs.ratio(), pairs.candidate_ms()
        return {
            "verdict": judge(pairs),
            "cost_ms": interval[1] if share is None else ratio.high / share * limit_ms,
            "limit_ms": limit_ms,
            "share": share,
            "median_ms": median,
            "interval_ms": list(interval),
            "ratio": asdict(ratio),
            "unscaled_ms": float(np.median(pairs.wall_ms[:, :, 0])),
            "clock": pairs.clock,
            "blocks": pairs.wall_ms.shape[0],
            "pairs": pairs.wall_ms.shape[0] * pairs.wall_ms.shape[1],
            "seconds": pairs.seconds,
            "batch": self.conditions.batch,
            "provider": pairs.provider,
            "threads": pairs.threads,
        }

    def _file_of_reference(self) -> Path:
        if not self._anchor.exists():
            self._progress("exporting the unscaled network")
            self._export(self._reference, self._anchor, exact=True)
        return self._anchor

    def _export(self, architecture: Architecture, path: Path, exact: bool) -> None:
        model = build(architecture)
        scatter_(model)
        model = probed(model.eval(), architecture, self._stacked, self.conditions)
        inputs = noise_like(example_input(architecture))
        if exact:
            export_onnx(model, path, [inputs], opset=self._opset, tolerance=float("inf"))
        else:
            export_probe(model, path, inputs, opset=self._opset)
        samples = samples_of(inputs)
        finish(path, path, self._form, self._scheme(path, samples), samples)

    def _scheme(self, path: Path, samples: Sequence[NDArray[Any]]) -> Any:
        """The precision's scheme with which the unscaled network, exported first, runs fastest; None if it has none."""
        precision = precisions()[self._form.precision]
        if not precision.schemes:
            return None
        known = self._anchor.with_suffix(".json")
        if not known.exists():
            self._progress(f"measuring which schemes of {precision.name} are fast")
            conditions = self.conditions
            config = BenchConfig(provider=conditions.provider, batch=conditions.batch, threads=conditions.threads)
            with tempfile.TemporaryDirectory(prefix="compressor-", dir=self._folder) as folder:
                _, record = choose(
                    precision, path, Path(folder), samples=samples, config=config, refined=self._form.refined
                )
            write_json(known, record)
        return precision.named(read_json(known)["chosen"])

    @functools.cached_property
    def _cache(self) -> _Cache:
        # What the network computes is in its file: the user's code or another version of a library may have changed it.
        what = (_FORMAT, __version__, self._reference.to_json(), _graph_digest(self._file_of_reference()))
        how = (
            self.conditions.provider,
            self.conditions.batch,
            self.conditions.threads,
            self._opset,
            self._stacked,
            torch.__version__,
            *(() if self._form.plain else (repr(self._form),)),
        )
        name = f"{machine_fingerprint()['id']}-{_digest(repr((what, how)))}.json"
        return _Cache(cache_folder() / "latency" / name, self._progress)


class _Cache:
    """Ratios by key, in a file that may be missing, damaged or not to be written: then they are measured."""

    def __init__(self, path: Path, progress: Callable[[str], None]) -> None:
        self._path, self._progress = path, progress
        self._known = read_known(path)

    def get(self, key: str) -> tuple[Ratio, int] | None:
        entry = self._known.get(key) or {}
        try:
            numbers = [float(entry[name]) for name in ("median", "low", "high", "level")]
            return Ratio(*numbers), int(entry["blocks"])
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, key: str, ratio: Ratio, blocks: int) -> None:
        self._known[key] = asdict(ratio) | {"blocks": blocks}
        if (error := keep_known(self._path, self._known)) is not None:
            self._progress(f"what was measured is not kept for other runs: {error}")


def _graph_digest(path: Path) -> str:
    """Tell one network from another by its file, whatever its weights are."""
    proto = onnx.load_model(path)
    for weight in proto.graph.initializer:
        if len(weight.dims) > 0 and math.prod(weight.dims) > _CONSTANT:
            weight.ClearField("raw_data")
    return _digest(proto.SerializeToString(deterministic=True).hex())


def _decides(ratio: Ratio, blocks: int, limit: float | None, enough: int = _FEW) -> bool:
    """Whether a ratio is known well enough to go on; without a limit, so many blocks are enough."""
    if limit is None:
        return blocks >= enough
    if ratio.low > _FAR * limit or ratio.high < limit / _FAR:
        return True
    if blocks < _FEW:
        return False
    if ratio.low > limit or _NEAR * ratio.high < limit:
        return True
    # Near the limit, the interval must be narrow: it may only be its width that fills the limit.
    return blocks >= _ENOUGH and ratio.high <= limit and ratio.high < _NARROW * ratio.low


def _digest(text: str) -> str:
    return digest_of(text, 24)
