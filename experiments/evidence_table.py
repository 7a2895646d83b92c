"""The experiments of evidence.yaml, behind the claims of README and docs, and whether their code changed since."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from compressor.files import digest_of

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "experiments" / "evidence.yaml"
PROBED = ROOT / "experiments" / "probes" / "found.json"
VARIABLE = "PYTHON_"  # how words begin that environment variables stand for


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
        timed: those of `paths` whose code takes times that it measures: other code may take others for the same bits
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    minutes: float
    paths: tuple[str, ...]
    claims: tuple[tuple[str, str], ...]
    pieces: bool = True
    needs: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()
    timed: tuple[str, ...] = ()

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
        """`same`, `same bits`, `changed`, `never` or `unknown`: what became of the code since it was measured.

        The same bits has code that reads otherwise, where a probe found nothing of it in small runs, see
        `evidence_probe`. Unknown are commits that this checkout's history has not.
        """
        numbers = self.numbers()
        if numbers is None:
            return "never"
        if "dirty" in numbers["commit"] or numbers.get("commands", self.told()) != self.told():
            return "changed"
        commits = self.commits()
        differing = [(commit, path) for commit in filter(known, commits) for path in changed(commit, self.paths)]
        if not all(alike(commit, path) and not within(path, self.timed) for commit, path in differing):
            return "changed"
        if not (commits and all(map(known, commits))):
            return "unknown"
        return "same bits" if differing else "same"

    @property
    def fresh(self) -> bool:
        """Whether its numbers are those of today's code."""
        return self.since() in ("same", "same bits")

    def commits(self) -> list[str]:
        """What it was measured at; several where its rows are of several."""
        numbers = self.numbers() or {"commit": ""}
        return re.findall(r"\b(?=[a-f]*\d)[0-9a-f]{7,40}\b", numbers["commit"])

    def changes(self) -> list[str]:
        """The files whose code reads otherwise since."""
        found = [commit for commit in self.commits() if known(commit)]
        return list(dict.fromkeys(path for commit in found for path in changed(commit, self.paths)))

    def missing(self) -> list[str]:
        """Environment variables without which it cannot run."""
        words = [word for command in self.commands for word in command if word.startswith(VARIABLE)]
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
        commands = _commands(entry)
        claims = tuple((page, section) for page, _, section in (claim.partition("#") for claim in entry["claims"]))
        code = (*sorted(paths(entry["areas"]) | scripts(commands[0][0])),)
        more = {key: tuple(entry.get(key, ())) for key in ("needs", "pages")}
        times = entry.get("times", [])
        timed = code if times is True else tuple(sorted(paths(times)))
        result[name] = Experiment(
            name, commands, entry["minutes"], code, claims, entry.get("pieces", True), **more, timed=timed
        )
    return result


def _commands(entry: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    lines = [entry["run"]] if isinstance(entry["run"], str) else entry["run"]
    return tuple(tuple(shlex.split(f"experiments/{line}")) for line in lines)


def commands_at(commit: str, name: str) -> tuple[tuple[str, ...], ...]:
    """The commands of an experiment at a commit; none: it had it not."""
    table = yaml.safe_load(git("show", f"{commit}:{TABLE.relative_to(ROOT)}"))
    entry = table["experiments"].get(name)
    return () if entry is None else _commands(entry)


def within(path: str, paths: tuple[str, ...]) -> bool:
    """Whether a file is one of these, or lies in a folder of them."""
    return any(path == one or path.startswith(f"{one.rstrip('/')}/") for one in paths)


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
def changed(commit: str, paths: tuple[str, ...], now: str | None = None) -> tuple[str, ...]:
    """The files under `paths` whose code reads otherwise here, or at the commit `now`, than at one; both are known."""
    names = git("diff", "--name-only", "-z", commit, *([now] if now else []), "--", *paths).split("\0")
    if now is None:
        names += git("ls-files", "--others", "--exclude-standard", "-z", "--", *paths).split("\0")
    return tuple(name for name in names if name and differs(commit, name, now))


@cache
def differs(commit: str, name: str, other: str | None = None) -> bool:
    """Whether a file's code reads otherwise here, or at the other commit, comments and docstrings aside: `code_of`."""
    return bool(code_at(commit, name) != code_at(other, name))


@cache
def code_at(commit: str | None, name: str) -> str | None:
    """A file's code at a commit, or here, without what is only said of it; None: it is not there."""
    path = ROOT / name
    try:
        text = git("show", f"{commit}:{name}") if commit else path.read_text(encoding="utf-8")
    except (GitError, FileNotFoundError):
        return None
    try:
        if path.suffix == ".py":
            return code_of(text)
        return repr(yaml.safe_load(text)) if path.suffix == ".yaml" else text
    except (SyntaxError, yaml.YAMLError):  # it is being written
        return text


def digest_at(commit: str | None, name: str) -> str:
    """Of that code; "" where the file is not there."""
    code = code_at(commit, name)
    return "" if code is None else digest_of(code, 16)


@cache
def alike(commit: str, name: str) -> bool:
    """Whether probes found that a file's code gives the bits that it gave at a commit, one change after the other."""
    found, waiting = set[str](), [digest_at(commit, name)]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += [after for before, after in probed().get(name, ()) if before == one]
    return digest_at(None, name) in found


@cache
def probed() -> dict[str, list[tuple[str, str]]]:
    """{file: (digest before, digest after) of each change that left all small runs alone}."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    for probe in json.loads(PROBED.read_text(encoding="utf-8")) if PROBED.exists() else ():
        for name, (before, after) in probe["files"].items():
            pairs.setdefault(name, []).append((before, after))
    return pairs


def look_again() -> None:
    """Forget what files read like: hours may have passed."""
    for remembered in (known, changed, differs, code_at, alike, probed):
        remembered.cache_clear()


def code_of(text: str) -> str:
    """A module's code, without comments, docstrings, descriptions of fields and layout."""
    return ast.dump(_Unsaid().visit(ast.parse(text)))


class _Unsaid(ast.NodeTransformer):
    """Takes away what is only said of code."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A pydantic field without its description; with nothing but a default it is that."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "Field":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
            if len(node.args) == 1 and not node.keywords:
                return node.args[0]
        return node


def head() -> str:
    """The last commit."""
    return git("rev-parse", "--short=7", "HEAD").strip()
