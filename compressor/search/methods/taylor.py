"""A trained network is pruned straight to the budget: the channels of least first-order Taylor importance, over all
groups together, leave in events while it trains on (Molchanov et al., "Importance Estimation for Neural Network
Pruning", CVPR 2019), and what is left is fine-tuned as the recipe's `finetune` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat

from compressor.costs.solver import Solution, largest_within
from compressor.files import digest_of
from compressor.recipe.method import Method, MethodConfig
from compressor.recipe.values import BatchSize, PositiveInt
from compressor.report.removal import removal_line, removal_section
from compressor.search.problem import Problem, SearchResult, block_of

if TYPE_CHECKING:
    from torch import nn

    from compressor.costs.solver import Cost
    from compressor.search.budget_pruner import BudgetPruner
    from compressor.search.streams import Streams
    from compressor.training.trainer import Settings

_BATCH_SIZE = 128  # samples of a step while channels leave, at most


class TaylorConfig(MethodConfig):
    """Channels of least Taylor importance leave a trained network, in events, until it meets the budget."""

    method: Literal["taylor"] = "taylor"
    ranking: Literal["taylor"] = Field("taylor", description="what this method ranks channels by, over the network")
    by_cost: bool = Field(True, description="rank by importance per cost of the budget; false: by importance alone")
    prune_epochs: PositiveInt = Field(5, description="epochs of training in which channels leave")
    prune_every: PositiveInt = Field(20, description="mini-batches between two pruning events")
    batch_size: BatchSize | None = Field(
        None, description="samples per step while channels leave; null: train.batch_size, at most 128"
    )
    lr: PositiveFloat = Field(0.01, description="learning rate while channels leave")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of SGD while channels leave")
    weight_decay: NonNegativeFloat = Field(5e-4, description="on every parameter while channels leave")


def search(problem: Problem, config: TaylorConfig) -> SearchResult:
    """Prune the trained network to the budget while it trains; hand over the rest for fine-tuning.

    Raises:
        BudgetError: the budget cannot be met
        ModelError: the network's widths cannot be pruned
        TrainingError: training diverged
    """
    import torch

    from compressor.dependency import ChannelRemover
    from compressor.models import build, example_input, follows, graph_of
    from compressor.search.budget_pruner import BudgetPruner
    from compressor.search.importance import surplus
    from compressor.search.inherited import take_statistics_
    from compressor.search.prices import Prices
    from compressor.search.streams import Streams, check_same_network
    from compressor.search.taylor_pruner import PruneSettings
    from compressor.search.trained_network import check_exact, group_costs, same_share, trained_reference

    reference, limits = problem.reference, problem.budget.limits
    graph = graph_of(reference)
    check_exact(reference, graph, "taylor")
    streams = Streams.of(reference, graph)
    costs, present = group_costs(problem, streams)
    bounds = streams.bounds(problem.bounds, present)
    # A budget that cannot be met is refused before any training.
    largest_within(costs, limits, same_share(present), low=0.1, high=1.0, bounds=bounds)
    trained = trained_reference(problem, build(reference, problem.seed), "taylor")
    model = build(reference, problem.seed)
    model.load_state_dict(trained.tensors)
    model = problem.trainer.prepare(model)
    own = dict(zip(streams.names, present.tolist(), strict=True))
    searched = [name for name, keep in zip(streams.names, bounds.frozen, strict=True) if not keep]
    losing = [*searched, *(name for name, (source, _) in follows(reference).items() if source in searched)]
    remover = ChannelRemover(model, graph, example_input(reference), losing, problem.engine)
    settings = _settings(problem, config)
    pruner = BudgetPruner(
        graph,
        searched,
        follows(reference),
        PruneSettings(config.prune_every, 0, 0.0, dict(zip(streams.names, bounds.least.tolist(), strict=True))),
        events=_events(problem, config, settings.batch_size, model),
        prices=Prices(
            {name: _of_groups(cost, own) for name, cost in costs.items()},
            limits,
            1.0 if config.by_cost else 0.0,
            block_of(problem),
        ),
        multiples=dict(zip(streams.names, bounds.multiple.tolist(), strict=True)),
        remove=remover,
    )
    _prune(problem, settings, model, pruner)
    solution = _solve(problem, pruner, streams, costs)
    architecture = reference.with_widths(streams.expand(solution.widths))
    widths = streams.group_widths(architecture)
    gone = {
        name: surplus(pruner.graph, name, torch.from_numpy(pruner.importance(name)), widths[name]) for name in losing
    }
    remover(model, pruner.graph, {name: slices for name, slices in gone.items() if slices})
    check_same_network(architecture, model)
    take_statistics_(model, problem)
    trace: dict[str, Any] = {
        "iterations": [],
        "events": [{"params": params, "widths": left} for params, left in pruner.records],
        "seconds": {"prune": pruner.seconds},
        "trained": trained.values["history"],
        "removal": remover.record(),
    }
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return SearchResult(architecture, trace, solution.one_channel, solution.binding, weights=weights)


def _of_groups(cost: Cost, own: Mapping[str, int]) -> Callable[[Mapping[str, int]], float]:
    """A cost of widths of groups (G,) as one of {group: channels}, of which some may be missing."""
    return lambda widths: cost([widths.get(name, width) for name, width in own.items()])


def _events(problem: Problem, config: TaylorConfig, batch_size: int, model: nn.Module) -> int:
    steps, _ = problem.trainer.epoch_size(batch_size, model)
    return max(1, config.prune_epochs * steps // config.prune_every)


def _settings(problem: Problem, config: TaylorConfig) -> Settings:
    """How the network trains while channels leave: by default no more samples are held than in the final training."""
    from compressor.training.trainer import Settings

    final = problem.final
    batch_size = config.batch_size or min(_BATCH_SIZE, final.batch_size if final else _BATCH_SIZE)
    return Settings(
        epochs=None,
        batch_size=batch_size,
        lr_at=lambda step, per_epoch: config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        evaluate=False,
        clip=final.clip if final else None,
        accumulate=_parts(batch_size, final) if final else 1,
    )


def _parts(batch_size: int, final: Settings) -> int:
    """Of a batch: no larger than those of the final training, if that divides its batches."""
    return -(-batch_size * final.accumulate // final.batch_size) if final.accumulate > 1 else 1


def _prune(problem: Problem, settings: Settings, model: nn.Module, pruner: BudgetPruner) -> None:
    """Train the network while channels leave, up to the event that will bring it down to the budget."""
    on = sorted(problem.budget.limits.items()), settings.batch_size, settings.accumulate, settings.clip
    # Its end stays there: while a cost of what is found was only an estimate, the last event is chosen again.
    kept = problem.checkpoint(f"taylor-{digest_of(repr(on), 12)}.safetensors")
    problem.trainer.fit(model, settings, seed=problem.seed, label="pruning", observer=pruner, checkpoint=kept)


def _solve(problem: Problem, pruner: BudgetPruner, streams: Streams, costs: Mapping[str, Cost]) -> Solution:
    """The widths within the budget that the last event leaves."""
    ranked = pruner.ranked()
    left = np.array([pruner.graph.widths[name] for name in streams.names])

    def of_share(kept: float) -> NDArray[np.float64]:
        widths = pruner.after(ranked, len(ranked) - math.floor(min(1.0, kept) * len(ranked)))
        return np.array([float(widths.get(name, own)) for name, own in zip(streams.names, left, strict=True)])

    least = 0.5 / max(1, len(ranked))
    bounds = streams.bounds(problem.bounds, left)
    return largest_within(
        costs, problem.budget.limits, of_share, low=least, high=1.0, bounds=bounds, exchange=bounds.coarse, reach=1
    )


METHOD = Method(
    TaylorConfig,
    search,
    depends_on=("train",),
    trains_first=True,
    sections=(removal_section,),
    lines=(removal_line,),
)
