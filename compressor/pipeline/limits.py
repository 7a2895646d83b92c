"""What a recipe's budget limits: the costs, their limits, and the channel counts that suit them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compressor.architecture import Architecture
from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.costs.file_size import FileSize
from compressor.costs.latency import LatencyCost
from compressor.costs.latency_measurement import Runtime
from compressor.costs.solver import Bounds
from compressor.recipe import Recipe
from compressor.recipe.budget import LATENCY
from compressor.search.bounds import bounds_of

_ROUGH = 2  # blocks
_ALIGNED = 8  # channels: kernels take their time in steps of 8, and more for counts that are no multiple of 4

Cost = Callable[[Architecture], float]


@dataclass(frozen=True)
class Limited:
    """Costs that a search may ask for, and what it must keep to.

    Attributes:
        costs: {cost name: of an architecture}
        own: {limited cost: what the unscaled network has of it}
        budget: the limits as numbers
        bounds: the channel counts allowed
    """

    costs: dict[str, Cost]
    own: dict[str, float]
    budget: Budget
    bounds: Bounds


def limited_costs(
    recipe: Recipe,
    reference: Architecture,
    shipped_bytes: Callable[[Architecture], int],
    runtime: Callable[[], Runtime],
    tell: Callable[[str], None],
) -> Limited:
    """Turn a recipe's budget into costs and limits; measures the unscaled network where that takes measuring.

    Args:
        recipe: its sections `budget` and `widths` are used
        reference: the unscaled network
        shipped_bytes: the size that the file of an architecture will have
        runtime: measures latency; called if that is limited
        tell: told what is measured

    Raises:
        BenchError: latency cannot be measured as asked
        RecipeError: `widths` names a group that the network does not have
    """
    wanted = recipe.budget
    costs: dict[str, Cost] = dict(params_macs.COSTS)
    bounds = bounds_of(recipe.widths, reference)  # what is wrong with it is told before anything is measured
    if "onnx_bytes" in wanted.names:
        tell("measuring the size of the unscaled network's file")
        costs["onnx_bytes"] = size = FileSize(shipped_bytes, precision=recipe.export.precision)
        size.calibrate(reference)
    if LATENCY in wanted.names:
        costs[LATENCY] = latency = _latency(recipe, reference, runtime())
        if recipe.widths.round_to == "auto":
            bounds = _aligned(recipe, reference, latency)
    own = {name: float(costs[name](reference)) for name in wanted.names}
    return Limited(costs, own, Budget(wanted.resolve(own)), bounds)


def _latency(recipe: Recipe, reference: Architecture, runtime: Runtime) -> LatencyCost:
    # A limit in milliseconds is to hold even if the unscaled network is as slow as it may be; of a share, milliseconds
    # are only how it is told.
    unit = runtime.unit_ms()[1] if recipe.budget.latency is None else runtime.unit_ms(_ROUGH)[0]
    limit = recipe.budget.resolve(dict.fromkeys(recipe.budget.names, unit))[LATENCY]
    return LatencyCost(runtime.ratio, reference, unit, limit)


def _aligned(recipe: Recipe, reference: Architecture, latency: LatencyCost) -> Bounds:
    """Channel counts in steps of 8, or fewer if not even the least such network is quick enough."""
    step = _ALIGNED
    while True:
        bounds = bounds_of(recipe.widths, reference, step)
        least = dict(zip(reference.widths, bounds.least.tolist(), strict=True))
        if step == 1 or latency.measured(reference.with_widths(least)) <= latency.limit_ms:
            return bounds
        step //= 2
