"""Latency of ONNX files: 20 warm-up runs, 80 measured ones at batch 100, every sample kept.

Models that are to be compared go through `measure_latencies`, where they take turns (see `turns`): sample i of every
result comes from the same round.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from compressor.files import sha256_of

from .errors import BenchError
from .inputs import TensorSpec
from .statistics import median_interval, quantiles
from .turns import Conditions, Entrant, Turns

__all__ = ["Latency", "measure_latencies", "measure_latency"]

_TIMES: Final = (
    *("mean", "median", "interval", "p90", "p99", "std", "samples"),
    *("cpu_samples", "cpu_median", "cpu_interval"),
)


@dataclass(frozen=True)
class Latency:
    """One model's latency and how it was measured; every time is in milliseconds for a whole batch.

    Attributes:
        mean: arithmetic mean of `samples`.
        median: 50th percentile of `samples`.
        interval: bootstrap interval of the median, 95 %.
        p90: 90th percentile, linear interpolation.
        p99: 99th percentile, linear interpolation.
        std: population standard deviation.
        throughput_per_s: inputs per second, batch / mean.
        batch: inputs in one run.
        provider: what ran it, by its short name.
        threads: intra-op threads, the calling one included.
        threads_given: whether the caller set `threads`; otherwise it is ONNX Runtime's default as best known.
        warmup: runs before the clock.
        runs: runs on the clock, the length of `samples`.
        samples: one time for each run, in the order of the rounds.
        cpu_samples: CPU time of each run, where one thread on the CPU does all the work; None elsewhere.
        cpu_median: 50th percentile of `cpu_samples`; None where there are none.
        cpu_interval: bootstrap interval of that median, 95 %; None where there are no samples.
        interleaved: models that took turns in each round, 1 for a model measured alone.
        seed: of the input values and the order of the turns.
        inputs: name, shape and numpy dtype of each input.
        nodes: graph nodes by the provider that took them (see `Opened.nodes`).
        cpu_ops: those that another provider left to the CPU, by operator.
        cuda_graph: whether the model was replayed as one CUDA graph.
        session_ms: time to create the session; a process's first on CUDA includes the start of CUDA itself.
        path: the file as given.
        sha256: of the file (external data files are not in it).
    """

    mean: float
    median: float
    interval: tuple[float, float]
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
    cpu_samples: tuple[float, ...] | None
    cpu_median: float | None
    cpu_interval: tuple[float, float] | None
    interleaved: int
    seed: int
    inputs: tuple[TensorSpec, ...]
    nodes: Mapping[str, int]
    cpu_ops: Mapping[str, int]
    cuda_graph: bool
    session_ms: float
    path: str
    sha256: str

    @property
    def cpu_share(self) -> float | None:
        """Share of the graph's nodes that run on the CPU, 0 to 1; None where ONNX Runtime does not report it."""
        total = sum(self.nodes.values())
        return self.nodes.get("cpu", 0) / total if total else None

    def to_json(self) -> dict[str, Any]:
        """Give the record as JSON types; times carry their unit in the key (`mean_ms`, `samples_ms`, ...)."""
        record = {f"{key}_ms" if key in _TIMES else key: value for key, value in asdict(self).items()}
        record |= {key: list(value) for key, value in record.items() if isinstance(value, tuple)}
        record["cpu_share"] = self.cpu_share
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
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    cuda_graph: bool = False,
    inputs: str | None = None,
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
        cuda_graph=cuda_graph,
        inputs=inputs,
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
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    cuda_graph: bool = False,
    inputs: str | None = None,
) -> list[Latency]:
    """Measure ONNX files side by side: in every round each runs once, in seeded random order.

    Inputs and outputs are allocated beforehand on the provider's device and bound; the clock covers the run
    and the wait for its outputs, no copy. One run more, before the warm-up, finds the outputs' shapes.

    Args:
        paths: the files; the same one twice is allowed (a test of the noise).
        provider: one of `PROVIDERS`; "auto": CUDA where it really works, otherwise CPU.
        batch: inputs in one run; a symbolic first axis of an input gets this size (see `resolve_inputs`).
        warmup: rounds before the clock, 0 or more.
        runs: rounds on the clock, 1 or more.
        threads: intra-op threads; None leaves the count to ONNX Runtime.
        seed: of the input values and the order of the turns.
        shapes: sizes for further symbolic axes, or whole shapes of inputs (see `Conditions`).
        cuda_graph: replay each model as one CUDA graph.
        inputs: an .npz file with values for some inputs, by their names; None: all are drawn at random.

    Returns:
        One record for each path, in their order; sample i of each comes from the same round.

    Raises:
        ProviderError: the provider asked for does not work here, or "auto" took several for these files.
        BenchError: a bad count, a bad file, or an input whose shape is not known (see `resolve_inputs`).
    """
    for name, value, least in (("warmup", warmup, 0), ("runs", runs, 1)):
        if value < least:
            raise BenchError(f"{name}={value} must be {least} or more")
    conditions = Conditions(
        provider=provider,
        batch=batch,
        threads=threads,
        seed=seed,
        shapes=shapes or {},
        cuda_graph=cuda_graph,
        inputs=inputs,
    )
    turns = Turns(paths, conditions)
    turns.warm_up(warmup)
    turns.run(runs)
    return [latency_of(turns, index, conditions, warmup) for index in range(len(paths))]


def latency_of(turns: Turns, index: int, conditions: Conditions, warmup: int) -> Latency:
    """Sum up the samples that one of several models has so far."""
    entrant: Entrant = turns.entrants[index]
    samples = turns.wall_ms[index]
    mean = float(np.mean(samples))
    median, p90, p99 = quantiles(samples, 0.5, 0.9, 0.99)
    cpu = tuple(turns.cpu_ms[index]) if entrant.one_thread else None
    return Latency(
        mean=mean,
        median=median,
        interval=median_interval(samples),
        p90=p90,
        p99=p99,
        std=float(np.std(samples)),
        throughput_per_s=conditions.batch / (mean / 1e3),
        batch=conditions.batch,
        provider=entrant.opened.provider,
        threads=entrant.threads,
        threads_given=conditions.threads is not None,
        warmup=warmup,
        runs=len(samples),
        samples=tuple(samples),
        cpu_samples=cpu,
        cpu_median=quantiles(cpu, 0.5)[0] if cpu else None,
        cpu_interval=median_interval(cpu) if cpu else None,
        interleaved=len(turns.entrants),
        seed=conditions.seed,
        inputs=entrant.inputs,
        nodes=entrant.opened.nodes,
        cpu_ops=entrant.opened.cpu_ops,
        cuda_graph=conditions.cuda_graph,
        session_ms=entrant.opened.create_ms,
        path=entrant.path,
        sha256=sha256_of(Path(entrant.path)),
    )
