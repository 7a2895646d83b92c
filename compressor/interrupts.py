"""Ctrl-C as a wish: training ends at its next step with everything saved; a second Ctrl-C ends it at once."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

_HEARD_FOR = 60.0  # seconds since it was last asked for; longer: nobody listens, the signal interrupts as usual


class Interrupts:
    """Context manager; called, it says whether Ctrl-C was pressed. Only the main thread can hear of that."""

    def __init__(self) -> None:
        self.pressed = False
        self._asked = float("-inf")
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def __call__(self) -> bool:
        """Whether Ctrl-C was pressed while somebody asked."""
        self._asked = time.monotonic()
        return self.pressed

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.pressed or time.monotonic() - self._asked > _HEARD_FOR:
            raise KeyboardInterrupt
        self.pressed = True
        print("\nstopping after this step; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)
