"""Progress on the terminal: a live line where there is one, a line every few seconds where there is not."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_SECONDS = 10.0


class Console:
    """Context manager whose `progress` fits `compressor.pipeline.runner.run`; writes to stderr."""

    def __init__(self) -> None:
        self._rich = RichConsole(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._stage, self._printed = "", 0.0

    def __enter__(self) -> Console:
        if self._rich.is_terminal:
            columns = (TextColumn("{task.fields[stage]:>7}"), BarColumn(24), TextColumn("{task.description}"))
            self._bar = Progress(*columns, TimeElapsedColumn(), console=self._rich, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", stage="", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def progress(self, stage: str, text: str, share: float | None) -> None:
        """Show what a stage is doing; `share` is the part done, 0 to 1, or None."""
        if self._bar is not None:
            total = None if share is None else 1.0
            self._bar.update(self._task, description=text, stage=stage, total=total, completed=share or 0.0)
            return
        now = time.monotonic()
        if stage != self._stage or now - self._printed >= _LINE_SECONDS:
            self._stage, self._printed = stage, now
            self._rich.print(f"{stage:>7}  {text}", soft_wrap=True, markup=False)
