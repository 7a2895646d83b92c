"""Weights & Biases: a run of the project `compressor`, or of WANDB_PROJECT; WANDB_MODE=offline keeps it here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.files import read_known, write_json

_KEPT = "wandb.json"  # of the run folder: which run it is


class WandB:
    """Parameters, metrics by epoch, and the finished run's files; what is written here lies in OUT/wandb."""

    def __init__(self, out: Path, name: str, parameters: Mapping[str, Any]) -> None:
        import wandb

        out.mkdir(parents=True, exist_ok=True)
        kept = read_known(out / _KEPT).get("run_id")
        project = os.environ.get("WANDB_PROJECT", "compressor")
        quiet = wandb.Settings(silent=True, console="off")
        self._run: Any = wandb.init(
            project=project, name=name, config=dict(parameters), id=kept, resume="allow", dir=str(out), settings=quiet
        )
        if kept is None:
            write_json(out / _KEPT, {"run_id": self._run.id})

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """See `Adapter`."""
        if step is None:
            self._run.summary.update(dict(values))
        else:  # its own steps only rise, and several trainings follow one another
            label = next(iter(values), "").rpartition("/")[0]
            self._run.log({**values, f"{label}/epoch": step})

    def files(self, paths: Sequence[Path]) -> None:
        """See `Adapter`."""
        for path in paths:
            self._run.save(str(path), base_path=str(path.parent), policy="now")

    def close(self, finished: bool) -> None:
        """See `Adapter`."""
        self._run.finish(exit_code=0 if finished else 1)
