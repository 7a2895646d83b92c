"""Ctrl-C, SIGTERM or SIGHUP ends training at its next step with everything saved; a second one ends it at once."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

# A scheduler or a container that is stopped sends SIGTERM, a terminal that is closed SIGHUP, which Windows has not.
_SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__)
_HEARD_FOR = 60.0  # seconds since it was last asked for; longer: nobody listens, the signal interrupts as usual


class Interrupts:
    """Context manager; called, it says whether a signal came. Only the main thread can hear of that."""

    def __init__(self) -> None:
        self.pressed = self._raised = False
        self._asked = float("-inf")
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays so: `nohup` relies on it.
            heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if self._raised and isinstance(error, Exception):
            # Others' code may take the interrupt for a failure of its own: a part of torch that is then missing, say.
            raise KeyboardInterrupt from error

    def __call__(self) -> bool:
        """Whether a signal came while somebody asked."""
        self._asked = time.monotonic()
        return self.pressed

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.pressed or time.monotonic() - self._asked > _HEARD_FOR:
            self._raised = True
            raise KeyboardInterrupt
        self.pressed = True
        print("\nstopping after this step; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)
