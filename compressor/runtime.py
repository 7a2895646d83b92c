"""Measures architectures against the unscaled network on ONNX Runtime, untrained: latency does not ask for weights.

What was measured is kept in the user's cache folder, by machine, conditions and architecture: a ratio between two
networks on one machine stays what it is, other than milliseconds.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.architecture import Architecture
from compressor.bench import Conditions, Pairs, Ratio, machine_fingerprint, measure_pairs, median_alone
from compressor.exporters import export_onnx, export_probe
from compressor.files import read_json, write_json
from compressor.initialise import scatter_
from compressor.models import build, example_input

LOOKS = (2, 4, 8, 16, 32)  # blocks: a network far from the limit needs few
_FEW, _ENOUGH = 4, 8  # blocks to turn a network near the limit down, and to take it
_FAR = 1.15  # times the limit, or less than the limit by as much
_NEAR = 1.05  # the limit over the upper end: little of the limit is left
_NARROW = 1.05  # upper end over lower end


class Runtime:
    """The unscaled network as a file, and what it takes to measure others beside it.

    Args:
        reference: the unscaled network
        conditions: how models are run
        opset: of shipped files
        folder: for files while it measures; what is in it may be kept for another `Runtime`
        tell: told what is measured
    """

    def __init__(
        self,
        reference: Architecture,
        conditions: Conditions,
        opset: int,
        folder: Path,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.conditions = conditions
        self._opset, self._folder, self._tell = opset, folder, tell
        folder.mkdir(parents=True, exist_ok=True)
        self._anchor = folder / "unscaled.onnx"
        self._reference = reference
        self._cache = _cache_file(reference, conditions, opset)
        self._known: dict[str, Any] = read_json(self._cache) if self._cache.exists() else {}

    def unit_ms(self, blocks: int = _ENOUGH) -> tuple[float, float]:
        """Milliseconds of the unscaled network by the clock: median and upper end of its interval.

        Measured once for each folder: milliseconds of the same machine are others an hour later.
        """
        known = self._folder / "unscaled.json"
        if not known.exists():
            path = self._file_of_reference()
            self._tell("measuring the unscaled network")
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
        key = f"{_digest(architecture.to_json())}-{'exact' if exact else 'quick'}"
        if (known := self._known.get(key)) is not None:
            ratio = Ratio(*(known[name] for name in ("median", "low", "high", "level")))
            if _decides(ratio, known["blocks"], limit):
                return ratio
        with tempfile.TemporaryDirectory(prefix="compressor-", dir=self._folder) as folder:
            path = Path(folder) / "candidate.onnx"
            self._export(architecture, path, exact)
            pairs = measure_pairs(
                self._file_of_reference(),
                path,
                self.conditions,
                lambda so_far: _decides(so_far.ratio(), len(so_far.wall_ms), limit),
                looks=LOOKS,
            )
        ratio = pairs.ratio()
        self._known[key] = asdict(ratio) | {"blocks": len(pairs.wall_ms), "clock": pairs.clock}
        self._save()
        self._tell(f"measured {architecture.model}: {ratio.median:.3f} of the unscaled network's latency")
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
            self._file_of_reference(), path, self.conditions, lambda so_far: judge(so_far) != "inconclusive"
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
            self._tell("exporting the unscaled network")
            self._export(self._reference, self._anchor, exact=True)
        return self._anchor

    def _export(self, architecture: Architecture, path: Path, exact: bool) -> None:
        model = build(architecture)
        scatter_(model)
        images = torch.randn(example_input(architecture).shape, generator=torch.Generator().manual_seed(0))
        if exact:
            export_onnx(model, path, [images], opset=self._opset, tolerance=float("inf"))
        else:
            export_probe(model, path, images, opset=self._opset)

    def _save(self) -> None:
        # Another run may have written meanwhile; what it measured is as good.
        others = read_json(self._cache) if self._cache.exists() else {}
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._cache, others | self._known)


def _decides(ratio: Ratio, blocks: int, limit: float) -> bool:
    """Whether a ratio is known well enough to go on."""
    if ratio.low > _FAR * limit or ratio.high < limit / _FAR:
        return True
    if blocks < _FEW:
        return False
    if ratio.low > limit or _NEAR * ratio.high < limit:
        return True
    # Near the limit, the interval must be narrow: it may only be its width that fills the limit.
    return blocks >= _ENOUGH and ratio.high <= limit and ratio.high < _NARROW * ratio.low


def cache_folder() -> Path:
    """Where measurements are kept between runs: $COMPRESSOR_CACHE, else `compressor` in the user's cache folder."""
    if own := os.environ.get("COMPRESSOR_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "compressor"


def _cache_file(reference: Architecture, conditions: Conditions, opset: int) -> Path:
    machine = machine_fingerprint()["id"]
    what = (reference.to_json(), conditions.provider, conditions.batch, conditions.threads, opset, torch.__version__)
    return cache_folder() / "latency" / f"{machine}-{_digest(repr(what))}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
