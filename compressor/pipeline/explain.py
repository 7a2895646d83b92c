"""What a recipe will do, what its budget means for the network, and how long training will take, before anything runs.

A few steps of the unscaled network and of the one that is scaled uniformly to the budget are trained and timed. Other
methods find other networks, of other times, and what a search itself trains is not estimated.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from compressor.costs import params_macs
from compressor.models import build
from compressor.models.architecture import Architecture
from compressor.pipeline.context import RunContext
from compressor.pipeline.settings import final_settings, finetuning_settings
from compressor.pipeline.stages.search import Prepared, begins_with, prepare
from compressor.recipe import Recipe, method_of
from compressor.report.format import duration
from compressor.search import search
from compressor.search.calibration import calibrated
from compressor.search.methods.uniform import UniformConfig
from compressor.training.checkpoint import Snapshot
from compressor.training.trainer import Settings

_WARM, _TIMED = 1, 3  # steps


@dataclass(frozen=True)
class TrainingEstimate:
    """How long a network trains in the end.

    Attributes:
        network: result, uniform, reference, ...
        epochs: 0: it is taken as it is; None: the search trains it, and says how long it trains on
        seconds: without evaluation; None: not estimated
    """

    network: str
    epochs: int | None
    seconds: float | None


@dataclass(frozen=True)
class Explanation:
    """What a recipe will do.

    Attributes:
        network: name of the unscaled network
        costs: {cost: what the unscaled network has of it}, params, macs and what is limited
        samples: {part: number} of the data
        input_shape: of one sample
        classes: how many
        limits: {cost: limit}
        widths: {group: (unscaled channels, channels of uniform scaling to the budget)}
        scaled: {cost: what that network has of it}
        method: of the search
        trains: whether the search trains networks as well
        training: of the result, at the widths of uniform scaling, and of the networks beside it
        step_seconds: {"unscaled", "scaled": of a step}, where they were timed
        memory_gib: most that this process, or the GPU, held while these steps were trained
    """

    network: str
    costs: dict[str, float]
    samples: dict[str, int]
    input_shape: tuple[int, ...]
    classes: int
    limits: dict[str, float]
    widths: dict[str, tuple[int, int]]
    scaled: dict[str, float]
    method: str
    trains: bool
    training: list[TrainingEstimate]
    step_seconds: dict[str, float]
    memory_gib: float | None


def explain(recipe: Recipe, progress: Callable[[str, str, float | None], None]) -> Explanation:
    """Find out what a recipe will do; leaves nothing behind.

    Raises:
        CompressorError: what a run would be refused for, see compressor.errors
    """
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        context = RunContext(recipe, Path(folder), progress)
        found = prepare(context)
        scaled = calibrated(search, found.problem, UniformConfig()).architecture
        steps = {} if recipe.train.function else _step_seconds(context, {"unscaled": found.unscaled, "scaled": scaled})
        data, costs = context.data, found.problem.costs
        named = [*params_macs.COSTS, *(name for name in found.limited.own if name not in params_macs.COSTS)]
        return Explanation(
            network=recipe.model.name,
            costs={name: float(costs[name](found.unscaled)) for name in named},
            samples={name: len(getattr(data, name)) for name in ("train", "validation", "test")},
            input_shape=tuple(data.input_shape),
            classes=data.classes,
            limits=dict(found.limited.budget.limits),
            widths={name: (width, scaled.widths[name]) for name, width in found.unscaled.widths.items()},
            scaled={name: float(costs[name](scaled)) for name in named},
            method=recipe.search.method,
            trains=method_of(recipe.search).trains,
            training=_training(context, found, steps),
            step_seconds=steps,
            memory_gib=_memory_gib(context.device) if steps else None,
        )


def _training(context: RunContext, found: Prepared, steps: dict[str, float]) -> list[TrainingEstimate]:
    recipe, method = context.recipe, method_of(context.recipe.search)
    scaled, unscaled = begins_with(recipe, found.problem, found.trained)
    searched = method.anytime or (method.trains_first and found.trained is None)
    estimates = []
    for name in ("result", *recipe.baselines):
        begins = unscaled if name == "reference" else scaled
        settings = final_settings(recipe.train) if begins == "fresh" else finetuning_settings(recipe)
        epochs = None if searched and name == "result" else 0 if begins == "given" else settings.epochs
        step = steps.get("unscaled" if name == "reference" else "scaled")
        seconds = None
        if epochs is not None and step is not None:
            per_epoch, _ = found.problem.trainer.epoch_size(settings.batch_size)
            seconds = epochs * per_epoch * step
        estimates.append(TrainingEstimate(name, epochs, seconds))
    return estimates


def _step_seconds(context: RunContext, networks: dict[str, Architecture]) -> dict[str, float]:
    """Train each for a moment; seconds of a step."""
    settings = replace(final_settings(context.recipe.train), epochs=None, evaluate=False)
    return {name: _timed(context, architecture, settings) for name, architecture in networks.items()}


def _timed(context: RunContext, architecture: Architecture, settings: Settings) -> float:
    trainer, clock = context.trainer(architecture), _Clock(context.device)
    model = trainer.prepare(build(architecture, context.recipe.seed))
    trainer.fit(model, settings, seed=context.recipe.seed, label="timing", observer=clock)
    return (clock.ends[-1] - clock.ends[_WARM - 1]) / (len(clock.ends) - _WARM)


@dataclass
class _Clock:
    """An observer that notes when steps end, and ends training after a few."""

    device: torch.device
    ends: list[float] = field(default_factory=list)

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> None:
        """Nothing to prepare."""

    def after_backward(self) -> None:
        """Nothing to look at."""

    def after_step(self) -> bool:
        """Note the time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())
        return len(self.ends) >= _WARM + _TIMED

    def state(self) -> Snapshot:
        """Nothing is kept."""
        return Snapshot({}, {})

    def restore(self, snapshot: Snapshot) -> None:
        """Nothing was kept."""


def _memory_gib(device: torch.device) -> float | None:
    """The most memory held so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)


def explanation_lines(found: Explanation) -> list[str]:
    """An explanation as lines of at most some 80 columns."""
    shape, samples = "x".join(map(str, found.input_shape)), found.samples
    parts = f"{samples['train']:,} training, {samples['validation']:,} validation, {samples['test']:,} test samples"
    lines = [f"network  {found.network}: " + ", ".join(f"{name} {_number(v)}" for name, v in found.costs.items())]
    lines += [f"data     {parts} of {shape}, {found.classes} classes"]
    lines += [
        f"budget   {name}: {_number(limit)}, {limit / found.costs[name]:.3g} of the unscaled network's"
        for name, limit in found.limits.items()
    ]
    lines += ["", "Uniform scaling to the budget, which every search is compared with:"]
    width = max(map(len, found.widths), default=0)
    lines += [f"  {name:<{width}}  {old:>5} -> {new}" for name, (old, new) in found.widths.items()]
    lines += [f"  {', '.join(f'{name} {_number(value)}' for name, value in found.scaled.items())}", ""]
    more = "; it trains networks as well, which is not estimated" if found.trains else ""
    lines += [f"1 search  {found.method}{more}"]
    for place, one in enumerate(found.training):
        about = "as it is" if one.epochs == 0 else f"{one.epochs} epochs" + _about(one.seconds)
        about = "trained by the search" if one.epochs is None else about
        lines.append(f"{'2 train ' if not place else '        '}  {one.network}: {about}")
    lines += ["3 export  4 bench  5 report"]
    if found.memory_gib is not None:
        lines += ["", f"memory   {found.memory_gib:.1f} GiB were held while a few steps were trained here"]
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def _about(seconds: float | None) -> str:
    return "" if seconds is None else f", about {duration(seconds)}"
