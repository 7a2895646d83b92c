"""What every experiment writes beside its numbers: when, where and from which state of the code."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from compressor.files import write_json
from compressor.pipeline import environment


def commit() -> str:
    """The state of the code."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


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
