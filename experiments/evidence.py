"""The evidence: which numbers README and docs claim, what they were measured at, and measuring them again.

    python experiments/evidence.py status              every experiment: commit, day, whether its code changed since
    python experiments/evidence.py run                 what is old or missing, all at one commit; goes on where it was
    python experiments/evidence.py run headline --minutes 15    one of them, for a quarter of an hour
    python experiments/evidence.py page                write docs/measured.md

`run` checks out the last commit in runs/evidence and installs it beside, so that the code may change meanwhile; what is
not committed is not measured. An experiment that has used its minutes (experiments/evidence.yaml) is interrupted, and
goes on the next time; its numbers come here when it has ended by itself. Code has changed where a file under one of the
experiment's areas reads otherwise, comments, docstrings and layout aside.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "measured.md"
TABLE = ROOT / "experiments" / "evidence.yaml"
_HEAD = """# What was measured when

Numbers in README and docs come from files in experiments/, each written by one command, `python experiments/SCRIPT`. A
file names the commit that it was measured at; *changed* says that code which the numbers depend on reads otherwise
since, comments aside, or that what was measured was never committed. `make evidence` measures those again, all at one
commit. Written by `python experiments/evidence.py page`.

| claimed in | by | numbers | commit | code since | date | processor |
|---|---|---|---|---|---|---|
"""
_NOTED = 10  # seconds between two notes of how long an experiment has worked
_PATIENCE = 120  # seconds that an interrupted experiment has for ending


class UnknownCommitError(Exception):
    """A state of the code that this checkout's history has not."""


@dataclass(frozen=True)
class Experiment:
    """A command whose numbers pages show.

    Attributes:
        name: of its file of numbers, experiments/NAME.json
        command: arguments of Python, from the script on
        minutes: wall clock that it may use, on two cores
        paths: files and folders whose code the numbers depend on
        claims: (page, section or "")
    """

    name: str
    command: tuple[str, ...]
    minutes: float
    paths: tuple[str, ...]
    claims: tuple[tuple[str, str], ...]

    @property
    def file(self) -> Path:
        return ROOT / "experiments" / f"{self.name}.json"

    def numbers(self) -> dict[str, Any] | None:
        """What was measured last; None: nothing."""
        if not self.file.exists():
            return None
        found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        return found

    def since(self) -> str:
        """`same`, `changed` or `never`: what became of the code since it was measured.

        Raises:
            UnknownCommitError: the history has not the measured commit
        """
        numbers = self.numbers()
        if numbers is None:
            return "never"
        commits = re.findall(r"\b[0-9a-f]{7,40}\b", numbers["commit"])
        if "dirty" in numbers["commit"] or not commits:
            return "changed"
        return "changed" if any(changed(commit, self.paths) for commit in commits) else "same"


def experiments() -> dict[str, Experiment]:
    """All of evidence.yaml, by name."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))

    def paths(names: list[str]) -> set[str]:
        found: set[str] = set()
        for name in names:
            found |= {name} if re.search(r"[/.]", name) else paths(table["areas"][name])
        return found

    result = {}
    for name, entry in table["experiments"].items():
        script, *arguments = entry["run"].split()
        claims = tuple((page, section) for page, _, section in (claim.partition("#") for claim in entry["claims"]))
        code = (*sorted(paths(entry["areas"])), f"experiments/{script}")
        command = (f"experiments/{script}", *arguments)
        result[name] = Experiment(name, command, entry["minutes"], code, claims)
    return result


def git(*arguments: str) -> str:
    """What git says.

    Raises:
        UnknownCommitError: it fails
    """
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnknownCommitError(done.stderr.strip())
    return done.stdout


@cache
def changed(commit: str, paths: tuple[str, ...]) -> tuple[str, ...]:
    """The files under `paths` whose code reads otherwise than at a commit; see `UnknownCommitError`."""
    names = git("diff", "--name-only", commit, "--", *paths).split()
    return tuple(name for name in names if differs(commit, name))


@cache
def differs(commit: str, name: str) -> bool:
    """Whether a file's code reads otherwise than at a commit, comments and docstrings aside."""
    try:
        before = git("show", f"{commit}:{name}")
    except UnknownCommitError:
        return True  # it is new
    path = ROOT / name
    if not path.exists():
        return True
    now = path.read_text(encoding="utf-8")
    return code_of(before) != code_of(now) if path.suffix == ".py" else before != now


def code_of(text: str) -> str:
    """A module's code, without comments, docstrings and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def page() -> str:
    """The text of docs/measured.md: a row for every experiment; see `UnknownCommitError`."""
    rows = []
    for experiment in experiments().values():
        numbers = experiment.numbers()
        claims = ", ".join(dict.fromkeys(_link(page, section) for page, section in experiment.claims))
        by = " ".join(experiment.command).removeprefix("experiments/")
        cells = [claims, f"`{by}`"]
        if numbers is None:
            cells += ["not measured yet", "", "", "", ""]
        else:
            machine = numbers.get("machine") or {}
            processor = re.sub(r"\(R\)| Processor| \(.*\)", "", machine.get("cpu") or machine["processor"])
            cells += [experiment.file.name, numbers["commit"], experiment.since(), numbers["date"][:10], processor]
        rows.append(f"| {' | '.join(cells)} |\n")
    return _HEAD + "".join(rows)


def _link(page: str, section: str) -> str:
    """A link from docs/measured.md, which mkdocs can follow: the README is no page of its."""
    if not page.startswith("docs/"):
        return page
    name = page.removeprefix("docs/")
    return f"[{Path(name).stem}]({name}{'#' + section if section else ''})"


def status() -> bool:
    """Print every experiment; whether all are of this code."""
    fresh = True
    for name, experiment in experiments().items():
        numbers, since = experiment.numbers(), experiment.since()
        fresh = fresh and since == "same"
        print(f"{name:36} {since:8} {numbers['commit'][:16] if numbers else '':16} {experiment.minutes:5.0f} min")
        if since == "changed" and numbers:
            for commit in re.findall(r"\b[0-9a-f]{7,40}\b", numbers["commit"]):
                for path in changed(commit, experiment.paths)[:4]:
                    print(f"    {path}")
    return fresh


class Bench:
    """One commit's code, checked out and installed in a folder, and how far each experiment came there.

    Args:
        folder: is made if it is not there; holds `code`, `site` (the installed package), `logs` and `state.json`
        anew: forget what is there, and take the last commit
    """

    def __init__(self, folder: Path, anew: bool) -> None:
        self.folder, self.code, self.site = folder, folder / "code", folder / "site"
        self._state = folder / "state.json"
        if anew:
            self._remove()
        if not self._state.exists():
            self._remove()
            self._make()
        self.state: dict[str, Any] = json.loads(self._state.read_text(encoding="utf-8"))

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        git("worktree", "prune")

    def _make(self) -> None:
        commit = git("rev-parse", "--short=7", "HEAD").strip()
        self.folder.mkdir(parents=True)
        git("worktree", "add", "--detach", str(self.code), commit)
        data = ROOT / ".data"
        if data.exists():
            (self.code / ".data").symlink_to(data)
        install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--target")
        subprocess.run([sys.executable, "-m", "pip", *install, str(self.site), str(self.code)], check=True)
        shutil.rmtree(self.code / "build", ignore_errors=True)
        self._write({"commit": commit, "seconds": {}, "done": []})

    def _write(self, state: dict[str, Any]) -> None:
        part = self._state.with_suffix(".part")
        part.write_text(json.dumps(state, indent=1), encoding="utf-8")
        part.replace(self._state)

    def run(self, experiment: Experiment, minutes: float) -> str:
        """Run an experiment for so long, or as long as it may; `done`, `to be gone on with`, or why it is left out."""
        command = []
        for word in experiment.command:
            if word.startswith("PYTHON_") and word not in os.environ:
                return f"left out: the environment variable {word} names no Python"
            command.append(os.environ[word] if word.startswith("PYTHON_") else word)
        used = self.state["seconds"].get(experiment.name, 0.0)
        numbers = self.code / "experiments" / experiment.file.name
        if experiment.name not in self.state["seconds"]:
            numbers.unlink(missing_ok=True)  # scripts go on with what their file has
        allowed = min(60 * minutes, 60 * experiment.minutes - used)
        if allowed <= 0:
            return f"left: its {experiment.minutes:g} minutes are used; raise them in experiments/evidence.yaml"
        code = self._go(command, experiment.name, allowed, used)
        if code is None:
            return "to be gone on with"
        if code:
            return f"failed with exit code {code}: {self.folder / 'logs' / experiment.name}.log"
        shutil.copy(numbers, experiment.file)
        self.state["done"].append(experiment.name)
        self._write(self.state)
        return "done"

    def _go(self, command: list[str], name: str, allowed: float, used: float) -> int | None:
        """The exit code; None: it was interrupted after so many seconds."""
        path = os.pathsep.join((str(self.site), str(self.code / "experiments")))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        environment["COMPRESSOR_CACHE"] = str(self.folder / "cache")
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        begun = written = time.monotonic()
        with (logs / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=self.code, env=environment, stdout=log, stderr=log,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
            try:
                while process.poll() is None and time.monotonic() - begun < allowed:
                    time.sleep(0.2)
                    self.state["seconds"][name] = used + time.monotonic() - begun
                    if time.monotonic() - written > _NOTED:
                        written = time.monotonic()
                        self._write(self.state)
            finally:
                self._write(self.state)
                ended = process.poll()
                if ended is None:
                    process.send_signal(signal.SIGINT)
                    try:
                        process.wait(_PATIENCE)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()
        return ended


def run(names: list[str], minutes: float, folder: Path, anew: bool) -> bool:
    """Run experiments, those that are old or missing unless named, one after the other; whether all are done."""
    known = experiments()
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"no such experiment: {', '.join(unknown)}; valid: {', '.join(known)}")
    bench = Bench(folder, anew)
    head = git("rev-parse", "--short=7", "HEAD").strip()
    measured = bench.state["commit"]
    print(f"measuring commit {measured}{'' if measured == head else f', not {head}: --anew takes that'}", flush=True)
    chosen = [known[name] for name in names] or [one for one in known.values() if one.since() != "same"]
    end, complete = time.monotonic() + 60 * minutes, True
    for experiment in chosen:
        if experiment.name in bench.state["done"]:
            continue
        left = (end - time.monotonic()) / 60
        if left <= 0:
            return False
        print(f"{experiment.name}: at most {min(left, experiment.minutes):.0f} minutes", flush=True)
        said = bench.run(experiment, left)
        print(f"{experiment.name}: {said}", flush=True)
        complete = complete and said == "done"
        if said == "done":
            PAGE.write_text(page(), encoding="utf-8")
    return complete


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="exit code 1: something is old or missing")
    commands.add_parser("page")
    running = commands.add_parser("run")
    running.add_argument("names", nargs="*", metavar="NAME", help="none: all that are old or missing")
    running.add_argument("--minutes", type=float, default=float("inf"), help="for all together")
    running.add_argument("--folder", type=Path, default=ROOT / "runs" / "evidence")
    running.add_argument("--anew", action="store_true", help="at the last commit, from the beginning")
    arguments = parser.parse_args()
    try:
        if arguments.command == "page":
            PAGE.write_text(page(), encoding="utf-8")
        elif arguments.command == "status":
            sys.exit(not status())
        else:
            sys.exit(not run(arguments.names, arguments.minutes, arguments.folder.resolve(), arguments.anew))
    except UnknownCommitError as problem:
        sys.exit(f"git: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
