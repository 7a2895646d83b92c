"""Measuring experiments at one commit, which is checked out and installed in a folder of its own: for `evidence.py`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import evidence_table
from evidence_table import VARIABLE, Experiment, changed, commands_at, git, head, known

from compressor.errors import RunError
from compressor.files import write_atomic, write_json

_MADE = ("code", "site", "logs", "cache")  # in the folder of a bench, beside state.json
_NOTED = 10  # seconds between two notes of how long an experiment has worked
_PATIENCE = 120  # seconds that an interrupted experiment has for ending
_NUMBERS = re.compile(r"\[\n\s+(-?\d[^\[\]{}\"]*?)\n\s*\]")  # a list of nothing but numbers in indented JSON


def readable(numbers: dict[str, Any]) -> str:
    """JSON with a line for each key, and lists of numbers on one line: some experiments keep thousands."""
    text = json.dumps(numbers, indent=2, sort_keys=True, allow_nan=False)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def check_out(commit: str, code: Path, site: Path) -> None:
    """A commit's files, with the data that lie here, and its package installed in its own folder; both are made."""
    git("worktree", "prune")
    git("worktree", "add", "--detach", str(code), commit)
    data = evidence_table.ROOT / ".data"
    if data.exists():
        (code / ".data").symlink_to(data)
    install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--target")
    subprocess.run([sys.executable, "-m", "pip", *install, str(site), str(code)], check=True)
    shutil.rmtree(code / "build", ignore_errors=True)


class Bench:
    """One commit's code, checked out and installed in a folder, and how far each experiment came there.

    Args:
        folder: is made if it is not there; holds `code`, `site` (the installed package), `logs` and `state.json`
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.code, self.site = folder, folder / "code", folder / "site"
        self._state = folder / "state.json"
        if not self._state.exists() and (others := [name for name in _MADE if (folder / name).exists()]):
            raise RunError(f"--folder {folder}: its {', '.join(others)} are not of evidence.py; name another folder")
        self.state: dict[str, Any] = {}
        if self._state.exists():
            self.state = json.loads(self._state.read_text(encoding="utf-8"))
        if not self.state.get("commit"):
            self.begin()

    def begin(self) -> None:
        """Take the last commit, with nothing done."""
        commit = head()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = {"commit": None, "seconds": {}, "done": [], "failed": []}
        self._keep()  # what is made from here on is ours, also if it ends half-way
        for name in _MADE:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        check_out(commit, self.code, self.site)
        self.state["commit"] = commit
        self._keep()

    def _keep(self) -> None:
        write_json(self._state, self.state)

    def run(self, experiment: Experiment, minutes: float) -> str:
        """Run an experiment for so long, or as long as it may; `done`, `to be gone on with`, or why it is left out."""
        name, seconds = experiment.name, self.state["seconds"]
        if missing := experiment.missing():
            return f"left out: the environment variable {missing[0]} names no Python"
        if waits := [need for need in experiment.needs if need not in self.state["done"]]:
            return f"left for later: it needs the runs of {waits[0]}"
        commands = [
            [os.environ[word] if word.startswith(VARIABLE) else word for word in command]
            for command in experiment.commands
        ]
        numbers = self.code / "experiments" / experiment.file.name
        if name not in seconds or not experiment.pieces:
            numbers.unlink(missing_ok=True)  # scripts go on with what their file has
            seconds[name] = 0.0
        allowed = 60 * experiment.minutes - seconds[name]
        if allowed <= 0:
            return f"left: its {experiment.minutes:g} minutes are used; raise them in experiments/evidence.yaml"
        if not experiment.pieces and 60 * minutes < allowed:
            return f"left for later: it cannot be interrupted, and may take {experiment.minutes:g} minutes"
        end = time.monotonic() + min(60 * minutes, allowed)
        for command in commands:
            code = self._go(command, name, end)
            if code is None:
                return "to be gone on with" if experiment.pieces else "interrupted: it begins anew the next time"
            if code:
                return self._failed(name, f"exit code {code}, {self.folder / 'logs' / name}.log")
        return self._take(experiment, numbers)

    def _take(self, experiment: Experiment, numbers: Path) -> str:
        """Bring numbers and pages here."""
        try:
            found = json.loads(numbers.read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            return self._failed(experiment.name, f"it ended without its numbers, {problem}")
        minutes = round(self.state["seconds"][experiment.name] / 60, 1)
        write_atomic(experiment.file, readable(found | {"commands": experiment.told(), "minutes": minutes}))
        for page in experiment.pages:
            write_atomic(evidence_table.ROOT / page, (self.code / page).read_text(encoding="utf-8"))
        self.state["done"].append(experiment.name)
        self._keep()
        return "done"

    def _failed(self, name: str, why: str) -> str:
        """Its minutes and rows are kept: the next try goes on with them, or begins at the commit that mends it."""
        self.state["failed"] = sorted({*self.state["failed"], name})
        self._keep()
        return f"failed: {why}"

    def waiting(self, every: Mapping[str, Experiment]) -> dict[str, float]:
        """Seconds that experiments have worked here which can go on: what failed can, unless its code was mended."""
        begun = {name: spent for name, spent in self.state["seconds"].items() if spent}
        return {
            name: spent
            for name, spent in begun.items()
            if name in every
            and spent < 60 * every[name].minutes
            and name not in self.state["done"]
            and not (name in self.state["failed"] and self._mended(every[name]))
        }

    def _mended(self, experiment: Experiment) -> bool:
        """Whether an experiment has other code or arguments by now, or keeps nothing from one try to the next."""
        commit, last = self.state["commit"], head()
        if not (experiment.pieces and known(commit)) or changed(commit, experiment.paths, last):
            return True
        return commands_at(commit, experiment.name) != experiment.commands

    def _go(self, command: list[str], name: str, end: float) -> int | None:
        """The exit code; None: it was interrupted at the end of its time."""
        path = os.pathsep.join((str(self.site), str(self.code / "experiments")))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        environment["COMPRESSOR_CACHE"] = str(self.folder / "cache")
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        before, begun = self.state["seconds"][name], time.monotonic()
        written = begun
        with (logs / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=self.code, env=environment, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
            try:
                while process.poll() is None and time.monotonic() < end:
                    time.sleep(0.1)
                    self.state["seconds"][name] = before + time.monotonic() - begun
                    if time.monotonic() - written > _NOTED:
                        written = time.monotonic()
                        self._keep()
            finally:
                ended = process.poll()
                _stop(process)
                self._keep()
        return ended


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it began, none of which may run beside what is measured next."""
    try:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):  # it has ended, or will not by itself
            os.killpg(process.pid, signal.SIGINT)
            process.wait(_PATIENCE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
