"""Pre-training a network and pruning it while it trains on (NeuralScale Algorithm 1), for the methods that do so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compressor.dependency import ChannelRemover, DependencyGraph
from compressor.errors import ModelError
from compressor.models import build, example_input, follows, graph_of, prunable
from compressor.models.architecture import Architecture
from compressor.search.prices import Prices
from compressor.search.problem import Problem
from compressor.search.pruning_config import PruningConfig
from compressor.search.taylor_pruner import PruneSettings, TaylorPruner
from compressor.training.trainer import Settings


@dataclass(frozen=True)
class Trajectory:
    """How the widths fell in one pruning phase.

    Attributes:
        params: (N,) parameters after every event, of the network that has these widths. Where another build of it is
            pruned (`shortcut: conv`), its own are counted, not those of that build
        widths: (N, L) channels after every event, in the order of the architecture's widths
        early: how many of these events came before every group had lost a channel
        last: (L,) channels when pruning ended
        reason: why pruning ended
        pretrain_seconds: spent on training before
        seconds: spent on pruning
        removal: which engine removed the channels of which groups, see `ChannelRemover.record`
    """

    params: list[int]
    widths: list[list[int]]
    early: int
    last: list[int]
    reason: str
    pretrain_seconds: float
    seconds: float
    removal: dict[str, Any]


def prune(
    problem: Problem,
    config: PruningConfig,
    architecture: Architecture,
    *,
    name: str,
    label: str,
    seed: int,
    floor: float,
    prices: Prices | None = None,
) -> Trajectory:
    """Train a fresh network, then prune it while it trains on.

    Args:
        problem: trainer, seed and folder of checkpoints; frozen groups keep their width
        config: how to train and when to remove what
        architecture: what to build
        name: of the checkpoint files; the same name resumes
        label: what the progress line calls this
        seed: of weights and data order
        floor: stop below this share of the channels of the groups that are not frozen
        prices: weigh a channel's importance against what it costs; None: importance alone counts

    Raises:
        ModelError: the network's widths cannot be pruned each by itself, or not by the engine that the recipe names
        TrainingError: training diverged
    """
    pruned = prunable(architecture)
    model = build(pruned, seed)
    problem.begin_with_given_(model, pruned)
    graph = graph_of(pruned)
    _check_independent(pruned, graph)
    model = problem.trainer.prepare(model)
    searched = searched_groups(problem)
    following = [name for name, (source, _) in follows(pruned).items() if source in searched]
    losing = [name for name in (*searched, *following) if graph.groups[name].exact]
    remover = ChannelRemover(model, graph, example_input(pruned), losing, problem.engine)
    pruner = TaylorPruner(
        graph,
        searched,
        follows(pruned),
        PruneSettings(
            config.prune_every,
            config.prune_channels,
            floor,
            dict(zip(problem.reference.widths, problem.bounds.minimum.tolist(), strict=True)),
            config.at_minimum == "stop",
        ),
        remover,
        prices,
    )
    pretraining, pruning = _checkpoints(name)
    kept = problem.checkpoint(pruning)
    if config.pretrain_epochs and not (kept and kept.exists()):
        history = problem.trainer.fit(
            model,
            _settings(config, config.pretrain_epochs, lambda step, per_epoch: config.lr),
            seed=seed,
            label=f"{label} pre-training",
            checkpoint=problem.checkpoint(pretraining),
        )
        pruner.pretrain_seconds = sum(record.seconds for record in history)

    def lr_at(step: int, per_epoch: int) -> float:
        return config.prune_lr / config.prune_lr_decay ** (step // (per_epoch * config.prune_lr_every))

    problem.trainer.fit(
        model,
        _settings(config, None, lr_at),
        seed=seed + 1,
        label=f"{label} pruning",
        observer=pruner,
        checkpoint=kept,
    )
    return _trajectory(problem, architecture, pruner, remover.record(), counted=pruned == architecture)


def discard(problem: Problem, name: str) -> None:
    """Delete the checkpoints of a pruning phase whose outcome is recorded."""
    for file in _checkpoints(name):
        if (path := problem.checkpoint(file)) is not None:
            path.unlink(missing_ok=True)


def _check_independent(architecture: Architecture, graph: DependencyGraph) -> None:
    """Refuse a network in which other channels go together than its widths say.

    Raises:
        ModelError: names a width that cannot be pruned by itself
    """
    if missing := (set(architecture.widths) | set(follows(architecture))) ^ set(graph.groups):
        raise ModelError(
            f"model {architecture.model}: the width of {min(missing)} cannot be pruned on its own; "
            "this method needs a network whose searched widths are independent of each other"
        )


def searched_groups(problem: Problem) -> list[str]:
    """The groups that may change, in the order of the reference's widths."""
    frozen = problem.bounds.frozen
    return [name for name, keep in zip(problem.reference.widths, frozen, strict=True) if not keep]


def _trajectory(
    problem: Problem, architecture: Architecture, pruner: TaylorPruner, removal: dict[str, Any], counted: bool
) -> Trajectory:
    names = list(architecture.widths)
    recorded = [dict(architecture.widths) | widths for _, widths in pruner.records]
    params = [count for count, _ in pruner.records]
    if not counted:
        params = [int(problem.costs["params"](architecture.with_widths(widths))) for widths in recorded]
    return Trajectory(
        params=params,
        widths=[[widths[name] for name in names] for widths in recorded],
        early=pruner.early,
        last=[pruner.widths[name] for name in names],
        reason=pruner.reason,
        pretrain_seconds=pruner.pretrain_seconds,
        seconds=pruner.seconds,
        removal=removal,
    )


def _checkpoints(name: str) -> tuple[str, str]:
    return f"{name}-pretrain.safetensors", f"{name}-prune.safetensors"


def _settings(config: PruningConfig, epochs: int | None, lr_at: Callable[[int, int], float]) -> Settings:
    return Settings(
        epochs=epochs,
        batch_size=config.batch_size,
        lr_at=lr_at,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        evaluate=False,
    )
