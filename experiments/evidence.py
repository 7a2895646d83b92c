"""The evidence: which numbers README and docs claim, what they were measured at, and measuring them again.

    python experiments/evidence.py status              every experiment: commit, day, whether its code changed since
    python experiments/evidence.py run                 what is old or missing, all at one commit; goes on where it was
    python experiments/evidence.py run headline --minutes 15    one of them, for a quarter of an hour
    python experiments/evidence.py page                write docs/measured.md, and tables of README and docs (tables.py)
    python experiments/evidence.py probe [COMMIT]      whether the last commit changes no bit of small runs

`run` checks out the last commit in runs/evidence and installs it beside, so that the code may change meanwhile; what is
not committed is not measured. When the time of a `run` is up, the experiment is interrupted, as by Ctrl-C, and goes on
the next time, as does one that failed, until a commit changes its code; one that cannot go on is begun only where all
of its minutes (experiments/evidence.yaml) are left. Nothing takes more than its minutes in all. Numbers come here when
an experiment has ended by itself. The next `run` begins at the last commit, when nothing that is old can be gone on
with at the one before. Two at once need a folder each (`--folder`) and names, each experiment with those that it needs,
and are for what takes no times, on one thread.
Code has changed where a file under one of the experiment's areas, or a script that it imports, reads otherwise, what is
only said of it aside: comments, docstrings, descriptions of options and layout.
"""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import tables
from evidence_bench import Bench
from evidence_probe import probe
from evidence_table import ROOT, Experiment, GitError, experiments, head, look_again

from compressor.errors import RunError
from compressor.files import write_atomic
from compressor.pipeline.lock import alone_in

PAGE = ROOT / "docs" / "measured.md"
_HEAD = """# What was measured when

Numbers in README and docs come from files in experiments/, each written by one script, `python experiments/SCRIPT` with
the arguments of `experiments/evidence.yaml`. A file names the commit that it was measured at; *changed* says that code
which the numbers depend on reads otherwise since, comments aside, that they were measured with other arguments, or that
what was measured was never committed; *same bits*, that it reads otherwise, but gave the same widths, weights and files
by the bit in the small runs of `experiments/probe.py` (experiments/probes/found.json), and no times are measured. `make
evidence` measures what is old again, all at one commit. Minutes are what that took, where it did. Written by
`python experiments/evidence.py page`.

{same} of {all} are of today's code.

| claimed in | by | numbers | commit | code since | date | minutes | processor |
|---|---|---|---|---|---|---|---|
"""


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
            cells += ["not measured yet", "", "", "", "", ""]
        else:
            machine = numbers.get("machine") or {}
            processor = re.sub(r"\(R\)| Processor| \(.*\)", "", machine.get("cpu") or machine["processor"])
            cells += [experiment.file.name, numbers["commit"], experiment.since(), numbers["date"][:10]]
            cells += [f"{numbers['minutes']:.0f}" if "minutes" in numbers else "", processor]
        rows.append(f"| {' | '.join(cells)} |\n")
    same = sum(experiment.fresh for experiment in experiments().values())
    return _HEAD.format(same=same, all=len(rows)) + "".join(rows)


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
        fresh = fresh and experiment.fresh
        print(f"{name:36} {since:9} {numbers['commit'][:16] if numbers else '':16} {experiment.minutes:5.0f} min")
        if since == "changed" and numbers:
            print("".join(f"    {path}\n" for path in experiment.changes()[:4]), end="")
    return fresh


def run(names: list[str], minutes: float, folder: Path, anew: bool) -> bool:
    """Run experiments, those that are old or missing unless named, one after the other; whether none is left."""
    every = experiments()
    if unknown := [name for name in names if name not in every]:
        raise SystemExit(f"no such experiment: {', '.join(unknown)}; valid: {', '.join(every)}")
    with alone_in(folder):
        bench = Bench(folder)
        chosen = _ordered([every[name] for name in names] or [e for e in every.values() if not e.fresh], every)
        waiting = bench.waiting(every)
        past = {*bench.state["done"], *bench.state["failed"], *(one.name for one in chosen if one.missing())}
        later = bench.state["commit"] != head()
        if anew:
            _only(waiting, chosen, folder)
        if (anew and (later or bench.state["seconds"])) or (
            chosen and later and not waiting and past.issuperset(one.name for one in chosen)
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
                    write_atomic(PAGE, page())
                try:
                    tables.write()
                except tables.TableError as problem:
                    print(problem, flush=True)
    look_again()
    left_over = [one.name for one in chosen if not one.missing() and not one.fresh]
    if left_over:
        print(f"still old: {', '.join(left_over)}")
    return not left_over


def _only(waiting: Mapping[str, float], chosen: list[Experiment], folder: Path) -> None:
    """Refuse to delete what others than the chosen experiments have measured in a folder."""
    if kept := [name for name in waiting if name not in {one.name for one in chosen}]:
        rows = ", ".join(f"{waiting[name] / 60:.0f} minutes of {name}" for name in kept)
        raise RunError(f"--anew would delete {rows} in {folder}: name {' '.join(kept)} too, or another --folder")


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
    commands.add_parser("page", help="write docs/measured.md, and the rows of the tables that show numbers")
    probing = commands.add_parser("probe", help="exit code 1: it gives others")
    probing.add_argument(
        "commit", nargs="?", default="HEAD~1", help="to compare the last commit with; its parent if none"
    )
    running = commands.add_parser("run")
    running.add_argument("names", nargs="*", metavar="NAME", help="none: all that are old or missing")
    running.add_argument("--minutes", type=float, default=float("inf"), help="for all together")
    running.add_argument("--folder", type=Path, default=ROOT / "runs" / "evidence", help="of checkout, logs and runs")
    running.add_argument(
        "--anew",
        action="store_true",
        help="at the last commit, from the beginning: NAMEs hold all that was begun in the folder",
    )
    arguments = parser.parse_args()
    try:
        if arguments.command == "page":
            write_atomic(PAGE, page())
            tables.write()
        elif arguments.command == "status":
            sys.exit(not status())
        elif arguments.command == "probe":
            sys.exit(not probe(arguments.commit, ROOT / "runs" / "probe"))
        else:
            for ended in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(ended, signal.default_int_handler)
            sys.exit(not run(arguments.names, arguments.minutes, arguments.folder.resolve(), arguments.anew))
    except (GitError, RunError, tables.TableError) as problem:
        sys.exit(str(problem))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
