"""The model script that `compressor olive-config` names: the network of a recipe, as Olive's model_loader."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from compressor.architecture import Architecture
from compressor.models import build
from compressor.models.references import factory_of

SEED = 0


def load_network(path: str) -> nn.Module:
    """The unscaled network of an architecture file; one of the zoo with the initial weights of `SEED`."""
    architecture = Architecture.from_json(Path(path).read_text(encoding="utf-8"), path)
    if ":" in architecture.model:
        return factory_of(architecture.model)(architecture.classes, architecture.options)
    return build(architecture, SEED)
