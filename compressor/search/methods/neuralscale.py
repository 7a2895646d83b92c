"""NeuralScale (Lee and Lee, CVPR 2020): widths as power laws of the parameter count, refined by architecture descent.

One iteration: train briefly, prune globally while recording how the widths fall with the parameter count
(Algorithm 1), fit φ_l(τ) = α_l·τ^β_l to every layer (Algorithm 2), generate the network of the original size from the
fit (Algorithm 3), which the next iteration starts from (Algorithm 4).

Under a budget of another kind the same is done along the budget's cost, which is not in the paper: channels go in the
order of their importance per cost, τ is that cost, and the original size is the unscaled network's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, NonNegativeFloat

from compressor.costs.solver import Bounds, Solution, largest_within, of_widths
from compressor.files import digest_of, read_json, write_json
from compressor.models.architecture import Architecture
from compressor.recipe import costs
from compressor.recipe.method import Method
from compressor.recipe.values import PositiveInt
from compressor.report.descent import descent_section, fit_section
from compressor.report.removal import removal_line, removal_section
from compressor.search.prices import Prices
from compressor.search.problem import Problem, SearchResult, block_of
from compressor.search.pruning_config import PruningConfig
from compressor.search.scaling import scale_uniformly

if TYPE_CHECKING:
    from compressor.search.prune_while_training import Trajectory

Floats = NDArray[np.float64]


class NeuralScaleConfig(PruningConfig):
    """NeuralScale (CVPR 2020): power-law widths fitted to iterative Taylor pruning. Defaults are the paper's."""

    method: Literal["neuralscale"] = "neuralscale"
    iterations: PositiveInt = Field(15, description="iterations of architecture descent (Algorithm 4)")
    floor: Annotated[float, Field(gt=0, lt=1)] = Field(0.05, description="stop below this share of the channels")
    min_records: Annotated[int, Field(ge=2)] = Field(
        6, description="least records of a fit: those since every group lost a channel, or else all"
    )
    along: Literal["auto", "params", "budget"] = Field(
        "auto",
        description="the cost that channels are ranked by and widths are fitted to; params: importance alone ranks, "
        "widths follow the parameters (the paper); budget: importance per cost of the budget ranks, widths follow that "
        "cost, of several limits the most violated one; auto: params where all limits are of parameters, bytes or "
        "activation memory, else budget",
    )
    price: NonNegativeFloat = Field(
        1.5,  # importance is a squared derivative, which of wide layers falls faster than what a channel costs
        description="exponent of the cost in importance / cost, where the search goes along the budget",
    )
    fits: PositiveInt = Field(
        1, description="times that the last iteration is done, with other seeds; the mean of ln α and β is taken"
    )


@dataclass(frozen=True)
class Along:
    """The cost that a search goes along.

    Attributes:
        names: of the cost; of several, all of them
        key: in the names of the search's checkpoints, which searches for other budgets share
        cost: of an architecture
        prices: what channels cost; None: importance alone ranks
    """

    names: tuple[str, ...]
    key: str
    cost: Callable[[Architecture], float]
    prices: Prices | None


_PARAMS = "params"
_WIDEST = 8  # times the unscaled width


def along_of(problem: Problem, config: NeuralScaleConfig) -> Along:
    """The cost that a search goes along: the parameters, or what the budget limits."""
    names = sorted(problem.budget.limits)
    known = costs()
    by_params = all(name in known and known[name].along_params for name in names)
    bounds = problem.bounds  # which may follow from the budget, and are those of the networks that are generated
    allowed = digest_of(repr([values.tolist() for values in (bounds.minimum, bounds.maximum, bounds.multiple)]), 8)
    if config.along == _PARAMS or (config.along == "auto" and by_params):
        return Along((_PARAMS,), f"-{allowed}", problem.costs[_PARAMS], None)
    reference = problem.reference
    limits = dict(problem.budget.limits)
    if len(names) == 1:  # how far the limit is makes no difference then, and other budgets share what is found
        limits = {names[0]: max(problem.costs[names[0]](reference), 1e-9)}

    def of(name: str, widths: Mapping[str, int]) -> float:
        return problem.costs[name](reference.with_widths({**reference.widths, **widths}))

    prices = Prices({name: partial(of, name) for name in names}, limits, config.price, block_of(problem))
    conditions = [str(how) for name in names if (how := getattr(problem.costs[name], "conditions", ""))]
    key = "-".join(["", *names, *conditions, f"{config.price:g}", allowed])
    if len(names) > 1:
        key += f"-{digest_of(repr(sorted(limits.items())), 12)}"
    if len(names) == 1:
        return Along((names[0],), key, problem.costs[names[0]], prices)
    return Along(tuple(names), key, lambda architecture: prices.share(architecture.widths), prices)


def fit_power_law(sizes: ArrayLike, widths: ArrayLike) -> tuple[Floats, Floats]:
    """Fit φ_l(τ) = α_l·τ^β_l: ordinary least squares of ln φ_l on ln τ, every layer by itself (Algorithm 2, eq. 8).

    Args:
        sizes: (N,) parameter counts τ of the recorded networks, or another cost of them, above 0
        widths: (N, L) channels φ of their layers, above 0

    Returns:
        α (L,) and β (L,)

    Raises:
        ValueError: shapes do not fit, fewer than two different sizes, or a value is not above 0
    """
    tau, phi = np.asarray(sizes, dtype=np.float64), np.asarray(widths, dtype=np.float64)
    if tau.ndim != 1 or phi.ndim != 2 or len(tau) != len(phi):
        raise ValueError(f"sizes must be (N,) and widths (N, L), got {tau.shape} and {phi.shape}")
    if not (tau > 0).all() or not (phi > 0).all():
        raise ValueError("sizes and widths must be above 0")
    if len(np.unique(tau)) < 2:
        raise ValueError("a power law needs records of at least two different sizes")
    x, y = np.log(tau), np.log(phi)
    centred = x - x.mean()
    beta = centred @ (y - y.mean(axis=0)) / (centred @ centred)
    return np.exp(y.mean(axis=0) - beta * x.mean()), beta


def r_squared(sizes: ArrayLike, widths: ArrayLike, alpha: Floats, beta: Floats) -> Floats:
    """Coefficient of determination of the fit in the logarithms, (L,); 1 for a layer whose width never changes."""
    x, y = np.log(np.asarray(sizes, dtype=np.float64)), np.log(np.asarray(widths, dtype=np.float64))
    residual = ((y - np.log(alpha) - np.outer(x, beta)) ** 2).sum(axis=0)
    total = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    return np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), 1.0)


def widths_for(
    alpha: ArrayLike, beta: ArrayLike, cost: Callable[[Sequence[int]], float], limit: float
) -> NDArray[np.int64]:
    """The largest whole widths ⌊α·τ^β⌋ (plus single channels) whose cost is within the limit (Algorithm 3).

    Args:
        alpha: (L,)
        beta: (L,)
        cost: whole widths (L,) → cost, which should grow with the widths, but for jumps down
        limit: the largest allowed cost

    Returns:
        whole widths (L,)

    Raises:
        BudgetError: one channel per layer costs more than the limit, or no width raises the cost
        ValueError: a value of α or β is not finite, or α is not above 0
    """
    if not (np.isfinite(alpha).all() and np.isfinite(beta).all() and (np.asarray(alpha) > 0).all()):
        raise ValueError(f"alpha must be finite and above 0 and beta finite, got {alpha!r} and {beta!r}")
    return np.array(solve_fit(np.asarray(alpha), np.asarray(beta), {"cost": cost}, {"cost": limit}).widths)


def solve_fit(
    alpha: Floats,
    beta: Floats,
    costs: dict[str, Callable[[Sequence[int]], float]],
    limits: dict[str, float],
    bounds: Bounds | None = None,
) -> Solution:
    """`widths_for` with several costs and bounds: the largest widths of a fit, α and β (L,), within all limits."""
    # τ is only an inner coordinate: whatever the budget is in, bisection finds the τ that fits it.
    coarse = bounds is not None and bounds.coarse

    def widths_at(tau: float) -> Floats:
        with np.errstate(over="ignore"):  # a group that bounds hold back
            widths: Floats = alpha * tau**beta
        return widths

    return largest_within(costs, limits, widths_at, low=1.0, high=1e6, bounds=bounds, exchange=coarse, reach=1)


def search(problem: Problem, config: NeuralScaleConfig) -> SearchResult:
    """Run architecture descent and generate the network for the budget.

    Raises:
        BudgetError: the budget cannot be met
        ModelError: the network's widths cannot be pruned
        TrainingError: training diverged
    """
    from compressor.search import prune_while_training

    reference = problem.reference
    scale_uniformly(problem)  # a budget that cannot be met is refused before any training
    names = list(reference.widths)
    along = along_of(problem, config)
    kept = problem.checkpoint(f"neuralscale{along.key}.json")  # holds for every budget of that kind
    iterations = read_json(kept) if kept is not None and kept.exists() else []
    architecture = reference
    for done in iterations:
        architecture = reference.with_widths(dict(zip(names, done["widths"], strict=True)))
    for index in range(len(iterations), config.iterations):
        found, architecture = _iterate(problem, config, index, architecture, along)
        iterations.append(found)
        if kept is not None:
            write_json(kept, iterations)
        prune_while_training.discard(problem, _name(along, index))
    repeats = _repeats(problem, config, along, iterations)
    trace: dict[str, Any] = {"iterations": iterations, "along": list(along.names), "repeats": repeats}
    last = next((found for found in reversed(iterations) if not found["fallback"]), None)
    if last is None:
        result, solution = scale_uniformly(problem)
        trace["fallback"] = iterations[-1]["fallback"]
    else:
        earlier = None if last is iterations[-1] else "the last iteration gave no fit: that of an earlier one was taken"
        trace["note"] = earlier or last["note"]
        limited = {name: of_widths(reference, problem.costs[name]) for name in problem.budget.limits}
        alpha, beta = _mean_of([last, *(found for found in repeats if not found["fallback"])])
        solution = solve_fit(alpha, beta, limited, dict(problem.budget.limits), _within_reason(problem, along))
        result = reference.with_widths(dict(zip(names, solution.widths, strict=True)))
    return SearchResult(result, trace, solution.one_channel, solution.binding)


def _repeats(
    problem: Problem, config: NeuralScaleConfig, along: Along, iterations: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Records of the last iteration, done again with other seeds."""
    from compressor.search import prune_while_training

    kept = problem.checkpoint(f"neuralscale{along.key}-repeats.json")
    repeats: list[dict[str, Any]] = read_json(kept) if kept is not None and kept.exists() else []
    last = iterations[-1]
    start = problem.reference.with_widths(dict(zip(last["groups"], last["start"], strict=True)))
    for repeat in range(len(repeats) + 1, config.fits):
        found, _ = _iterate(problem, config, len(iterations) - 1, start, along, repeat)
        repeats.append(found)
        if kept is not None:
            write_json(kept, repeats)
        prune_while_training.discard(problem, _name(along, len(iterations) - 1, repeat))
    return repeats[: config.fits - 1]


def _mean_of(found: Sequence[dict[str, Any]]) -> tuple[Floats, Floats]:
    """The mean power laws of several fits: of ln α and of β."""
    alpha, beta = (np.array([one[key] for one in found], dtype=np.float64) for key in ("alpha", "beta"))
    return np.exp(np.log(alpha).mean(axis=0)), beta.mean(axis=0)


def _name(along: Along, index: int, repeat: int = 0) -> str:
    return f"neuralscale{along.key}-{index}" + (f"-{repeat}" if repeat else "")


def _iterate(
    problem: Problem,
    config: NeuralScaleConfig,
    index: int,
    architecture: Architecture,
    along: Along,
    repeat: int = 0,
) -> tuple[dict[str, Any], Architecture]:
    """One iteration of architecture descent: its record, and the network that the next one starts from."""
    from compressor.search import prune_while_training

    names = list(architecture.widths)
    pruned = prune_while_training.prune(
        problem,
        config,
        architecture,
        name=_name(along, index, repeat),
        label=f"search {index + 1}/{config.iterations}" + (f" again ({repeat})" if repeat else ""),
        seed=problem.seed + 1000 * index + 100_000 * repeat,
        floor=config.floor,
        prices=along.prices,
    )
    found: dict[str, Any] = {
        "groups": names,
        "start": [architecture.widths[name] for name in names],
        "events": len(pruned.params),
        "stopped": pruned.reason,
        "alpha": [],
        "beta": [],
        "r2": [],
        "fallback": None,
        "note": None,
        "seconds": {"pretrain": pruned.pretrain_seconds, "prune": pruned.seconds},
        "removal": pruned.removal,
    }
    kept = list(range(_first_record(config, pruned, found), len(pruned.params)))
    recorded: list[float] = list(pruned.params)
    if along.prices is not None:
        recorded = [along.cost(architecture.with_widths(dict(zip(names, row, strict=True)))) for row in pruned.widths]
        if not found["fallback"]:
            kept = cheaper_records(config, along, recorded, kept, found)
    params, widths = [pruned.params[index] for index in kept], [pruned.widths[index] for index in kept]
    recorded = [recorded[index] for index in kept]
    found["records"] = {"params": params, "widths": widths} | ({} if along.prices is None else {"cost": recorded})
    if found["fallback"]:
        following = architecture
    else:
        alpha, beta = _fit(problem, recorded, widths)
        found |= {"alpha": alpha.tolist(), "beta": beta.tolist()}
        found["r2"] = r_squared(recorded, widths, alpha, beta).tolist()
        cost, bounds = of_widths(architecture, along.cost), _within_reason(problem, along)
        # Coarse steps may make the least network larger than the original.
        size = max(along.cost(problem.reference), cost(bounds.least.tolist()))
        generated = solve_fit(alpha, beta, {"along": cost}, {"along": size}, bounds).widths
        following = architecture.with_widths(dict(zip(names, generated, strict=True)))
    found["widths"] = [following.widths[name] for name in names]
    found["params"] = int(problem.costs[_PARAMS](following))
    if along.prices is not None:
        found["cost"] = along.cost(following)
    return found, following


def _within_reason(problem: Problem, along: Along) -> Bounds:
    """The widths allowed; where a cost hardly depends on some groups, these are kept from growing without end."""
    bounds = problem.bounds
    if along.prices is None:
        return bounds
    widest = _WIDEST * np.array(list(problem.reference.widths.values())) // bounds.multiple * bounds.multiple
    return Bounds(bounds.minimum, np.clip(widest, bounds.least, bounds.maximum), bounds.multiple)


def _first_record(config: NeuralScaleConfig, pruned: Trajectory, found: dict[str, Any]) -> int:
    """The event from which on widths are fitted; notes in `found` if that is not as Algorithm 1 has it."""
    late = len(pruned.params) - pruned.early
    if late >= config.min_records:
        return pruned.early
    ended = f"pruning ended since {pruned.reason}"
    if len(pruned.params) < config.min_records:
        found["fallback"] = (
            f"only {len(pruned.params)} records, fewer than min_records = {config.min_records} ({ended}): "
            "scaled uniformly"
        )
        return pruned.early
    found["note"] = (
        f"{late} of {len(pruned.params)} records are from after every group had lost a channel, fewer than "
        f"min_records = {config.min_records} ({ended}): all were fitted"
    )
    return 0


def cheaper_records(
    config: NeuralScaleConfig, along: Along, recorded: Sequence[float], late: Sequence[int], found: dict[str, Any]
) -> list[int]:
    """The records that are fitted along a cost, of `late`: those that cost less than all before them.

    Where widths are computed in blocks, a narrower network may cost the same, and the widest is what that cost buys.
    Of too few such records those from before are taken too, and where these do not suffice all of `late`; it is noted
    in `found`, as is that all cost the same.
    """
    least = np.minimum.accumulate(recorded)
    falls = [index for index in range(len(recorded)) if index == 0 or recorded[index] < least[index - 1]]
    kept, names = [index for index in falls if index >= late[0]], ", ".join(along.names)
    if len(kept) < config.min_records:
        few = f"{len(kept)} records from after every group had lost a channel fall in {names}, fewer than min_records"
        if len(falls) >= config.min_records:
            kept, also = falls, "those from before were fitted as well"
        else:
            kept, also = list(late), f"all {len(late)} of them were fitted"
        found["note"] = f"{few} = {config.min_records}: {also}"
    if len({recorded[index] for index in kept}) < 2:
        found["fallback"] = f"{names}: the same in all {len(kept)} records: scaled uniformly"
    return kept


def _fit(problem: Problem, recorded: list[float], widths: list[list[int]]) -> tuple[Floats, Floats]:
    """α and β (L,) of the recorded widths; those of frozen groups give exactly the width."""
    alpha, beta = fit_power_law(recorded, widths)
    frozen = problem.bounds.frozen
    return np.where(frozen, widths[0], alpha), np.where(frozen, 0.0, beta)


METHOD = Method(
    NeuralScaleConfig, search, sections=(fit_section, descent_section, removal_section), lines=(removal_line,)
)
