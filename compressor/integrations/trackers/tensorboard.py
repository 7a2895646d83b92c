"""TensorBoard: event files in OUT/tensorboard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"


class TensorBoard:
    """Scalars by epoch, those of the whole run at step 0; the parameters as a text."""

    def __init__(self, out: Path, name: str, parameters: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(out / FOLDER))
        lines = [f"    {key}: {json.dumps(value)}" for key, value in parameters.items()]
        self._writer.add_text("recipe", "\n".join([f"    name: {name}", *lines]))

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """See `Adapter`."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, 0 if step is None else step)
        self._writer.flush()

    def files(self, paths: Sequence[Path]) -> None:
        """TensorBoard keeps none."""

    def close(self, finished: bool) -> None:
        """See `Adapter`."""
        self._writer.close()
