"""The form that a recipe asks for, and the integers of an int8 file: chosen by measuring speed and accuracy.

Static quantisation has several schemes (types of activations and weights, one scale for a weight or one for each of its
channels). On a CPU with VNNI instructions U8S8 runs twice as fast as S8S8; TensorRT takes S8S8 alone; one scale for
each channel keeps more of the accuracy, at a price in size and now and then in time. So every scheme is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

_CALIBRATION, _BATCH = 256, 32  # training images that give the ranges of activations
_JUDGED = 1000  # images that schemes are compared on
_CLOSE = 0.005  # share of the best scheme's score that a faster one may lose
_NEAR = 1.05  # times the fastest latency: as fast, and the more accurate one is taken
_LOOKS, _WARMUP = 12, 3  # batches


def form_of(recipe: Recipe, data: DataSet) -> Form:
    """The form of the shipped file."""
    config = recipe.export
    axis = (2 if data.task == "language" else 1) if config.softmax else None
    return Form(
        precision=config.precision,
        preprocess=config.preprocess,
        mean=data.mean,
        std=data.std,
        softmax=axis,
        batch=config.batch,
        own_names=ModelName.of(recipe.model.name).file is not None,
    )


def calibration(data: DataSet, seed: int) -> list[NDArray[Any]]:
    """Inputs of the network from the training split, chosen by the seed, as batches: never from the test split."""
    chosen = some(data.train, _CALIBRATION, seed)
    size = task_of(data).batch(data.classes, data.input_shape, _BATCH)
    return [inputs.cpu().numpy() for inputs, _ in ordered(chosen, data, size)]


def judged(data: DataSet, seed: int) -> Split:
    """The images that schemes are compared on: of the validation split, or of training if there is none."""
    return some(data.validation if len(data.validation) else data.train, _JUDGED, seed)


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

    Returns:
        the scheme, and JSON values: {"chosen", "schemes": {name: {"median_ms", "onnx_bytes", "score"}}, "fp32": the
        same of the float32 file, "refused": {name: reason}}

    Raises:
        ExportError: no scheme works
    """
    paths, refused = {"fp32": source}, {}
    assert precision.convert is not None, f"{precision.name}: there is nothing to choose"
    for name, scheme in precision.schemes.items():
        path = folder / f"{name.replace(' ', '-')}.onnx"
        try:
            precision.convert(source, path, scheme, samples)
            open_session(path, provider=config.provider)
        except ProviderError:
            raise
        except (ExportError, BenchError) as error:
            refused[name] = str(error)
            continue
        paths[name] = path
    if len(paths) == 1:
        raise ExportError(f"export.precision: {precision.name}: no scheme works: {next(iter(refused.values()))}")
    found = measure_latencies(list(paths.values()), **dict(config) | {"warmup": _WARMUP, "runs": _LOOKS})
    record: dict[str, dict[str, Any]] = {
        name: {
            "median_ms": latency.median,
            "onnx_bytes": path.stat().st_size,
            "score": None if score is None else score(path),
        }
        for (name, path), latency in zip(paths.items(), found, strict=True)
    }
    plain = record.pop("fp32")
    try:
        within = _within(record, plain["score"], better, tolerance)
        chosen = _best(within or record, better, fast_first or bool(within))
    except ExportError as error:
        raise ExportError(f"export.precision: {precision.name}: {error}") from error
    return precision.schemes[chosen], {"chosen": chosen, "schemes": record, "fp32": plain, "refused": refused}


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
