"""Number of trained values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from compressor.recipe.cost import Cost, CostContext, ShippedNetwork

if TYPE_CHECKING:
    from compressor.models.architecture import Architecture


def _evaluator(context: CostContext) -> Callable[[Architecture], float]:
    from compressor.costs.params_macs import params

    return params


def _shipped(network: ShippedNetwork) -> int:
    from compressor.costs.params_macs import count_params

    return count_params(network.model)


COST = Cost(
    name="params",
    title="parameters",
    description="parameters, such as 580000, 0.58M or 0.25x",
    evaluator=_evaluator,
    shipped=_shipped,
    always=True,
    along_params=True,
    place=1,
)
