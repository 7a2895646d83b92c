"""Filters of smallest L1 norm are taken out of a trained network (Li et al., "Pruning Filters for Efficient ConvNets",
ICLR 2017), which is then fine-tuned: the only baseline of NeuralScale's section 4.2 that keeps trained weights.

Every width loses the same share of its channels, the share that meets the budget. Where several layers make the same
channels (a residual stream), the norms of their filters are added up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat

from compressor.costs.solver import Solution, largest_within
from compressor.errors import BudgetError
from compressor.recipe.method import Method, MethodConfig
from compressor.recipe.values import PositiveInt
from compressor.report.removal import removal_line, removal_section
from compressor.search.problem import Finetuning, Problem, SearchResult

if TYPE_CHECKING:
    from compressor.search.streams import Streams


class L1Config(MethodConfig):
    """Filters of smallest L1 norm leave a trained network, which is then fine-tuned (Li et al., ICLR 2017)."""

    method: Literal["l1"] = "l1"
    ranking: Literal["l1"] = Field("l1", description="what this method ranks filters by, in each layer")
    finetune_epochs: PositiveInt = Field(40, description="NeuralScale's paper: 40 for CIFAR, 20 for Tiny-ImageNet")
    finetune_lr: PositiveFloat = Field(0.001, description="learning rate of fine-tuning, constant")


def search(problem: Problem, config: L1Config) -> SearchResult:
    """Train the reference network, remove its smallest filters, hand over the rest for fine-tuning.

    Raises:
        BudgetError: the budget cannot be met, or the reference is below it already
        ModelError: the network's widths cannot be pruned
        TrainingError: training diverged
    """
    from compressor.dependency import ChannelRemover
    from compressor.models import build, example_input, graph_of
    from compressor.search.importance import importance_of, surplus
    from compressor.search.inherited import take_statistics_
    from compressor.search.streams import Streams, check_same_network
    from compressor.search.trained_network import check_exact, trained_reference

    reference = problem.reference
    model = build(reference, problem.seed)
    graph = graph_of(reference)
    check_exact(reference, graph, "l1")
    streams = Streams.of(reference, graph)
    solution = _solve(problem, streams)  # a budget that cannot be met is refused before any training
    architecture = reference.with_widths(streams.expand(solution.widths))
    widths = streams.group_widths(architecture)
    falling = [name for name, width in widths.items() if width < graph.groups[name].channels]
    remove = ChannelRemover(model, graph, example_input(reference), falling, problem.engine)
    trained = trained_reference(problem, model, "l1")
    model = build(reference, problem.seed)
    model.load_state_dict(trained.tensors)
    norms = importance_of(config.ranking, model, graph, list(widths), problem)
    remove(model, graph, {name: surplus(graph, name, norms[name], width) for name, width in widths.items()})
    check_same_network(architecture, model)
    take_statistics_(model, problem)
    trace: dict[str, Any] = {
        "iterations": [],
        "multiplier": solution.scale,
        "trained": trained.values["history"],
        "removal": remove.record(),
    }
    return SearchResult(
        architecture,
        trace,
        solution.one_channel,
        solution.binding,
        weights=model.state_dict(),
        finetuning=Finetuning(config.finetune_epochs, config.finetune_lr),
    )


def _solve(problem: Problem, streams: Streams) -> Solution:
    """The largest share of all channels within the budget, as widths of the groups (G,)."""
    from compressor.search.trained_network import group_costs, same_share

    limits, (costs, present) = problem.budget.limits, group_costs(problem, streams)
    unpruned = {name: costs[name](present.tolist()) for name in limits}
    if all(unpruned[name] < limit for name, limit in limits.items()):
        own_costs = ", ".join(f"{name} {unpruned[name]:,.0f} of {limit:,.0f}" for name, limit in limits.items())
        raise BudgetError(f"budget: l1 only removes filters, and the network is below the budget as it is: {own_costs}")
    bounds = streams.bounds(problem.bounds, present)
    return largest_within(costs, limits, same_share(present), low=0.1, high=1.0, bounds=bounds)


METHOD = Method(
    L1Config,
    search,
    depends_on=("train",),
    trains_first=True,
    sections=(removal_section,),
    lines=(removal_line,),
)
