"""The model script that `compressor olive-config` names: the network of a recipe, as Olive's model_loader."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from compressor.models import build, network_with_weights
from compressor.models.architecture import Architecture
from compressor.recipe.model_name import ModelName

SEED = 0


def load_network(path: str) -> nn.Module:
    """The unscaled network of an architecture file; one of the zoo with the initial weights of `SEED`."""
    architecture = Architecture.from_json(Path(path).read_text(encoding="utf-8"), path)
    if ModelName.of(architecture.model).has_weights:
        return network_with_weights(architecture)
    return build(architecture, SEED)
