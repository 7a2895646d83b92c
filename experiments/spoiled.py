"""How inputs are spoiled and outcomes counted: for `hostile.py`."""

from __future__ import annotations

import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compressor.errors import CompressorError

MARK = "executed"
LONGEST_SECONDS = 20  # of one input
_LONGEST = 1000  # characters of a sentence
_LARGEST_MB = 500  # of memory, beside that of the libraries which are imported
_KEPT_EVERY = 10.0  # seconds

TINY = {
    "model": {"name": "mlp", "width": 0.1},
    "data": {"name": "digits", "image_size": 8, "limit": 300},
    "budget": {"params": "0.5x"},
    "search": {"method": "neuralscale", "iterations": 1, "pretrain_epochs": 1, "batch_size": 32},
    "train": {"epochs": 8, "batch_size": 16},
    "bench": {"provider": "cpu", "batch": 2, "warmup": 1, "runs": 3, "threads": 1},
    "baselines": ["uniform"],
    "checkpoint_seconds": 0,
    "device": "cpu",
    "threads": 1,
}


class Payload:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, MARK))


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError("it hangs")


class Tally:
    """Counts of one kind of input.

    Args:
        marks: a file that exists once something was executed that an input contains
        keep: called with the counts so far, now and then
    """

    def __init__(self, marks: Path, keep: Callable[[dict[str, Any]], None] = lambda counts: None) -> None:
        self.marks = marks
        self.tried = self.accepted = self.refused = 0
        self.unexpected: list[str] = []
        self.longest = 0.0
        self.more: dict[str, Any] = {}
        self._keep, self._before = keep, memory_mb()
        self._begun = self._kept = time.monotonic()

    def judge(self, what: str, work: Callable[[], object]) -> None:
        """Do something that may only succeed or be refused in one sentence."""
        self.tried += 1
        before, begun = memory_mb(), time.monotonic()
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(3 * LONGEST_SECONDS)
        try:
            work()
            self.accepted += 1
        except CompressorError as error:
            self.refused += 1
            lines = str(error).splitlines()  # one for each problem of a recipe
            if not lines or not all(line.strip() and len(line) < _LONGEST for line in lines):
                self.unexpected.append(f"{what}: not one sentence: {str(error)[:300]!r}")
        except Exception as error:  # what this script is looking for
            self.unexpected.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
        finally:
            signal.alarm(0)
        if self.marks.exists():
            self.unexpected.append(f"{what}: executed what the file contains")
            self.marks.unlink()
        self.time(what, time.monotonic() - begun)
        if memory_mb() - self._before > _LARGEST_MB and memory_mb() > before:
            self.unexpected.append(f"{what}: {memory_mb() - self._before:.0f} MB of memory")
        self.keep()

    def time(self, what: str, seconds: float) -> None:
        """Note how long an input took."""
        self.longest = max(self.longest, seconds)
        if seconds > LONGEST_SECONDS:
            self.unexpected.append(f"{what}: {seconds:.0f} s")

    def keep(self, *, last: bool = False) -> None:
        """Hand over the counts, at most every few seconds."""
        if last or time.monotonic() - self._kept > _KEPT_EVERY:
            self._kept = time.monotonic()
            self._keep(self.counts())

    def counts(self) -> dict[str, Any]:
        """JSON values."""
        kept = ("tried", "accepted", "refused", "unexpected")
        return {
            **{key: getattr(self, key) for key in kept},
            "longest_seconds": round(self.longest, 1),
            "memory_mb": round(memory_mb() - self._before),
            "seconds": round(time.monotonic() - self._begun, 1),
            **self.more,
        }


def memory_mb() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """Cut, flip, insert, delete or double some bytes."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not data:
            break
        place = rng.randrange(len(data))
        kind = rng.randrange(6)
        if kind == 0:
            del data[place:]
        elif kind == 1:
            data[place] = rng.randrange(256)
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            del data[place : place + rng.randrange(1, 30)]
        elif kind == 4:
            data[place:place] = data[place : place + rng.randrange(1, 60)]
        else:
            data[place] ^= 1 << rng.randrange(8)
    return bytes(data)
