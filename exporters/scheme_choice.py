"""The form that a recipe asks for, and the integers of an int8 file: chosen by measuring speed and accuracy.

Static quantisation has several schemes (types of activations and weights, one scale for a weight or one for each of its
channels). On a CPU with VNNI instructions U8S8 runs twice as fast as S8S8; TensorRT takes S8S8 alone; one scale for
each channel keeps more of the accuracy, at a price in size and now and then in time. So every scheme is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.bench import BenchError, ProviderError, measure_latencies, open_session
from compressor.data import DataSet, Split, ordered
from compressor.errors import ExportError
from compressor.exporters import Form
from compressor.recipe import BenchConfig, Recipe
from compressor.recipe.model_name import ModelName
from compressor.recipe.precision import Precision
from compressor.training.tasks import task_of

_BATCH = 32  # training images at a time that give the ranges of activations
_JUDGED = 1000  # images that schemes are compared on
_CLOSE = 0.005  # share of the best scheme's score that a faster one may lose
_NEAR = 1.05  # times the fastest latency: as fast, and the more accurate one is taken
_LOOKS, _WARMUP = 12, 3  # batches
_FASTER, _GAIN = 0.97, 0.2  # times the latency, and points: what a change must bring to be taken along


def form_of(recipe: Recipe, data: DataSet, precision: str | None = None) -> Form:
    """The form of the shipped file, in another precision than the recipe's perhaps."""
    config = recipe.export
    axis = (2 if data.task == "language" else 1) if config.softmax else None
    return Form(
        precision=precision or config.precision,
        refined=config.calibration == "auto",
        half_io=config.half_io,
        preprocess=config.preprocess,
        mean=data.mean,
        std=data.std,
        softmax=axis,
        batch=config.batch,
        own_names=ModelName.of(recipe.model.name).file is not None,
    )


def calibration(data: DataSet, seed: int, count: int) -> list[NDArray[Any]]:
    """Inputs of the network from the training split, chosen by the seed, as batches: never from the test split."""
    chosen = some(data.train, count, seed)
    size = task_of(data).batch(data.classes, data.input_shape, _BATCH)
    return [inputs.cpu().numpy() for inputs, _ in ordered(chosen, data, size)]


def judged(data: DataSet, seed: int, count: int = _JUDGED) -> Split:
    """The images that files are compared on: of the validation split, or of training if there is none."""
    return some(data.validation if len(data.validation) else data.train, count, seed)


def some(split: Split, count: int, seed: int) -> Split:
    """At most so many samples of a split, drawn by the seed."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count]
    return split.subset(order.sort().values)


def choose(
    precision: Precision,
    source: Path,
    folder: Path,
    *,
    samples: Sequence[NDArray[Any]],
    config: BenchConfig,
    score: Callable[[Path], float] | None = None,
    better: str = "higher",
    fast_first: bool = False,
    tolerance: float | None = None,
    refined: bool = False,
    sized: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Convert a float32 file in every scheme of a precision and take the best.

    Args:
        precision: one that has schemes
        source: the float32 file
        folder: for the converted ones
        samples: of the ranges of activations
        config: how they are measured, in turns
        score: of a file, on images that are not of the test split; None: speed alone decides
        better: which score is: "higher" or "lower"
        fast_first: take the most accurate of those that are within 5 % of the fastest; else only those count that lose
            at most 0.5 % of the best score
        tolerance: points that the float32 file's score may lose, see `points_lost`: schemes that lose no more come
            first
        refined: try variants of the best scheme as well, and those together that are faster or more accurate
        sized: but for those that make the file larger

    Returns:
        the scheme, and JSON values: {"chosen", "schemes": {name: {"median_ms", "onnx_bytes", "score"}}, "fp32": the
        same of the float32 file, "refused": {name: reason}}

    Raises:
        ExportError: no scheme works
    """
    assert precision.convert is not None, f"{precision.name}: there is nothing to choose"
    trials = _Trials(precision, source, folder, samples, config, score)
    trials.add(precision.schemes_for(source).values())
    if not trials.record:
        raise ExportError(f"export.precision: {precision.name}: no scheme works: {next(iter(trials.refused.values()))}")

    def best() -> str:
        try:
            within = _within(trials.record, trials.plain["score"], better, tolerance)
            return _best(within or trials.record, better, fast_first or bool(within))
        except ExportError as error:
            raise ExportError(f"export.precision: {precision.name}: {error}") from error

    chosen = best()
    if refined and precision.variants is not None:
        first, entry = trials.schemes[chosen], trials.record[chosen]
        others = precision.variants(first, source, sized=sized, scored=score is not None)
        trials.add(others, beside=chosen)
        known = trials.record
        helpful = [one for one in others if one.name in known and _helps(known[one.name], entry, better)]
        if len(helpful) > 1:
            trials.add([precision.joined(first, helpful)], beside=chosen)
        chosen = best()
    found = {"chosen": chosen, "schemes": trials.record, "fp32": trials.plain, "refused": trials.refused}
    return trials.schemes[chosen], found


class _Trials:
    """Files of a precision by several schemes, measured and scored."""

    def __init__(
        self,
        precision: Precision,
        source: Path,
        folder: Path,
        samples: Sequence[NDArray[Any]],
        config: BenchConfig,
        score: Callable[[Path], float] | None,
    ) -> None:
        self._precision, self._source, self._folder, self._samples = precision, source, folder, samples
        self._config, self._score = config, score
        self._paths: dict[str, Path] = {}
        self.schemes: dict[str, Any] = {}
        self.record: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, str] = {}
        self.plain: dict[str, Any] = {}

    def add(self, schemes: Iterable[Any], beside: str = "") -> None:
        """Convert by each of these schemes, and measure what works in turns.

        Args:
            schemes: new ones
            beside: one that was measured before and is again; what its time has become by then is taken off the others,
                for the machine may be slower a minute later. "": the float32 file is measured, for the first time
        """
        paths: dict[str, Path] = {}
        for scheme in schemes:
            if scheme.name in self.record:
                continue
            path = self._folder / f"{len(self.record) + len(self.refused) + len(paths)}.onnx"
            try:
                assert self._precision.convert is not None
                self._precision.convert(self._source, path, scheme, self._samples)
                open_session(path, provider=self._config.provider)
            except ProviderError:
                raise
            except (ExportError, BenchError) as error:
                self.refused[scheme.name] = str(error)
                continue
            paths[scheme.name], self.schemes[scheme.name] = path, scheme
        if not paths:
            return
        how = dict(self._config) | {"warmup": _WARMUP, "runs": _LOOKS}
        first, *found = measure_latencies([self._paths.get(beside, self._source), *paths.values()], **how)
        if not beside:
            self.plain = self._entry(self._source, first.median)
        drift = self.record[beside]["median_ms"] / first.median if beside else 1.0
        for (name, path), latency in zip(paths.items(), found, strict=True):
            self.record[name] = self._entry(path, latency.median * drift)
        self._paths |= paths

    def _entry(self, path: Path, median_ms: float) -> dict[str, Any]:
        score = None if self._score is None else self._score(path)
        return {"median_ms": median_ms, "onnx_bytes": path.stat().st_size, "score": score}


def _helps(entry: Mapping[str, Any], before: Mapping[str, Any], better: str) -> bool:
    """Whether a change of a scheme makes the file faster, or more accurate and hardly slower."""
    times = entry["median_ms"] / before["median_ms"]
    gained = 0.0 if entry["score"] is None else -points_lost(before["score"], entry["score"], better)
    return bool((times < _FASTER and gained > -_GAIN) or (gained >= _GAIN and times < _NEAR))


def points_lost(before: float, after: float, better: str) -> float:
    """What a score falls by: hundredths of one of which more is better; of others, per cent that it rises by."""
    return 100 * (before - after if better == "higher" else (after - before) / abs(before))


def _within(
    schemes: Mapping[str, Mapping[str, Any]], plain: float | None, better: str, tolerance: float | None
) -> dict[str, Mapping[str, Any]]:
    if plain is None or tolerance is None:
        return {}
    lost = {name: points_lost(plain, entry["score"], better) for name, entry in schemes.items()}
    return {name: entry for name, entry in schemes.items() if lost[name] <= tolerance}


def _best(schemes: Mapping[str, Mapping[str, Any]], better: str, fast_first: bool) -> str:
    def quick(name: str) -> tuple[float, int]:
        return schemes[name]["median_ms"], schemes[name]["onnx_bytes"]

    scores = {name: entry["score"] for name, entry in schemes.items()}
    if None in scores.values():
        return min(schemes, key=quick)
    sign = 1 if better == "higher" else -1
    finite = {name: sign * value for name, value in scores.items() if np.isfinite(value)}
    if not finite:
        raise ExportError("no scheme gives a finite score")
    least = max(finite.values())
    least -= _CLOSE * abs(least)
    good = [name for name, value in finite.items() if fast_first or value >= least]
    limit = _NEAR * min(schemes[name]["median_ms"] for name in good)
    return max((name for name in good if schemes[name]["median_ms"] <= limit), key=lambda name: finite[name])
