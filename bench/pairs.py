"""Two models measured in pairs, to find their ratio with an interval.

A pair is one run of each, in random order. Pairs come in blocks, and every block opens both files anew: where a
session's memory happens to lie makes it up to 4 % faster or slower for as long as it lives (densenet121 at batch 1),
so pairs of one session agree with each other better than with the truth. The interval is bootstrapped over blocks.
"""

import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import BenchError
from .inputs import TensorSpec
from .turns import Conditions, Turns

__all__ = ["LEVEL", "LOOKS", "Clock", "Pairs", "Ratio", "measure_pairs", "median_alone"]

Clock = Literal["auto", "wall", "cpu"]
LOOKS: Final = (8, 16, 32, 64, 128)  # blocks after which the ratio is looked at
LEVEL: Final = 0.99  # of the interval at every look; there may be five looks, so each must be nearly sure
_RESAMPLES: Final = 2000
_CHUNK: Final = 2_000_000  # values drawn at a time
_BLOCK_SECONDS: Final = 0.25  # of measuring in a block, where 2 to 100 pairs take that long


@dataclass(frozen=True)
class Ratio:
    """How many times as long the candidate takes as the base.

    Attributes:
        median: of all pairs
        low: lower end of the bootstrap interval
        high: upper end
        level: of the interval
    """

    median: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Pairs:
    """What was measured; arrays are (blocks, pairs, 2), milliseconds of base and candidate.

    Attributes:
        wall_ms: by the clock
        cpu_ms: CPU time of the calling thread; 0 where others work too
        clock: which of the two the ratio is of: "cpu" where one thread on the CPU does all the work
        provider: short name of what ran both
        threads: intra-op threads, the calling one included
        seconds: that the measurement took, sessions included
        seed: of the bootstrap
        session_ms: (blocks, 2), time to create each session
        inputs: name, shape and dtype of each input, of base and of candidate
    """

    wall_ms: NDArray[np.float64]
    cpu_ms: NDArray[np.float64]
    clock: Clock
    provider: str
    threads: int
    seconds: float
    seed: int
    session_ms: NDArray[np.float64]
    inputs: tuple[tuple[TensorSpec, ...], ...]

    @property
    def times_ms(self) -> NDArray[np.float64]:
        """The times that the ratio is of, (blocks, pairs, 2)."""
        return self.cpu_ms if self.clock == "cpu" else self.wall_ms

    def ratio(self, level: float = LEVEL) -> Ratio:
        """The median ratio and its interval, bootstrapped over blocks (2000 resamples)."""
        times = self.times_ms
        logs = np.log(times[:, :, 1]) - np.log(times[:, :, 0])
        low, high = block_interval(logs, level, self.seed)
        return Ratio(math.exp(float(np.median(logs))), math.exp(low), math.exp(high), level)

    def candidate_ms(self, level: float = LEVEL) -> tuple[float, tuple[float, float]]:
        """The candidate's median by the clock, milliseconds, and its interval, bootstrapped over blocks."""
        times = self.wall_ms[:, :, 1]
        return float(np.median(times)), block_interval(times, level, self.seed)


def block_interval(values: NDArray[np.float64], level: float, seed: int) -> tuple[float, float]:
    """Bootstrap the median of samples (blocks, N) that are alike within a block: whole blocks are drawn, 2000 times.

    Few blocks show less than the true spread; the level is expanded as Student's t widens an interval of a mean
    (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section on the expanded percentile interval).
    """
    rng, blocks = np.random.default_rng(seed), len(values)
    rows = max(1, _CHUNK // values.size)
    medians = [
        np.median(values[rng.integers(0, blocks, (min(rows, _RESAMPLES - start), blocks))], axis=(1, 2))
        for start in range(0, _RESAMPLES, rows)
    ]
    tail = 1 - _expanded((1 + level) / 2, blocks)
    low, high = np.quantile(np.concatenate(medians), [tail, 1 - tail])
    return float(low), float(high)


def _expanded(share: float, count: int) -> float:
    """The share of a normal distribution that lies below what Student's t has below it, for the mean of `count`."""
    if count < 2:
        return 1.0
    normal, degrees = NormalDist(), count - 1
    z = normal.inv_cdf(share)
    # Student's quantile, expanded in 1 / degrees (Abramowitz and Stegun 26.7.5).
    t = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    return normal.cdf(math.sqrt(count / degrees) * t)


def median_alone(
    path: str | os.PathLike[str], conditions: Conditions, *, blocks: int = LOOKS[0], level: float = LEVEL
) -> tuple[float, tuple[float, float]]:
    """The median of one file by the clock, milliseconds, and its interval over blocks of fresh sessions."""
    alone = _Blocks((path,), conditions, "wall")
    for _ in range(blocks):
        alone.add()
    times = alone.pairs(0.0).wall_ms[:, :, 0]
    return float(np.median(times)), block_interval(times, level, conditions.seed)


def measure_pairs(
    base: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    conditions: Conditions,
    decided: Callable[[Pairs], bool],
    *,
    clock: Clock = "auto",
    looks: Sequence[int] = LOOKS,
    max_seconds: float = math.inf,
    progress: Callable[[int, int], None] = lambda block, most: None,
) -> Pairs:
    """Measure until the pairs so far decide the question, or there are no more looks or no time.

    Args:
        base: an ONNX file
        candidate: another one; the same is allowed (a test of the noise)
        conditions: how they are run; its seed orders the turns
        decided: asked after each look
        clock: "wall", "cpu" (one thread on the CPU only), or "auto": the latter where it can be had
        looks: numbers of blocks, rising
        max_seconds: no further block is begun after so long; the first look is always reached
        progress: called with the blocks done and the most there may be

    Raises:
        ProviderError: as `Turns`
        BenchError: as `Turns`; "cpu" was asked for, and the calling thread is not all that works
    """
    blocks = _Blocks((base, candidate), conditions, clock)
    begun, done = time.monotonic(), 0
    for look in looks:
        while done < look:
            if done >= looks[0] and time.monotonic() - begun > max_seconds:
                return blocks.pairs(time.monotonic() - begun)
            blocks.add()
            done += 1
            progress(done, looks[-1])
        pairs = blocks.pairs(time.monotonic() - begun)
        if decided(pairs):
            return pairs
    return pairs


class _Blocks:
    """Blocks of pairs; the first one decides how many pairs each has."""

    def __init__(self, paths: tuple[str | os.PathLike[str], ...], conditions: Conditions, clock: Clock) -> None:
        self._paths, self._conditions, self._clock = paths, conditions, clock
        self._order = random.Random(conditions.seed)
        self._size: int | None = None
        self._wall: list[NDArray[np.float64]] = []
        self._cpu: list[NDArray[np.float64]] = []
        self._session_ms: list[list[float]] = []
        self._inputs: tuple[tuple[TensorSpec, ...], ...] = ()
        self._provider, self._threads = conditions.provider, 0

    def add(self) -> None:
        # Which session is opened first decides where both lie.
        order = list(range(len(self._paths)))
        self._order.shuffle(order)
        # The values that the inputs hold stay the same: only the turns differ from block to block.
        turns = Turns(
            [self._paths[side] for side in order], replace(self._conditions, provider=self._provider), self._order
        )
        if self._size is None:
            self._begin(turns)
        assert self._size is not None
        turns.warm_up(self._size // 5)  # opening has run each once, which is warm enough where runs are long
        turns.run(self._size)
        places = np.argsort(order)
        self._wall.append(np.array(turns.wall_ms)[places].T)
        self._cpu.append(np.array(turns.cpu_ms)[places].T)
        entrants = [turns.entrants[place] for place in places]
        self._session_ms.append([entrant.opened.create_ms for entrant in entrants])
        self._inputs = tuple(entrant.inputs for entrant in entrants)

    def _begin(self, turns: Turns) -> None:
        """Decide from the first sessions what holds for all blocks."""
        first = turns.entrants[0]
        self._provider, self._threads = first.opened.provider, first.threads
        if self._clock == "cpu" and not first.one_thread:
            raise BenchError(
                f"clock 'cpu' needs provider 'cpu' with threads=1, not {first.opened.provider!r} with "
                f"{first.threads} threads; measure with clock 'wall'"
            )
        if self._clock == "auto":
            self._clock = "cpu" if first.one_thread else "wall"
        turns.warm_up(1)
        start = time.perf_counter()
        turns.warm_up(2)
        pair = (time.perf_counter() - start) / 2
        self._size = min(100, max(2, round(_BLOCK_SECONDS / pair)))

    def pairs(self, seconds: float) -> Pairs:
        return Pairs(
            wall_ms=np.array(self._wall),
            cpu_ms=np.array(self._cpu),
            clock=self._clock,
            provider=self._provider,
            threads=self._threads,
            seconds=seconds,
            seed=self._conditions.seed,
            session_ms=np.array(self._session_ms),
            inputs=self._inputs,
        )
