"""MLflow: a run of the experiment `compressor`, or of MLFLOW_EXPERIMENT_NAME, where MLFLOW_TRACKING_URI says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.files import read_known, write_json

_KEPT = "mlflow.json"  # of the run folder: which run it is
_LONGEST = 500  # characters of a parameter


class MLflow:
    """Parameters, metrics by epoch, and the finished run's files as artifacts."""

    def __init__(self, out: Path, name: str, parameters: Mapping[str, Any]) -> None:
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient()
        kept = read_known(out / _KEPT).get("run_id")
        if kept is not None:
            self._run: str = kept
            self._client.update_run(self._run, status="RUNNING")
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "compressor")
        known = self._client.get_experiment_by_name(experiment)
        number = known.experiment_id if known is not None else self._client.create_experiment(experiment)
        self._run = self._client.create_run(number, run_name=name).info.run_id
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / _KEPT, {"run_id": self._run})
        for key, value in parameters.items():
            self._client.log_param(self._run, _name(key), str(value)[:_LONGEST])

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """See `Adapter`."""
        for key, value in values.items():
            self._client.log_metric(self._run, _name(key), value, step=step)

    def files(self, paths: Sequence[Path]) -> None:
        """See `Adapter`."""
        for path in paths:
            self._client.log_artifact(self._run, str(path))

    def close(self, finished: bool) -> None:
        """See `Adapter`."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


def _name(key: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w\-. /]", "_", key)
