"""The model script that `compressor olive-config` names: the network of a recipe, as Olive's model_loader."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from compressor.models import build
from compressor.models.architecture import Architecture
from compressor.training.checkpoint import load_tensors

SEED = 0


def load_network(path: str) -> nn.Module:
    """The unscaled network of an architecture file, with the weights beside it, or the initial ones of `SEED`."""
    file = Path(path)
    network = build(Architecture.from_json(file.read_text(encoding="utf-8"), path), SEED)
    if (weights := file.with_suffix(".safetensors")).exists():
        network.load_state_dict(load_tensors(weights))
    return network
