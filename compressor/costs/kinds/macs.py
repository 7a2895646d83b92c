"""Multiply-adds of one sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from compressor.recipe.cost import Cost, CostContext, ShippedNetwork

if TYPE_CHECKING:
    from compressor.models.architecture import Architecture


def _evaluator(context: CostContext) -> Callable[[Architecture], float]:
    from compressor.costs.params_macs import macs

    return macs


def _shipped(network: ShippedNetwork) -> int:
    from compressor.costs.params_macs import macs

    return macs(network.architecture)


COST = Cost(
    name="macs",
    title="MACs",
    description="multiply-adds for one image, such as 10M or 0.25x",
    evaluator=_evaluator,
    shipped=_shipped,
    always=True,
    place=2,
)
