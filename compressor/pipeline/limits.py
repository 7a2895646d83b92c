"""What a recipe's budget limits: the costs, their limits, and the channel counts that suit them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.costs.solver import Bounds
from compressor.models.architecture import Architecture
from compressor.recipe import CostContext, costs
from compressor.search.bounds import bounds_of
from compressor.search.problem import Calibrated

Evaluator = Callable[[Architecture], float]


@dataclass(frozen=True)
class Limited:
    """Costs that a search may ask for, and what it must keep to.

    Attributes:
        costs: {cost name: of an architecture}; params and macs are among them, limited or not
        own: {limited cost: what the unscaled network has of it}
        budget: the limits as numbers
        bounds: the channel counts allowed
    """

    costs: dict[str, Evaluator]
    own: dict[str, float]
    budget: Budget
    bounds: Bounds


def limited_costs(context: CostContext) -> Limited:
    """Turn a recipe's budget into costs and limits; measures the unscaled network where that takes measuring.

    Raises:
        BenchError: latency cannot be measured as asked
        RecipeError: `widths` names a group that the network does not have
    """
    recipe, reference, known = context.recipe, context.reference, costs()
    bounds = bounds_of(recipe.widths, reference)  # a wrong section is refused before anything is measured
    found: dict[str, Evaluator] = dict(params_macs.COSTS)
    for name in recipe.budget.names:
        found[name] = known[name].evaluator(context)
    own = {name: float(found[name](reference)) for name in recipe.budget.names}
    limited = Limited(found, own, Budget(recipe.budget.resolve(own)), bounds)
    step = max(known[name].step for name in recipe.budget.names)
    return replace(limited, bounds=_in_steps(context, limited, step)) if recipe.widths.round_to == "auto" else limited


def _in_steps(context: CostContext, limited: Limited, step: int) -> Bounds:
    """Channel counts in steps, finer ones if not even the least such network is within the limits that ask for them."""
    known, reference = costs(), context.reference
    asking = [name for name in limited.own if known[name].step > 1]
    while True:
        bounds = bounds_of(context.recipe.widths, reference, step)
        least = reference.with_widths(dict(zip(reference.widths, bounds.least.tolist(), strict=True)))
        if step == 1 or all(_measured(limited.costs[name], least) <= limited.budget.limits[name] for name in asking):
            return bounds
        step //= 2


def _measured(cost: Evaluator, architecture: Architecture) -> float:
    return cost.measured(architecture) if isinstance(cost, Calibrated) else cost(architecture)
