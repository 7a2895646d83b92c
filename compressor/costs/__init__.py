"""What a network costs, in parameters, multiply-adds, bytes and milliseconds; budgets, and filling one exactly.

Public: `Budget`; `Cost`, how one is described, with `CostContext` and `ShippedNetwork`; `params`, `macs` and
`of_widths`; `largest_within` and its `Bounds`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.lazy import lazily

if TYPE_CHECKING:
    from compressor.costs.budget import Budget as Budget
    from compressor.costs.params_macs import macs as macs
    from compressor.costs.params_macs import params as params
    from compressor.costs.solver import Bounds as Bounds
    from compressor.costs.solver import largest_within as largest_within
    from compressor.costs.solver import of_widths as of_widths
    from compressor.recipe.cost import Cost as Cost
    from compressor.recipe.cost import CostContext as CostContext
    from compressor.recipe.cost import ShippedNetwork as ShippedNetwork

_HOME = {
    "Bounds": "solver",
    "Budget": "budget",
    "Cost": "compressor.recipe.cost",
    "CostContext": "compressor.recipe.cost",
    "ShippedNetwork": "compressor.recipe.cost",
    "largest_within": "solver",
    "macs": "params_macs",
    "of_widths": "solver",
    "params": "params_macs",
}
__all__ = ["Bounds", "Budget", "Cost", "CostContext", "ShippedNetwork", "largest_within", "macs", "of_widths", "params"]

__getattr__, __dir__ = lazily(__name__, _HOME)
