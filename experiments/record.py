"""What every experiment writes beside its numbers: when, where and from which state of the code."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from compressor.files import write_json
from compressor.pipeline import environment

_WRITTEN = (":(exclude)experiments/*.json", ":(exclude)docs")


def commit() -> str:
    """The state of the code; -dirty: files differ from it, other than numbers and pages."""
    head, changes = _git("rev-parse", "--short=7", "HEAD"), _git("status", "--porcelain", "-uno", "--", ".", *_WRITTEN)
    return f"{head}{'-dirty' if changes else ''}" if head else "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def write_result(path: Path, numbers: dict[str, Any]) -> None:
    """Write an experiment's JSON with date, commit, machine and versions."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    origin = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": environment.machine(device),
        "versions": environment.versions(),
    }
    write_json(path, numbers | origin)
