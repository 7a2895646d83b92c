"""How inputs are spoiled and outcomes counted: for `hostile.py`."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compressor.errors import CompressorError

MARK = "executed"
_LONGEST = 1000  # characters of a sentence


class Payload:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, MARK))


class Tally:
    """Counts of one kind of input."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks
        self.tried = self.accepted = self.refused = 0
        self.unexpected: list[str] = []

    def judge(self, what: str, work: Callable[[], object]) -> None:
        """Do something that may only succeed or be refused in one sentence."""
        self.tried += 1
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
        if self.marks.exists():
            self.unexpected.append(f"{what}: executed what the file contains")
            self.marks.unlink()

    def counts(self) -> dict[str, Any]:
        """JSON values."""
        kept = ("tried", "accepted", "refused", "unexpected")
        return {key: getattr(self, key) for key in kept}


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
