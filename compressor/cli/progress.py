"""Progress on the terminal: a live line where there is one, a line every few seconds where there is not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from compressor.pipeline.compare import JobState

_LINE_SECONDS = 10.0
_AROUND = 4  # lines of the terminal that a table leaves free


class Console:
    """Context manager whose `progress` fits `compressor.pipeline.runner.run`; writes to stderr."""

    def __init__(self) -> None:
        self._rich = RichConsole(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._stage, self._printed = "", 0.0
        self._states: dict[str, str] = {}
        self._live: Live | None = None

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
        if self._live is not None:
            self._live.stop()
        if self._bar is not None:
            self._bar.stop()

    def progress(self, stage: str, text: str, share: float | None) -> None:
        """Show what a stage is doing; `share` is the part done, 0 to 1, or None."""
        if self._live is not None:
            return  # the table says more
        if self._bar is not None:
            total = None if share is None else 1.0
            self._bar.update(self._task, description=text, stage=stage, total=total, completed=share or 0.0)
            return
        now = time.monotonic()
        if stage != self._stage or now - self._printed >= _LINE_SECONDS:
            self._stage, self._printed = stage, now
            self._rich.print(f"{stage:>7}  {text}", soft_wrap=True, markup=False)

    def table(self, runs: Sequence[JobState]) -> None:
        """Show runs that go on side by side: a live table, or a line for each that begins or ends."""
        changed = [run for run in runs if self._states.get(run.name, "waiting") != run.state]
        self._states |= {run.name: run.state for run in changed}
        if self._bar is None:
            for run in changed:
                self._rich.print(f"{run.state:>7}  {run.name}", soft_wrap=True, markup=False)
            return
        counts = Counter(run.state for run in runs)
        grid = Table.grid(padding=(0, 2))
        grid.add_row(_short(f"{counts['done']} of {len(runs)} runs done, {counts['running']} running"))
        busy = [run for run in runs if run.state == "running"]
        for run in busy[: max(0, self._rich.height - _AROUND)]:
            grid.add_row(_short(run.name), _short(run.stage), _short(run.text))
        if self._live is None:
            self._bar.stop()
            self._live = Live(grid, console=self._rich, transient=True, auto_refresh=False)
            self._live.start()
        self._live.update(grid, refresh=True)
        if counts["done"] == len(runs):
            self._live.stop()
            self._live = None
            self._bar.start()


def _short(text: str) -> Text:
    """A text that takes one line, however narrow the terminal is."""
    return Text(text, overflow="ellipsis", no_wrap=True)
