"""Progress on the terminal: a live line where there is one, a line every few seconds where there is not."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table
from rich.text import Text

from compressor.report.format import duration

if TYPE_CHECKING:
    from compressor.pipeline.compare import JobState

_LINE_SECONDS = 10.0
_AROUND = 4  # lines of the terminal that a table leaves free
_STAGES = ("search", "train", "export", "bench", "report")  # in their order; whoever has them imports torch
_SEEN = (5.0, 0.01)  # seconds, and share of the work, after which a guess is made of what is left
_RUN = re.compile(r"run \d+/\d+ ")  # as the texts of a sweep begin


class Pace:
    """How long the work that goes on will take, by how it went since it was first seen.

    Work whose share falls, or is not known for a while, is other work, which begins anew.
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # seconds, share
        self._work, self._last = "", (0.0, 0.0)  # seconds and share when that last grew

    def left(self, work: str, share: float | None, now: float) -> float | None:
        """Seconds that are left of it; None: nothing is known.

        Args:
            work: its name; another one is other work
            share: done, 0 to 1; None: not known
            now: seconds by any clock
        """
        if share is None:
            self._first = None
            return None
        if self._first is None or work != self._work or share < self._last[1]:
            self._first = self._last = (now, share)
        if share > self._last[1]:
            self._last = (now, share)
        self._work = work
        spent, done = (last - first for last, first in zip(self._last, self._first, strict=True))
        if spent < _SEEN[0] or done < _SEEN[1]:
            return None
        # As it stood when the share last grew: coarse steps do not make it longer.
        return max(0.0, spent * (1 - share) / done - (now - self._last[0]))


class _Terminal(RichConsole):
    """Rich's, but for ending the process where the reader of a pipe has gone."""

    def on_broken_pipe(self) -> None:
        """Let whoever writes know."""
        raise BrokenPipeError


class Console:
    """Context manager whose `progress` fits `compressor.pipeline.runner.run`; writes to stderr."""

    def __init__(self) -> None:
        self._rich = _Terminal(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._stage, self._printed = "", 0.0
        self._begun, self._pace = time.monotonic(), Pace()
        self._states: dict[str, str] = {}
        self._live: Live | None = None
        self._heard = True

    def __enter__(self) -> Console:
        if self._rich.is_terminal:
            last = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # all others keep their width
            self._bar = Progress(
                TextColumn("{task.fields[place]}", markup=False),
                BarColumn(10),
                TextColumn("{task.fields[time]}", markup=False),
                TextColumn("{task.description}", markup=False, table_column=last),
                console=self._rich,
                transient=True,
                expand=True,
            )
            with self._while_heard():
                self._bar.start()
                self._task = self._bar.add_task("", place="", time="", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._while_heard():
            if self._live is not None:
                self._live.stop()
            if self._bar is not None:
                self._bar.stop()

    @contextmanager
    def _while_heard(self) -> Iterator[None]:
        """Say nothing more once nobody hears it: a terminal that is closed ends no run."""
        with suppress(OSError, ValueError):  # the latter of a stream that was closed
            yield
            return
        self._heard = False

    def progress(self, stage: str, text: str, share: float | None) -> None:
        """Show what a stage is doing.

        Args:
            stage: its name
            text: what it does
            share: the part done of what it does; of `train`, of all trainings of a run; 0 to 1, or None
        """
        if self._live is not None or not self._heard:
            return  # the table says more
        with self._while_heard():
            self._progress(stage, text, share)

    def _progress(self, stage: str, text: str, share: float | None) -> None:
        now = time.monotonic()
        # Training is one work, whose share is known; a search, or a run of several, does one thing after another.
        run = _RUN.match(text)
        if stage == "train":
            work = f"{stage} {run[0]}" if run else stage
        else:
            work = f"{stage} {text.partition(': epoch')[0]}"
        left = self._pace.left(work, share, now)
        of = "" if work == stage else " of this"
        used = f"{duration(now - self._begun)} used" + ("" if left is None else f", about {duration(left)} left{of}")
        place = f"{_STAGES.index(stage) + 1}/{len(_STAGES)} {stage}" if stage in _STAGES else stage
        if self._bar is not None:
            total = None if share is None else 1.0
            self._bar.update(self._task, total=total, completed=share or 0.0, description=text, place=place, time=used)
        elif stage != self._stage or now - self._printed >= _LINE_SECONDS:
            self._stage, self._printed = stage, now
            self._rich.print(f"  {place:<10}  {text}  ({used})", soft_wrap=True, markup=False)

    def table(self, runs: Sequence[JobState]) -> None:
        """Show runs that go on side by side: a live table, or a line for each that begins or ends."""
        if self._heard:
            with self._while_heard():
                self._table(runs)

    def _table(self, runs: Sequence[JobState]) -> None:
        changed = [run for run in runs if self._states.get(run.name, "waiting") != run.state]
        self._states |= {run.name: run.state for run in changed}
        if self._bar is None:
            for run in changed:
                self._rich.print(f"{run.state:>7}  {run.name}", soft_wrap=True, markup=False)
            return
        counts = Counter(run.state for run in runs)
        now = time.monotonic()
        left = self._pace.left("runs", counts["done"] / len(runs), now)
        used = f"{duration(now - self._begun)} used" + ("" if left is None else f", about {duration(left)} left")
        grid = Table.grid(padding=(0, 2))
        shown = Group(_short(f"{counts['done']} of {len(runs)} runs done, {counts['running']} running; {used}"), grid)
        busy = [run for run in runs if run.state == "running"]
        for run in busy[: max(0, self._rich.height - _AROUND)]:
            grid.add_row(_short(run.name), _short(run.stage), _short(run.text))
        if self._live is None:
            self._bar.stop()
            self._live = Live(shown, console=self._rich, transient=True, auto_refresh=False)
            self._live.start()
        self._live.update(shown, refresh=True)
        if counts["done"] == len(runs):
            self._live.stop()
            self._live = None
            self._bar.start()


def _short(text: str) -> Text:
    """A text that takes one line, however narrow the terminal is."""
    return Text(text, overflow="ellipsis", no_wrap=True)
