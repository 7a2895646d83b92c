"""Training a network: the loop and its settings, checkpoints, what a task's loss and score are, several processes.

Public: `Trainer`, `Settings`, `schedule`, `pick_device`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.lazy import lazily

if TYPE_CHECKING:
    from compressor.training.schedules import schedule as schedule
    from compressor.training.trainer import Settings as Settings
    from compressor.training.trainer import Trainer as Trainer
    from compressor.training.trainer import pick_device as pick_device

_HOME = {"Settings": "trainer", "Trainer": "trainer", "pick_device": "trainer", "schedule": "schedules"}
__all__ = ["Settings", "Trainer", "pick_device", "schedule"]

__getattr__, __dir__ = lazily(__name__, _HOME)
