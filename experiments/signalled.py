"""Runs and comparisons ended by signals in all their stages, which must go on to the same bits: for `hostile.py`."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from spoiled import LONGEST_SECONDS, TINY, Tally

from compressor.files import sha256_of

SENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
# A shell reads 130 of either: where an interrupt came while Python executed a text (it makes dataclasses so), it ends
# by SIGINT itself, be the interrupt caught or not.
ENDED = (0, 130, -signal.SIGINT)
KEPT = ("architecture.json", "model.onnx", "weights.safetensors")
STAGES = ("search", "train", "export", "bench", "report")
COMPARED = ("--methods", "neuralscale,uniform", "--budgets", "0.5x", "--seeds", "1")


def _hear() -> None:
    """Signals that this process ignores, as one in the background does, a child would ignore too."""
    for number in SENT[:-1]:
        signal.signal(number, signal.SIG_DFL)


class Begun:
    """A command that works in a folder, as a process.

    Args:
        command: its arguments
        out: its folder
    """

    def __init__(self, command: list[str], out: Path) -> None:
        self.command, self.out = command, out
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, preexec_fn=_hear, **pipes)

    def stage(self) -> str:
        """The stage that began last, by the youngest of its logs."""
        logs = sorted(self.out.rglob("log.jsonl"), key=lambda path: path.stat().st_mtime)
        lines = logs[-1].read_text().splitlines() if logs else []
        begun = [json.loads(line)["stage"] for line in lines if '"begin"' in line and line.endswith("}")]
        return begun[-1] if begun else "start"

    def wait_for(self, stage: str) -> None:
        """Until a stage begins, or the process ends."""
        while self.process.poll() is None and self.stage() != stage:
            time.sleep(0.02)

    def end(self, sent: signal.Signals, tally: Tally) -> str:
        """Send it a signal; what happens then is judged. Returns the stage in which it came."""
        stage = self.stage() if self.process.poll() is None else "over"
        begun = time.monotonic()
        self.process.send_signal(sent)
        try:
            _, printed = self.process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, printed = self.process.communicate()
            tally.unexpected.append(f"{sent.name} in {stage}: goes on for {time.monotonic() - begun:.0f} s")
            return stage
        if self.process.returncode not in (*ENDED, -sent) or "Traceback" in printed:
            tally.unexpected.append(f"{sent.name} in {stage}: {self.process.returncode} {printed[-400:]}")
        return stage


def bits(out: Path) -> dict[str, str]:
    """{file: SHA-256} of what a run or a comparison is for, and the accuracies that it found."""
    found = {str(path.relative_to(out)): sha256_of(path) for path in sorted(out.rglob("*")) if path.name in KEPT}
    for path in out.glob("comparison.json"):
        found |= {one["folder"]: repr(one["value"]) for one in json.loads(path.read_text())["runs"]}
    return found


def signals(folder: Path, rng: random.Random, tally: Tally, count: int) -> None:
    """Every fourth a comparison, the others runs, in stages taken in turn; a third are signalled twice."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(TINY))
    heads = {
        "run": ["run", str(recipe)],
        "compare-methods": ["compare-methods", str(recipe), *COMPARED],
    }

    def command(kind: str, out: Path, *more: str) -> list[str]:
        return [sys.executable, "-m", "compressor", *heads[kind], "-o", str(out), *more]

    expected, lasted = {}, {}
    for kind in heads:
        begun = time.monotonic()
        subprocess.run(command(kind, folder / kind), check=True, capture_output=True)
        expected[kind], lasted[kind] = bits(folder / kind), time.monotonic() - begun
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    lengths = {line["stage"]: line["seconds"] for line in log if line["event"] == "end"}
    where: Counter[str] = Counter()
    for number in range(count):
        kind, sent, out = (
            ("compare-methods" if number % 4 == 3 else "run"),
            SENT[number % 5 % 4],
            folder / f"cut{number}",
        )
        process = Begun(command(kind, out), out)
        if kind == "run" and number % 8:
            stage = STAGES[number % len(STAGES)]
            process.wait_for(stage)
            time.sleep(rng.uniform(0, 0.7 * lengths[stage]))
        else:
            time.sleep(rng.uniform(0.1, 0.7) * lasted[kind])
        if number % 6 == 0 and process.process.poll() is None and (out / "stages.json").exists():
            _second(command(kind, out, "--resume"), process, tally)
        where[f"{kind}: {process.end(sent, tally)}"] += 1
        tally.tried += 1
        if number % 3 == 0:
            process = Begun(command(kind, out, "--resume"), out)
            time.sleep(rng.uniform(0.1, 0.7) * lasted[kind])
            where[f"{kind}: {process.end(rng.choice(SENT), tally)}"] += 1
            tally.tried += 1
        if not out.exists():
            out.mkdir()  # it was ended before it began
        again = subprocess.run(command(kind, out, "--resume"), capture_output=True, text=True, check=False)
        if again.returncode != 0 or bits(out) != expected[kind]:
            tally.unexpected.append(f"{kind} {sent.name}: does not go on to the same bits: {again.stderr[-300:]}")
        else:
            tally.accepted += 1
        shutil.rmtree(out)
        tally.more = {"signals in": dict(sorted(where.items()))}
        tally.keep()


def _second(command: list[str], first: Begun, tally: Tally) -> None:
    """A second process in the same folder is refused."""
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    tally.tried += 1
    if first.process.poll() is None and not (second.returncode == 2 and "is working in this folder" in second.stderr):
        tally.unexpected.append(f"two at once: {second.returncode} {second.stderr[-300:]}")
    tally.refused += second.returncode == 2
