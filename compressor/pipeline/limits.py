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
from compressor.search.scaling import scaled_widths

FILLED = 0.98  # share of a limit that must be used where widths are aligned

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
    return _aligned(context, limited) if recipe.widths.round_to == "auto" else limited


def _aligned(context: CostContext, limited: Limited) -> Limited:
    """Channel counts in steps of what the provider computes at once; finer ones where the budget would not be met, or
    not be used.
    """
    known, reference = costs(), context.reference
    if not limited.budget.misses(limited.own):
        return limited  # the unscaled network itself must be among what can be found
    step = max(context.runtime().block, *(known[name].step for name in limited.own))
    while True:
        bounds = bounds_of(context.recipe.widths, reference, step)
        if step == 1 or _fills(limited, bounds, reference):
            return replace(limited, bounds=bounds)
        step //= 2


def _fills(limited: Limited, bounds: Bounds, reference: Architecture) -> bool:
    """Whether uniform scaling meets the budget in these steps, and leaves little of it."""
    limits = limited.budget.limits
    least = reference.with_widths(dict(zip(reference.widths, bounds.least.tolist(), strict=True)))
    if any(_measured(limited.costs[name], least) > limit for name, limit in limits.items()):
        return False
    found = scaled_widths(reference, limited.costs, limits, bounds)
    return max(found.costs[name] / limit for name, limit in limits.items()) >= FILLED


def _measured(cost: Evaluator, architecture: Architecture) -> float:
    return cost.measured(architecture) if isinstance(cost, Calibrated) else cost(architecture)
