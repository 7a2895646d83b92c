"""log.jsonl of a run: what happened when, and how long each stage took over all sessions of the run."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compressor.errors import RunError
from compressor.files import parse_json

_BEAT_SECONDS = 5.0
_TAIL = 4096  # bytes


class RunLog:
    """Appends lines to a JSON-lines file; a stage's time survives a kill up to the last beat."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.session = datetime.now(UTC).isoformat(timespec="microseconds")
        self._stage = ""
        self._begun = self._beaten = time.monotonic()

    def write(self, event: str, **values: Any) -> None:
        """Append one line."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "session": self.session,
            "event": event,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | values) + "\n")
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror}") from error

    @contextlib.contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Time a stage; an error is logged and goes on its way."""
        self._stage = stage
        self._begun = self._beaten = time.monotonic()
        self.write("begin", stage=stage)
        try:
            yield
        except BaseException as error:
            self.write("failed", stage=stage, seconds=self._elapsed(), error=f"{type(error).__name__}: {error}")
            raise
        self.write("end", stage=stage, seconds=self._elapsed())
        self._stage = ""

    def beat(self, text: str) -> None:
        """Note progress, at most every few seconds."""
        if time.monotonic() - self._beaten >= _BEAT_SECONDS:
            self._beaten = time.monotonic()
            self.write("progress", stage=self._stage, seconds=self._elapsed(), text=text)

    def seconds(self) -> dict[str, float]:
        """{stage: seconds} over all sessions; of a killed one up to its last line, of the stage that runs up to now."""
        spent = {(line["session"], line["stage"]): line["seconds"] for line in self._lines() if _timed(line)}
        if self._stage:
            spent[self.session, self._stage] = self._elapsed()
        totals: dict[str, float] = {}
        for (_, stage), seconds in spent.items():
            totals[stage] = round(totals.get(stage, 0.0) + seconds, 3)
        return totals

    def _lines(self) -> Iterator[dict[str, Any]]:
        # A kill can leave the last line of a session unfinished, a crash of the machine anything.
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    if isinstance(value := parse_json(line), dict):
                        yield value

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun


def last_event(path: Path) -> dict[str, Any]:
    """The last whole line of a log, read from its end; {} where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            if isinstance(value := parse_json(line), dict):
                return value
    return {}


def _timed(line: dict[str, Any]) -> bool:
    """Whether a line says how long a stage took so far."""
    named = all(isinstance(line.get(key), str) for key in ("session", "stage"))
    return named and isinstance(line.get("seconds"), int | float)
