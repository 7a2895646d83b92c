"""Whether a commit changes what small runs give: for changes of code that numbers depend on, but should not notice.

A message, a bound that only larger inputs reach, or another way to the same sums need not make hours of measuring old.
Both commits' code does the runs of `experiments/probe.py`, the later one's; where every digest is the same, the files
that the two differ in are noted in experiments/probes/found.json. It spares nothing that takes times: evidence.yaml.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import evidence_table
from evidence_bench import check_out
from evidence_table import changed, digest_at, experiments, git, head, look_again

from compressor.files import write_json


def probe(commit: str, folder: Path) -> bool:
    """Compare the last commit with an earlier one, and note it where small runs see no difference; whether they do not.

    Args:
        commit: that the last one is compared with
        folder: of checkouts and runs, which is made anew
    """
    before, after = git("rev-parse", "--short=7", commit).strip(), head()
    areas = sorted(
        {path for one in experiments().values() for path in one.paths if not path.startswith("experiments/")}
    )
    files = changed(before, tuple(areas), after)
    if not files:
        print(f"{before} and {after} do not differ in code that numbers depend on")
        return True
    shutil.rmtree(folder, ignore_errors=True)
    found = {name: _digests(name, folder / name, script=folder / after / "code") for name in (after, before)}
    if other := [name for name in found[after] if found[after][name] != found[before].get(name)]:
        for name in other:
            own, its = found[after][name], found[before].get(name, {})
            print(f"{name}: {', '.join(key for key in sorted({*own, *its}) if own.get(key) != its.get(key))} differ")
        return False
    path = evidence_table.PROBED
    known: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    pairs = {name: [digest_at(before, name), digest_at(after, name)] for name in files}
    path.parent.mkdir(exist_ok=True)
    write_json(path, [*known, {"before": before, "after": after, "runs": sorted(found[after]), "files": pairs}])
    look_again()
    print(f"{len(found[after])} runs give the same bits at {before} and {after}: {', '.join(files)}")
    return True


def _digests(commit: str, folder: Path, script: Path) -> dict[str, dict[str, str]]:
    """{run: {file: digest}} of the runs by a commit's code."""
    check_out(commit, folder / "code", folder / "site")
    path = os.pathsep.join((str(folder / "site"), str(script / "experiments")))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "COMPRESSOR_CACHE": str(folder / "cache")}
    command = [sys.executable, str(script / "experiments" / "probe.py"), str(folder / "runs")]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    digests: dict[str, dict[str, str]] = json.loads(done.stdout)
    return digests
