"""Filters of smallest L1 norm are taken out of a trained network (Li et al., "Pruning Filters for Efficient ConvNets",
ICLR 2017), which is then fine-tuned: the only baseline of NeuralScale's section 4.2 that keeps trained weights.

Every width loses the same share of its channels, the share that meets the budget. Where several layers make the same
channels (a residual stream), the norms of their filters are added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from compressor.architecture import Architecture
from compressor.checkpoint import Snapshot, load_snapshot, save_snapshot
from compressor.cost import Cost, of_widths
from compressor.errors import BudgetError, ModelError, RunError
from compressor.models import build, build_meta, follows, plan_of
from compressor.recipe import L1Config
from compressor.search.problem import Finetuning, Problem, SearchResult
from compressor.solve import Bounds, Solution, largest_within
from compressor.widths import WidthPlan, remove_channels_


def search(problem: Problem, config: L1Config) -> SearchResult:
    """Train the reference network, remove its smallest filters, hand over the rest for fine-tuning.

    Raises:
        BudgetError: the budget cannot be met, or the reference is below it already
        ModelError: the network's widths cannot be pruned
        TrainingError: training diverged
    """
    reference = problem.reference
    model = build(reference, problem.seed)
    plan = plan_of(reference)
    streams = _Streams.of(reference, plan)
    solution = _solve(problem, streams)  # a budget that cannot be met is refused before any training
    architecture = reference.with_widths(streams.expand(solution.widths))
    trained = _train(problem, model)
    model = build(reference, problem.seed)
    model.load_state_dict(trained.tensors)
    widths = dict(zip(streams.names, solution.widths, strict=True))
    for name, (source, factor) in follows(reference).items():
        widths[name] = factor * architecture.widths[source]
    remove_channels_(model, plan, {name: smallest_filters(model, plan, name, width) for name, width in widths.items()})
    _check_same_network(architecture, model)
    trace: dict[str, Any] = {"iterations": [], "multiplier": solution.scale, "trained": trained.values["history"]}
    return SearchResult(
        architecture,
        trace,
        solution.one_channel,
        solution.binding,
        weights=model.state_dict(),
        finetuning=Finetuning(config.finetune_epochs, config.finetune_lr),
    )


def filter_norms(model: nn.Module, plan: WidthPlan, name: str) -> torch.Tensor:
    """Sums of the absolute weights that make every unit of a group, (units,), in float64 on the CPU."""
    total = torch.zeros(plan.groups[name].units, dtype=torch.float64)
    for made in plan.producers(name):
        weight = model.get_parameter(made.tensor).detach().cpu().double().abs()
        norms = weight.movedim(made.dim, 0).reshape(weight.shape[made.dim], -1).sum(1)
        total.index_add_(0, torch.as_tensor(made.unit), norms[torch.as_tensor(made.index)])
    return total


def smallest_filters(model: nn.Module, plan: WidthPlan, name: str, width: int) -> list[int]:
    """The units of smallest norm that a group must lose to have `width` channels; of equal ones the first."""
    group = plan.groups[name]
    surplus = group.units - width // group.step
    return sorted(filter_norms(model, plan, name).argsort(stable=True)[:surplus].tolist())


@dataclass(frozen=True)
class _Streams:
    """Which widths of an architecture a trained network ties together.

    With `shortcut: conv` and equal widths the shortcuts of the reference are identities, so the widths of a residual
    stream, which the architecture names one by one, lose the same channels.

    Attributes:
        names: (G,) groups of the network's plan
        members: (L,) index of its group for every width of the architecture
        reference: (L,) names of those widths
    """

    names: tuple[str, ...]
    members: tuple[int, ...]
    reference: tuple[str, ...]

    @classmethod
    def of(cls, architecture: Architecture, plan: WidthPlan) -> _Streams:
        """Find the group of every width.

        Raises:
            ModelError: a width has none, or removing from one would mix up trained channels
        """
        makers = {f"{name}.weight": name for name in architecture.widths}
        found: dict[str, str] = {}
        for group in plan.groups:
            for made in plan.producers(group):
                if made.tensor in makers:
                    found[makers[made.tensor]] = group
        found |= {name: name for name in architecture.widths if name in plan.groups}
        if missing := set(architecture.widths) - set(found):
            reason = "; ".join(plan.fixed.values()) or "no layer makes it"
            raise ModelError(f"model {architecture.model}: the width of {min(missing)} cannot be pruned: {reason}")
        if mixed := [name for name, group in plan.groups.items() if not group.exact]:
            raise ModelError(
                f"model {architecture.model}: l1 keeps trained weights, but the channels of {mixed[0]} are shuffled, "
                "so none of them can be taken out everywhere; take another method"
            )
        names = tuple(dict.fromkeys(found[name] for name in architecture.widths))
        return cls(names, tuple(names.index(found[name]) for name in architecture.widths), tuple(architecture.widths))

    def expand(self, widths: Sequence[int]) -> dict[str, int]:
        """Widths of the groups (G,) as {width name: channels}."""
        return {name: int(widths[member]) for name, member in zip(self.reference, self.members, strict=True)}

    def gather(self, values: Sequence[int]) -> list[list[int]]:
        """Values of the architecture's widths (L,), those of one group together."""
        gathered: list[list[int]] = [[] for _ in self.names]
        for member, value in zip(self.members, values, strict=True):
            gathered[member].append(int(value))
        return gathered


def _solve(problem: Problem, streams: _Streams) -> Solution:
    """The largest share of all channels within the budget, as widths of the groups (G,)."""
    reference, limits = problem.reference, problem.budget.limits
    present = np.array([widths[0] for widths in streams.gather(list(reference.widths.values()))])
    costs = {name: _of_groups(streams, of_widths(reference, problem.costs[name])) for name in limits}
    unpruned = {name: costs[name](present.tolist()) for name in limits}
    if all(unpruned[name] < limit for name, limit in limits.items()):
        told = ", ".join(f"{name} {unpruned[name]:,.0f} of {limit:,.0f}" for name, limit in limits.items())
        raise BudgetError(f"budget: l1 only removes filters, and the network is below the budget as it is: {told}")
    bounds = _bounds(problem, streams, present)
    return largest_within(costs, limits, lambda share: share * present, 0.1, 1.0, bounds)


def _of_groups(streams: _Streams, cost: Cost) -> Cost:
    return lambda widths: cost([widths[member] for member in streams.members])


def _bounds(problem: Problem, streams: _Streams, present: np.ndarray[Any, Any]) -> Bounds:
    """The problem's bounds for groups (G,), none wider than the trained network."""
    given = problem.bounds.of(len(streams.members))
    multiple = np.array([math.lcm(*values) for values in streams.gather(given.multiple.tolist())])
    minimum = np.array([max(values) for values in streams.gather(given.minimum.tolist())])
    maximum = np.array([min(values) for values in streams.gather(given.maximum.tolist())])
    maximum = np.minimum(maximum, present)
    # A group that is narrower than its least width keeps the width that it has.
    narrow = -(-minimum // multiple) * multiple > maximum
    return Bounds(np.where(narrow, present, minimum), np.where(narrow, present, maximum), multiple)


def _train(problem: Problem, model: nn.Module) -> Snapshot:
    """The trained reference network, which serves every budget: its weights, and the history of their training."""
    path = problem.checkpoint("l1-reference.safetensors")
    training = problem.checkpoint("l1-training.safetensors")
    trained = load_snapshot(path) if path is not None else None
    if trained is None:
        if problem.final is None:
            raise RunError("search.method: l1 trains the network before it prunes it, but was not told how (final)")
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


def _check_same_network(architecture: Architecture, model: nn.Module) -> None:
    """Refuse widths at which the network is built otherwise, since two that became equal drop a shortcut's layer."""
    shapes: list[Mapping[str, torch.Size]] = [
        {name: tensor.shape for name, tensor in network.state_dict().items()}
        for network in (build_meta(architecture), model)
    ]
    if shapes[0] != shapes[1]:
        changed = min(name for name in {*shapes[0], *shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
        raise ModelError(
            f"model {architecture.model}: at the widths of this budget it has other layers ({changed}) than the "
            "trained network, whose weights do not fit; take another budget or model.options.shortcut: identity"
        )
