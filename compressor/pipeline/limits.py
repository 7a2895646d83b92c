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

    Narrower is not always faster: MobileNetV2 takes longer with one channel in every group than with two, and in int8
    than with eight. So where single channels do not meet the budget, the finest steps that do are taken; and if none
    do, those that come nearest, of which the refusal then tells.
    """
    known, reference = costs(), context.reference
    if not limited.budget.misses(limited.own):
        return limited  # the unscaled network itself must be among what can be found
    step = max(context.runtime().block, *(known[name].step for name in limited.own))
    tried: list[tuple[float, int, Bounds]] = []  # of the least network: the share of the limits; steps; bounds
    while True:
        bounds = bounds_of(context.recipe.widths, reference, step)
        share = _share_of_least(limited, bounds, reference)
        if share <= 1 and (step == 1 or _fills(limited, bounds, reference)):
            return replace(limited, bounds=bounds)
        tried.append((share, step, bounds))
        if step == 1:
            break
        step //= 2
    meeting = [(steps, found) for share, steps, found in tried if share <= 1]
    nearest = min(meeting, key=lambda one: one[0])[1] if meeting else min(tried, key=lambda one: one[:2])[2]
    return replace(limited, bounds=nearest)


def _share_of_least(limited: Limited, bounds: Bounds, reference: Architecture) -> float:
    """What the network of the fewest channels takes of the limit that it takes most of."""
    least = reference.with_widths(dict(zip(reference.widths, bounds.least.tolist(), strict=True)))
    return max(_measured(limited.costs[name], least) / limit for name, limit in limited.budget.limits.items())


def _fills(limited: Limited, bounds: Bounds, reference: Architecture) -> bool:
    """Whether uniform scaling leaves little of the budget in these steps."""
    limits = limited.budget.limits
    found = scaled_widths(reference, limited.costs, limits, bounds)
    return max(found.costs[name] / limit for name, limit in limits.items()) >= FILLED


def _measured(cost: Evaluator, architecture: Architecture) -> float:
    return cost.measured(architecture) if isinstance(cost, Calibrated) else cost(architecture)
