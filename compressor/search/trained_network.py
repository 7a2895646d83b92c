"""The trained network that some methods cut down: the one that the recipe gives, or one that is trained first."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compressor.costs.solver import Cost, Family, of_widths
from compressor.dependency import DependencyGraph
from compressor.errors import ModelError, RunError
from compressor.models.architecture import Architecture
from compressor.search.problem import Problem
from compressor.search.streams import Streams
from compressor.training.checkpoint import Snapshot, load_snapshot, save_snapshot


def check_exact(reference: Architecture, graph: DependencyGraph, method: str) -> None:
    """Refuse a network whose channels cannot be taken out everywhere.

    Raises:
        ModelError: names the group
    """
    if mixed := [name for name, group in graph.groups.items() if not group.exact]:
        raise ModelError(
            f"model {reference.model}: {method} keeps trained weights, but the channels of {mixed[0]} are shuffled, "
            "so none of them can be taken out everywhere; take another method"
        )


def group_costs(problem: Problem, streams: Streams) -> tuple[dict[str, Cost], NDArray[np.int64]]:
    """The limited costs of widths of the groups (G,), and the widths that the reference has (G,)."""
    reference = problem.reference
    present = np.array([widths[0] for widths in streams.gather(list(reference.widths.values()))])
    limits = problem.budget.limits
    return {name: streams.cost(of_widths(reference, problem.costs[name])) for name in limits}, present


def same_share(present: NDArray[np.int64]) -> Family:
    """The family of widths that are the same share of those present (G,)."""
    return lambda share: np.asarray(share * present, dtype=np.float64)


def trained_reference(problem: Problem, model: nn.Module, method: str) -> Snapshot:
    """The trained reference network, which serves every budget: its weights, and the history of their training.

    Args:
        problem: one that comes with weights was trained before
        model: the reference with fresh weights; may be trained here, as `problem.final` says
        method: that asks for it

    Raises:
        RunError: it has to be trained, and `problem.final` does not say how
        TrainingError: training diverged
    """
    if problem.given is not None:
        return Snapshot(dict(problem.given), {"history": []})
    path = problem.checkpoint(f"{method}-reference.safetensors")
    training = problem.checkpoint(f"{method}-training.safetensors")
    trained = load_snapshot(path) if path is not None else None
    if trained is None:
        if problem.final is None:
            raise RunError(
                f"search.method: {method} trains the network before it prunes it, but problem.final does not say how"
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
