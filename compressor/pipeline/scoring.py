"""How good a file is on a split."""

from __future__ import annotations

from pathlib import Path

import torch

from compressor.data import DataSet, Split, ordered
from compressor.exporters import OnnxNetwork
from compressor.training.tasks import Evaluation, task_of

_BATCH = 500


def score_file(path: Path, data: DataSet, split: Split, threads: int | None = None) -> Evaluation:
    """Score an exported file on a split, on the CPU, by the same counts as PyTorch's."""
    network, task = OnnxNetwork(path, threads), task_of(data)
    tally = task.tally()
    for x, y in ordered(split, data, task.batch(data.classes, data.input_shape, _BATCH)):
        tally.add(torch.from_numpy(network.logits(x)), y)
    return tally.evaluation()
