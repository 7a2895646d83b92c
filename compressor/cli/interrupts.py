"""Ctrl-C, SIGTERM or SIGHUP ends training at its next step with everything saved; a second one ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from compressor.errors import RunError
from compressor.failures import interrupt

# A scheduler or a container that is stopped sends SIGTERM, a terminal that is closed SIGHUP, which Windows has not.
_SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__)
_HANGUP = getattr(signal, "SIGHUP", None)
_HEARD_FOR = 60.0  # seconds since it was last asked for; longer: nobody listens, the signal interrupts as usual


class Interrupts:
    """Context manager; called, it says whether a signal came. Only the main thread can hear of that."""

    def __init__(self) -> None:
        self.pressed = False
        self._asked = float("-inf")
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays so: `nohup` relies on it.
            heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._hear) for number in heard}
        self._show, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.unraisablehook = self._show
        for number, before in self._before.items():
            signal.signal(number, before)

    def __call__(self) -> bool:
        """Whether a signal came while somebody asked."""
        self._asked = time.monotonic()
        return self.pressed

    def _unraisable(self, problem: Any) -> None:
        """An interrupt within a destructor or the like goes no further: it is a wish then, as while somebody asks."""
        if not issubclass(problem.exc_type, KeyboardInterrupt):
            self._show(problem)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.pressed and number == _HANGUP:  # a shell that goes sends it again
            return
        if self.pressed or time.monotonic() - self._asked > _HEARD_FOR:
            self.pressed = True  # should nobody get to see it
            interrupt(number, frame)
        self.pressed = True
        with contextlib.suppress(OSError, ValueError):  # the terminal has gone: the run ends with everything saved
            print("\nstopping after this step; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)


def silence_all_but_first() -> int:
    """Under torchrun let process 0 alone be heard, since the others say the same; how many processes there are."""
    size, rank = (_number_in(name, default) for name, default in (("WORLD_SIZE", 1), ("RANK", 0)))
    if size > 1 and rank:
        sys.stdout.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
    return size


def _number_in(variable: str, default: int) -> int:
    """A number that torchrun gives in an environment variable.

    Raises:
        RunError: it is something else
    """
    text = os.environ.get(variable, "").strip() or str(default)
    if not text.isdecimal():
        raise RunError(
            f"the environment variable {variable} is {text!r}; valid: a number, as torchrun gives it, or none"
        )
    return int(text)
