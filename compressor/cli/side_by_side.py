"""Options of `compressor sweep` that say where its runs run side by side. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from compressor.pipeline.scheduler import Executor
    from compressor.recipe import Recipe

_Function = TypeVar("_Function", bound=Callable[..., object])


def side_by_side(function: _Function) -> _Function:
    """Give a command the options `workers`, `ray` and `slurm`."""
    options = (
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            help="Run so many runs side by side, each with its share of the cores.",
        ),
        click.option(
            "--ray", metavar="ADDRESS", help="Run them on this Ray cluster: HOST:PORT, auto for the one here, or local."
        ),
        click.option(
            "--slurm",
            metavar="KEY=VALUE,...",
            help="Run them as jobs of Slurm, set as submitit has it, such as slurm_partition=gpu,timeout_min=60.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def executor_of(
    recipe: Recipe, *, workers: int | None, ray: str | None, slurm: str | None
) -> Callable[[Path], Executor] | None:
    """What a sweep's runs run on, see `compressor.pipeline.compare.compare_methods`; None: one after the other.

    Raises:
        click.UsageError: several are given, or settings of Slurm that are none
    """
    given = [name for name, value in (("--workers", workers), ("--ray", ray), ("--slurm", slurm)) if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} and {given[1]} exclude each other")
    if not given:
        return None
    from compressor.bench.machine import usable_cores
    from compressor.pipeline.executors import LocalPool, RayTasks, SlurmJobs

    if workers is not None:
        threads = recipe.threads or max(1, usable_cores() // workers)
        return lambda folder: LocalPool(workers, threads)
    cpus = recipe.threads or 1
    if ray is not None:
        return lambda folder: RayTasks(ray, cpus=cpus, gpus=_gpus(recipe))
    pairs = [part.partition("=") for part in (slurm or "").split(",")]
    if wrong := ["".join(pair) for pair in pairs if not all(pair)]:
        raise click.UsageError(f"--slurm: {wrong[0]!r} in {slurm!r} must look like key=value")
    settings = {key.strip(): value.strip() for key, _, value in pairs}
    return lambda folder: SlurmJobs(folder, settings, cpus=cpus, gpus=_gpus(recipe))


def _gpus(recipe: Recipe) -> int:
    """GPUs that a run asks for: one, if it would train on one here."""
    from compressor.training.trainer import pick_device

    return int(pick_device(recipe.device).type == "cuda")
