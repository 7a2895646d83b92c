"""The evidence: which numbers README and docs claim, what they were measured at, and measuring them again.

    python experiments/evidence.py status              every experiment: commit, day, whether its code changed since
    python experiments/evidence.py run                 what is old or missing, all at one commit; goes on where it was
    python experiments/evidence.py run headline --minutes 15    one of them, for a quarter of an hour
    python experiments/evidence.py page                write docs/measured.md

`run` checks out the last commit in runs/evidence and installs it beside, so that the code may change meanwhile; what is
not committed is not measured. When the time of a `run` is up, the experiment is interrupted, as by Ctrl-C, and goes on
the next time; one that cannot go on is begun only where all of its minutes (experiments/evidence.yaml) are left.
Nothing takes more than its minutes in all. Numbers come here when an experiment has ended by itself. The next `run`
begins at the last commit, when nothing that is old can be gone on with at the one before. Code has changed where a file
under one of the experiment's areas, or a script that
it imports, reads otherwise, comments, docstrings and layout aside.
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "measured.md"
TABLE = ROOT / "experiments" / "evidence.yaml"
_HEAD = """# What was measured when

Numbers in README and docs come from files in experiments/, each written by one script, `python experiments/SCRIPT` with
the arguments of `experiments/evidence.yaml`. A file names the commit that it was measured at; *changed* says that code
which the numbers depend on reads otherwise since, comments aside, that they were measured with other arguments, or that
what was measured was never committed. `make evidence` measures those again, all at one commit. Written by
`python experiments/evidence.py page`.

| claimed in | by | numbers | commit | code since | date | processor |
|---|---|---|---|---|---|---|
"""
_NOTED = 10  # seconds between two notes of how long an experiment has worked
_PATIENCE = 120  # seconds that an interrupted experiment has for ending


_MADE = ("state.json", "state.part", "code", "site", "logs", "cache")  # in the folder of a bench
_VARIABLE = "PYTHON_"  # how words begin that environment variables stand for


class GitError(Exception):
    """What git said when it failed."""


@dataclass(frozen=True)
class Experiment:
    """A command whose numbers pages show.

    Attributes:
        name: of its file of numbers, experiments/NAME.json
        commands: arguments of Python, from the script on, one after the other
        minutes: wall clock that it may use, on two cores
        paths: files and folders whose code the numbers depend on
        claims: (page, section or "")
        pieces: it goes on where it was interrupted
        needs: experiments whose run folders it reads
        pages: of docs/ that it writes
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    minutes: float
    paths: tuple[str, ...]
    claims: tuple[tuple[str, str], ...]
    pieces: bool = True
    needs: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        return ROOT / "experiments" / f"{self.name}.json"

    @property
    def script(self) -> str:
        return self.commands[0][0]

    def numbers(self) -> dict[str, Any] | None:
        """What was measured last; None: nothing."""
        if not self.file.exists():
            return None
        found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        return found

    def since(self) -> str:
        """`same`, `changed`, `never` or `unknown`: what became of the code since it was measured.

        Unknown are commits that this checkout's history has not.
        """
        numbers = self.numbers()
        if numbers is None:
            return "never"
        if "dirty" in numbers["commit"] or numbers.get("commands", self.told()) != self.told():
            return "changed"
        commits = re.findall(r"\b(?=[a-f]*\d)[0-9a-f]{7,40}\b", numbers["commit"])
        found = [commit for commit in commits if known(commit)]
        if any(changed(commit, self.paths) for commit in found):
            return "changed"
        return "same" if found and len(found) == len(commits) else "unknown"

    def missing(self) -> list[str]:
        """Environment variables without which it cannot run."""
        words = [word for command in self.commands for word in command if word.startswith(_VARIABLE)]
        return [word for word in words if word not in os.environ]

    def told(self) -> list[str]:
        """Its command lines, as its file of numbers has them."""
        return [shlex.join(command) for command in self.commands]


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
        lines = [entry["run"]] if isinstance(entry["run"], str) else entry["run"]
        commands = tuple(tuple(shlex.split(f"experiments/{line}")) for line in lines)
        claims = tuple((page, section) for page, _, section in (claim.partition("#") for claim in entry["claims"]))
        code = (*sorted(paths(entry["areas"]) | scripts(commands[0][0])),)
        more = {key: tuple(entry.get(key, ())) for key in ("needs", "pages")}
        result[name] = Experiment(name, commands, entry["minutes"], code, claims, entry.get("pieces", True), **more)
    return result


def scripts(first: str) -> set[str]:
    """A script of experiments/ and those beside it that it imports."""
    found, waiting = set[str](), [first]
    while waiting:
        name = waiting.pop()
        path = ROOT / name
        if name in found or not path.exists():
            continue
        found.add(name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom | ast.Import):
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
                waiting += [f"experiments/{module}.py" for module in modules if module != "record"]
    return found or {first}


def git(*arguments: str) -> str:
    """What git says.

    Raises:
        GitError: it fails
    """
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise GitError(done.stderr.strip())
    return done.stdout


@cache
def known(commit: str) -> bool:
    """Whether this checkout's history has a commit."""
    try:
        return bool(git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"))
    except GitError:
        return False


@cache
def changed(commit: str, paths: tuple[str, ...]) -> tuple[str, ...]:
    """The files under `paths` whose code reads otherwise than at a commit that is known."""
    names = git("diff", "--name-only", "-z", commit, "--", *paths).split("\0")
    names += git("ls-files", "--others", "--exclude-standard", "-z", "--", *paths).split("\0")
    return tuple(name for name in names if name and differs(commit, name))


@cache
def differs(commit: str, name: str) -> bool:
    """Whether a file's code reads otherwise than at a commit, comments and docstrings aside."""
    path = ROOT / name
    try:
        before = git("show", f"{commit}:{name}")
    except GitError:
        return True  # it is new
    if not path.exists():
        return True
    now = path.read_text(encoding="utf-8")
    read = {".py": code_of, ".yaml": yaml.safe_load}.get(path.suffix, str)
    try:
        return bool(read(before) != read(now))
    except (SyntaxError, yaml.YAMLError):  # it is being written
        return True


def look_again() -> None:
    """Forget what files read like: hours may have passed."""
    for remembered in (known, changed, differs):
        remembered.cache_clear()


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
    """The text of docs/measured.md: a row for every experiment.

    Raises:
        GitError: this checkout's history has not what numbers were measured at
    """
    look_again()
    if lost := [name for name, one in experiments().items() if one.since() == "unknown"]:
        raise GitError(f"this checkout has not the commits of {', '.join(lost)}")
    rows = []
    for experiment in experiments().values():
        numbers = experiment.numbers()
        claims = ", ".join(dict.fromkeys(_link(page, section) for page, section in experiment.claims))
        by = experiment.script.removeprefix("experiments/")
        if experiment.name != Path(by).stem and len(experiment.commands) == 1:
            by = shlex.join(experiment.commands[0]).removeprefix("experiments/")
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
            found = [word for word in re.findall(r"\b[0-9a-f]{7,40}\b", numbers["commit"]) if known(word)]
            files = dict.fromkeys(path for commit in found for path in changed(commit, experiment.paths))
            print("".join(f"    {path}\n" for path in list(files)[:4]), end="")
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
        if anew or not self._state.exists():
            self.begin()
        self.state: dict[str, Any] = json.loads(self._state.read_text(encoding="utf-8"))

    def begin(self) -> None:
        """Take the last commit, with nothing done."""
        commit = head()
        for name in _MADE:
            path = self.folder / name
            (shutil.rmtree if path.is_dir() else Path.unlink)(path) if path.exists() else None
        git("worktree", "prune")
        self.folder.mkdir(parents=True, exist_ok=True)
        git("worktree", "add", "--detach", str(self.code), commit)
        data = ROOT / ".data"
        if data.exists():
            (self.code / ".data").symlink_to(data)
        install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--target")
        subprocess.run([sys.executable, "-m", "pip", *install, str(self.site), str(self.code)], check=True)
        shutil.rmtree(self.code / "build", ignore_errors=True)
        self.state = {"commit": commit, "seconds": {}, "done": [], "failed": []}
        self._keep()

    def _keep(self) -> None:
        _write(self._state, json.dumps(self.state, indent=1))

    def run(self, experiment: Experiment, minutes: float) -> str:
        """Run an experiment for so long, or as long as it may; `done`, `to be gone on with`, or why it is left out."""
        name, seconds = experiment.name, self.state["seconds"]
        if missing := experiment.missing():
            return f"left out: the environment variable {missing[0]} names no Python"
        if waits := [need for need in experiment.needs if need not in self.state["done"]]:
            return f"left for later: it needs the runs of {waits[0]}"
        commands = [
            [os.environ[word] if word.startswith(_VARIABLE) else word for word in command]
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
        told = json.dumps(found | {"commands": experiment.told()}, indent=2, sort_keys=True)
        _write(experiment.file, told + "\n")
        for page in experiment.pages:
            _write(ROOT / page, (self.code / page).read_text(encoding="utf-8"))
        self.state["done"].append(experiment.name)
        self._keep()
        return "done"

    def _failed(self, name: str, why: str) -> str:
        """Its minutes and rows are kept; what is mended is another commit."""
        self.state["failed"] = sorted({*self.state["failed"], name})
        self._keep()
        return f"failed: {why}"

    def waiting(self) -> set[str]:
        """Experiments that were begun and can go on."""
        return {name for name, spent in self.state["seconds"].items() if spent} - {
            *self.state["done"],
            *self.state["failed"],
        }

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
        os.killpg(process.pid, signal.SIGINT)
        process.wait(_PATIENCE)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass  # it has ended, or will not by itself
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def head() -> str:
    """The last commit."""
    return git("rev-parse", "--short=7", "HEAD").strip()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process measures at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"{folder}: another process measures there") from None
        yield


def run(names: list[str], minutes: float, folder: Path, anew: bool) -> bool:
    """Run experiments, those that are old or missing unless named, one after the other; whether none is left."""
    every = experiments()
    if unknown := [name for name in names if name not in every]:
        raise SystemExit(f"no such experiment: {', '.join(unknown)}; valid: {', '.join(every)}")
    with alone(folder):
        bench = Bench(folder, anew)
        chosen = _ordered([every[name] for name in names] or [e for e in every.values() if e.since() != "same"], every)
        past = {*bench.state["done"], *bench.state["failed"], *(one.name for one in chosen if one.missing())}
        if (
            chosen
            and bench.state["commit"] != head()
            and not bench.waiting()
            and all(one.name in past for one in chosen)
        ):
            bench.begin()
        measured = bench.state["commit"]
        print(f"measuring commit {measured}{'' if measured == head() else f', not {head()}: --anew takes that'}")
        end = time.monotonic() + 60 * minutes
        for experiment in chosen:
            if experiment.name in bench.state["done"]:
                continue
            left = (end - time.monotonic()) / 60
            if left <= 0:
                break
            print(f"{experiment.name}: begun", flush=True)
            said = bench.run(experiment, left)
            print(f"{experiment.name}: {said}", flush=True)
            if said == "done":
                with suppress(GitError):
                    _write(PAGE, page())
    look_again()
    left_over = [one.name for one in chosen if not one.missing() and one.since() != "same"]
    if left_over:
        print(f"still old: {', '.join(left_over)}")
    return not left_over


def _ordered(chosen: list[Experiment], every: Mapping[str, Experiment]) -> list[Experiment]:
    """The experiments, each behind those whose run folders it needs."""
    found: dict[str, Experiment] = {}
    for experiment in chosen:
        for name in (*experiment.needs, experiment.name):
            found.setdefault(name, every[name])
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="exit code 1: something is old or missing")
    commands.add_parser("page")
    running = commands.add_parser("run")
    running.add_argument("names", nargs="*", metavar="NAME", help="none: all that are old or missing")
    running.add_argument("--minutes", type=float, default=float("inf"), help="for all together")
    running.add_argument("--anew", action="store_true", help="at the last commit, from the beginning")
    arguments = parser.parse_args()
    try:
        if arguments.command == "page":
            PAGE.write_text(page(), encoding="utf-8")
        elif arguments.command == "status":
            sys.exit(not status())
        else:
            for ended in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(ended, signal.default_int_handler)
            sys.exit(not run(arguments.names, arguments.minutes, ROOT / "runs" / "evidence", arguments.anew))
    except GitError as problem:
        sys.exit(f"git: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
