"""The gate: is a candidate slower than a base by more than is allowed?

Both models are measured here and now, in pairs (see `pairs`): stored times of one and the same model differ by up to
half between processes, which a gate on them would take for a regression.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from compressor.files import sha256_of

from .errors import BenchError
from .inputs import TensorSpec
from .machine import machine_fingerprint
from .pairs import LOOKS, Clock, Pairs, Ratio, block_interval, measure_pairs
from .turns import Conditions

__all__ = ["Comparison", "Side", "Verdict", "compare_latency", "verdict_of"]

Verdict = Literal["ok", "regression", "improvement", "inconclusive"]
EXIT_CODES: Final[Mapping[Verdict, int]] = {"ok": 0, "improvement": 0, "regression": 1, "inconclusive": 4}
_SIDE_LEVEL: Final = 0.95  # of the interval of either model's median, as elsewhere for a model alone
_MOST: Final = 10.0  # the largest regression that may be allowed


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Attributes:
        path: the file as given
        sha256: of the file (external data files are not in it)
        median_ms: milliseconds for a whole batch, by the clock of the comparison
        interval_ms: bootstrap interval of the median over the blocks, 95 %
        session_ms: median time to create the session
        inputs: name, shape and numpy dtype of each input
    """

    path: str
    sha256: str
    median_ms: float
    interval_ms: tuple[float, float]
    session_ms: float
    inputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        verdict: "regression", "ok", "improvement" or "inconclusive" (see `verdict_of`)
        ratio: how many times as long the candidate takes as the base, with an interval
        max_regression: share by which it may be slower, 0.02 for 2 %
        base: what was
        candidate: what is to be judged
        conditions: how both were run
        provider: what ran both, by its short name
        threads: intra-op threads, the calling one included
        clock: "cpu" (CPU time of the one thread that works) or "wall"
        blocks: of fresh sessions
        pairs: in all blocks together
        seconds: that the measurement took
        date: of its end, UTC, ISO 8601
        machine: fingerprint of the machine
        measured: every sample
    """

    verdict: Verdict
    ratio: Ratio
    max_regression: float
    base: Side
    candidate: Side
    conditions: Conditions
    provider: str
    threads: int
    clock: Clock
    blocks: int
    pairs: int
    seconds: float
    date: str
    machine: Mapping[str, str | int]
    measured: Pairs = field(repr=False, compare=False)

    @property
    def batch(self) -> int:
        """Inputs in one run."""
        return self.conditions.batch

    @property
    def exit_code(self) -> int:
        """What a command gives back: 0 ok or improvement, 1 regression, 4 inconclusive."""
        return EXIT_CODES[self.verdict]

    @property
    def note(self) -> str | None:
        """What the reader has to know about the inputs where they are not the same on both sides."""
        if self.base.inputs == self.candidate.inputs:
            return None
        return f"inputs differ: base {_inputs_text(self.base.inputs)}; candidate {_inputs_text(self.candidate.inputs)}"

    def sentence(self) -> str:
        """Say the verdict with its numbers in one line."""
        ratio, threads = self.ratio, f"{self.threads} thread{'s' * (self.threads != 1)}"
        clock = "CPU time, " if self.clock == "cpu" else ""
        where = f"{self.provider}, {threads}" if self.provider == "cpu" else self.provider
        line = (
            f"{self.verdict} at batch {self.batch}: {_percent(ratio.median)} ({100 * ratio.level:g} % interval "
            f"{_percent(ratio.low)} to {_percent(ratio.high)}; allowed {_percent(1 + self.max_regression)}), "
            f"median {self.base.median_ms:.4g} → {self.candidate.median_ms:.4g} ms ({clock}{where}; "
            f"{self.pairs} pairs in {self.blocks} blocks, {self.seconds:.0f} s)"
        )
        return line if self.note is None else f"{line}; {self.note}"

    def to_json(self) -> dict[str, Any]:
        """Give the record as JSON types; samples are (blocks, pairs, 2): base and candidate, milliseconds."""
        conditions = asdict(self.conditions) | {"provider": self.provider, "threads": self.threads}
        conditions["shapes"] = {name: list(shape) for name, shape in self.conditions.shapes.items()}
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "ratio": asdict(self.ratio),
            "max_regression": self.max_regression,
            "base": _side_json(self.base),
            "candidate": _side_json(self.candidate),
            **conditions,
            "clock": self.clock,
            "blocks": self.blocks,
            "pairs": self.pairs,
            "seconds": self.seconds,
            "note": self.note,
            "date": self.date,
            "machine": dict(self.machine),
            "wall_ms": self.measured.wall_ms.tolist(),
            "cpu_ms": self.measured.cpu_ms.tolist() if self.measured.cpu_ms.any() else None,
        }


def verdict_of(ratio: Ratio, max_regression: float) -> Verdict:
    """Judge a ratio by its interval.

    The whole interval above what is allowed is a regression, the whole interval within it is ok, and ok is called
    an improvement where the candidate is faster by the same factor with the whole interval. Anything else is
    inconclusive.
    """
    if ratio.low > 1 + max_regression:
        return "regression"
    if ratio.high > 1 + max_regression:
        return "inconclusive"
    return "improvement" if ratio.high < 1 / (1 + max_regression) else "ok"


def compare_latency(
    base: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    *,
    max_regression: float = 0.02,
    provider: str = "auto",
    batch: int = 100,
    threads: int | None = 1,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    cuda_graph: bool = False,
    inputs: str | None = None,
    clock: Clock = "auto",
    seed: int = 0,
    max_seconds: float = 120.0,
    progress: Callable[[int, int], None] = lambda block, most: None,
) -> Comparison:
    """Measure two ONNX files in pairs until the candidate is known to be slower than allowed, or not to be.

    It stops at the first look (8, 16, 32, 64, 128 blocks) that decides whether the allowed regression is exceeded;
    it does not go on to separate "improvement" from "ok". Each look has an interval of 99 %; a candidate exactly at the
    limit mostly stays inconclusive.

    Args:
        base: an ONNX file
        candidate: another one; the same is allowed (a test of the noise)
        max_regression: share by which the candidate may be slower, above 0 and below 10
        provider: one of `PROVIDERS`; "auto": CUDA where it really works, otherwise CPU
        batch: inputs in one run; a symbolic first axis of an input gets this size
        threads: intra-op threads; None leaves the count to ONNX Runtime, and CPU time cannot be used
        shapes: sizes for further symbolic axes, or whole shapes of inputs (see `Conditions`)
        cuda_graph: replay each model as one CUDA graph
        inputs: an .npz file with values for some inputs, by their names; None: all are drawn at random
        clock: "wall", "cpu" (one thread on the CPU only), or "auto": the latter where it can be had
        seed: of the input values, the order of the turns and the bootstrap
        max_seconds: no further block is begun after so long; the first 8 are always measured
        progress: called with the blocks done and the most there may be

    Raises:
        ProviderError: the provider asked for does not work here, or "auto" took two for these files
        BenchError: a bad argument, a bad file, or an input whose shape is not known
    """
    _check(max_regression, clock, max_seconds)
    hashes = [sha256_of(_file(path)) for path in (base, candidate)]
    conditions = Conditions(
        provider=provider,
        batch=batch,
        threads=threads,
        seed=seed,
        shapes=shapes or {},
        cuda_graph=cuda_graph,
        inputs=inputs,
    )

    def decided(pairs: Pairs) -> bool:
        return verdict_of(pairs.ratio(), max_regression) != "inconclusive"

    pairs = measure_pairs(
        base, candidate, conditions, decided, clock=clock, looks=LOOKS, max_seconds=max_seconds, progress=progress
    )
    ratio = pairs.ratio()
    sides = [_side(path, pairs, index, hashes[index]) for index, path in enumerate((base, candidate))]
    return Comparison(
        verdict=verdict_of(ratio, max_regression),
        ratio=ratio,
        max_regression=max_regression,
        base=sides[0],
        candidate=sides[1],
        conditions=conditions,
        provider=pairs.provider,
        threads=pairs.threads,
        clock=pairs.clock,
        blocks=pairs.wall_ms.shape[0],
        pairs=pairs.wall_ms.shape[0] * pairs.wall_ms.shape[1],
        seconds=pairs.seconds,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine_fingerprint(),
        measured=pairs,
    )


def _check(max_regression: float, clock: str, max_seconds: float) -> None:
    if not 0 < max_regression < _MOST:
        raise BenchError(f"max_regression={max_regression} must be above 0 and below {_MOST:g} (0.02 is 2 %)")
    if clock not in get_args(Clock):
        raise BenchError(f"clock {clock!r} is not one of {', '.join(get_args(Clock))}")
    if not max_seconds >= 0:
        raise BenchError(f"max_seconds={max_seconds} must be 0 or more")


def _file(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if not file.is_file():
        raise BenchError(f"{file} is not a file")
    return file


def _side(path: str | os.PathLike[str], pairs: Pairs, index: int, sha256: str) -> Side:
    times = pairs.times_ms[:, :, index]
    return Side(
        path=os.fspath(path),
        sha256=sha256,
        median_ms=float(np.median(times)),
        interval_ms=block_interval(times, _SIDE_LEVEL, pairs.seed),
        session_ms=float(np.median(pairs.session_ms[:, index])),
        inputs=pairs.inputs[index],
    )


def _side_json(side: Side) -> dict[str, Any]:
    inputs = [asdict(spec) | {"shape": list(spec.shape)} for spec in side.inputs]
    return asdict(side) | {"interval_ms": list(side.interval_ms), "inputs": inputs}


def _inputs_text(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {list(spec.shape)} {spec.dtype}" for spec in inputs) or "none"


def _percent(ratio: float) -> str:
    """Write a ratio as a difference: 1.02 is "+2 %"."""
    share = 100 * (ratio - 1)
    rounded = round(share, 2 if abs(share) < 10 else 1)
    return f"{rounded:+.15g} %" if rounded else "0 %"
