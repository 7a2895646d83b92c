"""Filters of smallest L1 norm are taken out of a trained network (Li et al., "Pruning Filters for Efficient ConvNets",
ICLR 2017), which is then fine-tuned: the only baseline of NeuralScale's section 4.2 that keeps trained weights.

Every width loses the same share of its channels, the share that meets the budget. Where several layers make the same
channels (a residual stream), the norms of their filters are added up.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, PositiveFloat

from compressor.costs.solver import Solution, largest_within, of_widths
from compressor.errors import BudgetError, ModelError, RunError
from compressor.models.architecture import Architecture
from compressor.recipe.method import Method, MethodConfig
from compressor.recipe.values import PositiveInt
from compressor.report.removal import removal_line, removal_section
from compressor.search.problem import Finetuning, Problem, SearchResult

if TYPE_CHECKING:
    from torch import nn

    from compressor.dependency import DependencyGraph
    from compressor.search.streams import Streams
    from compressor.training.checkpoint import Snapshot


class L1Config(MethodConfig):
    """Filters of smallest L1 norm leave a trained network, which is then fine-tuned (Li et al., ICLR 2017)."""

    method: Literal["l1"] = "l1"
    ranking: Literal["l1"] = "l1"
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
    from compressor.search.streams import Streams, check_same_network

    reference = problem.reference
    model = build(reference, problem.seed)
    graph = graph_of(reference)
    _check_exact(reference, graph)
    streams = Streams.of(reference, graph)
    solution = _solve(problem, streams)  # a budget that cannot be met is refused before any training
    architecture = reference.with_widths(streams.expand(solution.widths))
    widths = streams.group_widths(architecture)
    falling = [name for name, width in widths.items() if width < graph.groups[name].channels]
    remove = ChannelRemover(model, graph, example_input(reference), falling, problem.engine)
    trained = _train(problem, model)
    model = build(reference, problem.seed)
    model.load_state_dict(trained.tensors)
    norms = importance_of(config.ranking, model, graph, list(widths), problem)
    remove(model, graph, {name: surplus(graph, name, norms[name], width) for name, width in widths.items()})
    check_same_network(architecture, model)
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


def _check_exact(reference: Architecture, graph: DependencyGraph) -> None:
    if mixed := [name for name, group in graph.groups.items() if not group.exact]:
        raise ModelError(
            f"model {reference.model}: l1 keeps trained weights, but the channels of {mixed[0]} are shuffled, "
            "so none of them can be taken out everywhere; take another method"
        )


def _solve(problem: Problem, streams: Streams) -> Solution:
    """The largest share of all channels within the budget, as widths of the groups (G,)."""
    reference, limits = problem.reference, problem.budget.limits
    present = np.array([widths[0] for widths in streams.gather(list(reference.widths.values()))])
    costs = {name: streams.cost(of_widths(reference, problem.costs[name])) for name in limits}
    unpruned = {name: costs[name](present.tolist()) for name in limits}
    if all(unpruned[name] < limit for name, limit in limits.items()):
        own_costs = ", ".join(f"{name} {unpruned[name]:,.0f} of {limit:,.0f}" for name, limit in limits.items())
        raise BudgetError(f"budget: l1 only removes filters, and the network is below the budget as it is: {own_costs}")
    bounds = streams.bounds(problem.bounds, present)
    return largest_within(costs, limits, lambda share: share * present, low=0.1, high=1.0, bounds=bounds)


def _train(problem: Problem, model: nn.Module) -> Snapshot:
    """The trained reference network, which serves every budget: its weights, and the history of their training.

    One that comes with weights was trained before.
    """
    from compressor.training.checkpoint import Snapshot, load_snapshot, save_snapshot

    if problem.given is not None:
        return Snapshot(dict(problem.given), {"history": []})
    path = problem.checkpoint("l1-reference.safetensors")
    training = problem.checkpoint("l1-training.safetensors")
    trained = load_snapshot(path) if path is not None else None
    if trained is None:
        if problem.final is None:
            raise RunError(
                "search.method: l1 trains the network before it prunes it, but problem.final does not say how"
            )
        model = problem.trainer.prepare(model)
        history = problem.trainer.fit(
            model, problem.final, seed=problem.seed, label="search training", checkpoint=training
        )
        trained = Snapshot(
            {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
            {"history": [asdict(record) for record in history]},
        )
        if path is not None:
            save_snapshot(path, trained)
    if training is not None:
        training.unlink(missing_ok=True)
    return trained


METHOD = Method(L1Config, search, depends_on=("train",), sections=(removal_section,), lines=(removal_line,))
