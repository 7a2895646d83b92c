"""Latency of ONNX files: 20 warm-up runs, 80 measured ones at batch 100, every sample kept.

Means of one model taken minutes apart differ several times over on a busy machine, so models that are to be
compared go through `measure_latencies`: one session each, and in every round each model runs once, in random
order. Sample i of every result then comes from the same round, and slow minutes hit all alike.
"""

import hashlib
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from .errors import BenchError, ProviderError
from .inputs import TensorSpec, random_tensor, resolve_inputs
from .session import Opened, device_of, intra_op_threads, reason, timed_session

__all__ = ["Latency", "measure_latencies", "measure_latency"]


@dataclass(frozen=True)
class Latency:
    """One model's latency and how it was measured; every time is in milliseconds for a whole batch.

    Attributes:
        mean: arithmetic mean of `samples`.
        median: 50th percentile of `samples`.
        p90: 90th percentile, linear interpolation.
        p99: 99th percentile, linear interpolation.
        std: population standard deviation.
        throughput_per_s: inputs per second, batch / mean.
        batch: inputs in one run.
        provider: what ran it: "cpu", "cuda" or "tensorrt".
        threads: intra-op threads, the calling one included.
        threads_given: whether the caller set `threads`; otherwise it is ONNX Runtime's default as best known.
        warmup: runs before the clock.
        runs: runs on the clock, the length of `samples`.
        samples: one time for each run, in the order of the rounds.
        interleaved: models that took turns in each round, 1 for a model measured alone.
        seed: of the input values and the order of the turns.
        inputs: name, shape and numpy dtype of each input.
        nodes: graph nodes by the provider that took them (see `Opened.nodes`).
        session_ms: time to create the session; a process's first on CUDA includes the start of CUDA itself.
        path: the file as given.
        sha256: of the file (external data files are not in it).
    """

    mean: float
    median: float
    p90: float
    p99: float
    std: float
    throughput_per_s: float
    batch: int
    provider: str
    threads: int
    threads_given: bool
    warmup: int
    runs: int
    samples: tuple[float, ...]
    interleaved: int
    seed: int
    inputs: tuple[TensorSpec, ...]
    nodes: Mapping[str, int]
    session_ms: float
    path: str
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Give the record as JSON types; times carry their unit in the key (`mean_ms`, `samples_ms`, ...)."""
        times = ("mean", "median", "p90", "p99", "std", "samples")
        record = {f"{key}_ms" if key in times else key: value for key, value in asdict(self).items()}
        record["samples_ms"] = list(self.samples)
        record["inputs"] = [asdict(spec) | {"shape": list(spec.shape)} for spec in self.inputs]
        return record


def measure_latency(
    path: str | os.PathLike[str],
    *,
    provider: str = "auto",
    batch: int = 100,
    warmup: int = 20,
    runs: int = 80,
    threads: int | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Latency:
    """Measure one ONNX file alone; arguments and errors as `measure_latencies`."""
    return measure_latencies(
        [path],
        provider=provider,
        batch=batch,
        warmup=warmup,
        runs=runs,
        threads=threads,
        seed=seed,
        shapes=shapes,
    )[0]


def measure_latencies(
    paths: Sequence[str | os.PathLike[str]],
    *,
    provider: str = "auto",
    batch: int = 100,
    warmup: int = 20,
    runs: int = 80,
    threads: int | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> list[Latency]:
    """Measure ONNX files side by side: in every round each runs once, in seeded random order.

    Inputs and outputs are allocated beforehand on the provider's device and bound; the clock covers the run
    and the wait for its outputs, no copy. One run more, before the warm-up, finds the outputs' shapes.

    Args:
        paths: the files; the same one twice is allowed (a test of the noise).
        provider: "cpu", "cuda", "tensorrt", or "auto": CUDA where it really works, otherwise CPU.
        batch: inputs in one run; a symbolic first axis of an input gets this size.
        warmup: rounds before the clock, 0 or more.
        runs: rounds on the clock, 1 or more.
        threads: intra-op threads; None leaves the count to ONNX Runtime.
        seed: of the input values and the order of the turns.
        shapes: whole shapes by input name, for inputs with further symbolic axes or without a batch axis.

    Returns:
        One record for each path, in their order; sample i of each comes from the same round.

    Raises:
        ProviderError: the provider asked for does not work here, or "auto" took several for these files.
        BenchError: a bad count, a bad file, or an input whose shape is not known (see `resolve_inputs`).
    """
    _check_counts(paths, batch, warmup, runs)
    several = len(paths) > 1
    # While one model runs, the waiting threads of another would spin on its cores: 0.13 against 0.11 ms on
    # two cores, seen on a small network that took turns with a larger one.
    opened = [timed_session(path, provider=provider, threads=threads, stop_spinning=several) for path in paths]
    _check_same_provider(paths, opened)
    models = [_bind(os.fspath(path), one, batch, seed, shapes or {}) for path, one in zip(paths, opened, strict=True)]
    order = random.Random(seed)
    _rounds(models, warmup, order)
    measured = _rounds(models, runs, order)
    return [
        _record(model, samples, batch=batch, warmup=warmup, threads=threads, seed=seed, interleaved=len(models))
        for model, samples in zip(models, measured, strict=True)
    ]


@dataclass(frozen=True)
class _Bound:
    """A session with its inputs and outputs in place."""

    path: str
    opened: Opened
    inputs: tuple[TensorSpec, ...]
    binding: Any

    def run_ms(self) -> float:
        """Run once and return the milliseconds until the outputs are there."""
        run, binding = self.opened.session.run_with_iobinding, self.binding
        start = time.perf_counter_ns()
        run(binding)
        binding.synchronize_outputs()
        return (time.perf_counter_ns() - start) / 1e6


def _check_counts(paths: Sequence[object], batch: int, warmup: int, runs: int) -> None:
    if not paths:
        raise BenchError("paths is empty; give at least one ONNX file")
    for name, value, least in (("batch", batch, 1), ("warmup", warmup, 0), ("runs", runs, 1)):
        if value < least:
            raise BenchError(f"{name}={value} must be {least} or more")


def _check_same_provider(paths: Sequence[str | os.PathLike[str]], opened: Sequence[Opened]) -> None:
    if len({one.provider for one in opened}) > 1:
        told = ", ".join(f"{os.fspath(path)} {one.provider}" for path, one in zip(paths, opened, strict=True))
        raise ProviderError(f"provider 'auto' took different providers: {told}; name one of them for all files")


def _bind(path: str, opened: Opened, batch: int, seed: int, shapes: Mapping[str, Sequence[int]]) -> _Bound:
    """Place random inputs and fitting outputs on the session's device."""
    session, device = opened.session, device_of(opened.provider)
    specs = resolve_inputs(session, path, batch, shapes)
    # One seed for every model, so that models with the same inputs get the same values.
    rng = np.random.default_rng(seed)
    binding = session.io_binding()
    for spec in specs:
        value = ort.OrtValue.ortvalue_from_numpy(random_tensor(spec, rng), device, 0)
        binding.bind_ortvalue_input(spec.name, value)
    _bind_outputs(path, session, binding, device)
    binding.synchronize_inputs()
    return _Bound(path, opened, specs, binding)


def _bind_outputs(path: str, session: Any, binding: Any, device: str) -> None:
    """Run once with outputs that ONNX Runtime allocates, then bind those for all later runs."""
    names = [node.name for node in session.get_outputs()]
    for name in names:
        binding.bind_output(name, device, 0)
    try:
        session.run_with_iobinding(binding)
    except Exception as error:  # ONNX Runtime's errors share no narrower base class
        raise BenchError(f"{path} does not run on random inputs: {reason(error)}") from error
    for name, value in zip(names, binding.get_outputs(), strict=True):
        # Sequences and maps (scikit-learn's classifiers) have no buffer to bind: made anew in each run.
        if value.is_tensor():
            binding.bind_ortvalue_output(name, value)


def _rounds(models: Sequence[_Bound], count: int, order: random.Random) -> list[list[float]]:
    """Run every model once in each round; returns one list of milliseconds for each model."""
    samples: list[list[float]] = [[] for _ in models]
    turns = list(range(len(models)))
    for _ in range(count):
        order.shuffle(turns)
        for turn in turns:
            samples[turn].append(models[turn].run_ms())
    return samples


def _record(
    model: _Bound,
    samples: Sequence[float],
    *,
    batch: int,
    warmup: int,
    threads: int | None,
    seed: int,
    interleaved: int,
) -> Latency:
    times = np.asarray(samples)
    mean = float(times.mean())
    median, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    return Latency(
        mean=mean,
        median=median,
        p90=p90,
        p99=p99,
        std=float(times.std()),
        throughput_per_s=batch / (mean / 1e3),
        batch=batch,
        provider=model.opened.provider,
        threads=intra_op_threads(model.opened.session),
        threads_given=threads is not None,
        warmup=warmup,
        runs=len(samples),
        samples=tuple(samples),
        interleaved=interleaved,
        seed=seed,
        inputs=model.inputs,
        nodes=model.opened.nodes,
        session_ms=model.opened.create_ms,
        path=model.path,
        sha256=_sha256(Path(model.path)),
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
