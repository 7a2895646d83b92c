"""From a recipe to a finished run folder: the stages and their order, the folder and its files, comparisons of runs.

Public: `run`, `continue_run`, `Stopped`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.lazy import lazily

if TYPE_CHECKING:
    from compressor.pipeline.runner import Stopped as Stopped
    from compressor.pipeline.runner import continue_run as continue_run
    from compressor.pipeline.runner import run as run

_HOME = {"Stopped": "runner", "continue_run": "runner", "run": "runner"}
__all__ = ["Stopped", "continue_run", "run"]

__getattr__, __dir__ = lazily(__name__, _HOME)
