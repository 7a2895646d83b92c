"""The stages of a run, one function each: what it needs lies in the run folder, and what it makes is left there.

A stage whose files are there does nothing, so a run can stop anywhere and go on. `STAGES` has them in their order.
"""

from __future__ import annotations

from collections.abc import Callable

from compressor.pipeline.context import RunContext
from compressor.pipeline.stages.bench import bench
from compressor.pipeline.stages.export import export
from compressor.pipeline.stages.report import report
from compressor.pipeline.stages.search import search
from compressor.pipeline.stages.train import train

STAGES: dict[str, Callable[[RunContext], None]] = {
    "search": search,
    "train": train,
    "export": export,
    "bench": bench,
    "report": report,
}
