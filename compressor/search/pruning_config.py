"""How the methods that prune while they train do so."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from compressor.recipe.method import MethodConfig
from compressor.recipe.values import BatchSize, NonNegativeInt, PositiveInt


class PruningConfig(MethodConfig):
    """Pre-training and iterative Taylor pruning (NeuralScale Algorithm 1). Defaults are the paper's."""

    method: str = ""
    pretrain_epochs: NonNegativeInt = Field(10, description="epochs of training before pruning, P in Algorithm 1")
    batch_size: BatchSize = Field(256, description="images per step of pre-training and pruning")
    lr: PositiveFloat = Field(0.1, description="learning rate of pre-training")
    prune_lr: PositiveFloat = Field(0.01, description="learning rate at the start of pruning")
    prune_lr_decay: PositiveFloat = Field(1.5, description="divides it, as in the authors' code (the paper: 10)")
    prune_lr_every: PositiveInt = Field(10, description="… after this many epochs of pruning")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="of SGD, in pre-training and pruning")
    weight_decay: NonNegativeFloat = Field(5e-4, description="on every parameter, in pre-training and pruning")
    prune_every: PositiveInt = Field(50, description="mini-batches between two pruning events")
    prune_channels: PositiveInt = Field(
        10, description="channels removed in one event, anywhere; those that go together count as one"
    )
    at_minimum: Literal["skip", "stop"] = Field(
        "skip",
        description="a group down to widths.minimum leaves the ranking, and the others go on; stop: pruning ends as "
        "soon as one would fall below it (the paper's authors)",
    )
