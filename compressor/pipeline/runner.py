"""One way through: recipe → search → train → export → bench → report, each stage a file in the run folder.

A stage whose file is there is not run again, so a run can stop anywhere and go on. The networks that are trained beside
the result (the uniform scaling, the unscaled one) are trained, exported and measured exactly as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compressor.data import DataSet
from compressor.errors import RecipeError
from compressor.files import read_json
from compressor.pipeline import run_folder
from compressor.pipeline.context import Progress as Progress
from compressor.pipeline.context import RunContext, Tracker
from compressor.pipeline.context import Shared as Shared
from compressor.pipeline.context import Stopped as Stopped
from compressor.pipeline.doctor import check_provider
from compressor.pipeline.lock import alone_in
from compressor.pipeline.precision_plan import resolved
from compressor.pipeline.stages import STAGES as STAGES
from compressor.pipeline.stages.export import export_current
from compressor.recipe import Recipe, costs, method_of, methods
from compressor.search import Unfinished
from compressor.training.distributed import Team
from compressor.training.trainer import Paused


def run(
    recipe: Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    until: str = "report",
    progress: Progress = lambda stage, text, share: None,
    shared: Shared | None = None,
    pause: Callable[[], bool] = lambda: False,
    stop_at: float | None = None,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Run a recipe into a folder.

    Args:
        recipe: what to do
        out: the run folder; must be empty or absent unless `resume`
        resume: go on in a folder that this recipe has begun
        until: last stage to run, one of `STAGES`
        progress: called with stage, text and share done
        shared: what this run has in common with others
        pause: asked after every step of training; True ends the run there, to be resumed
        stop_at: end the run after so many epochs of a search that has a network at any time
        tracker: is told of epochs, and of the report

    Returns:
        the report, or {} if `until` is an earlier stage

    Raises:
        Stopped: paused or stopped; the run goes on with `resume` as if it had not been
        CompressorError: see compressor.errors
    """
    folder = Path(out)
    if stop_at is not None and not stop_at > 0:
        raise RecipeError(f"--stop-at: {stop_at} is not a number of epochs above 0")
    if stop_at is not None and not method_of(recipe.search).anytime:
        able = ", ".join(name for name, method in methods().items() if method.anytime)
        raise RecipeError(f"--stop-at: search.method: {recipe.search.method} has no network to stop at; valid: {able}")
    with alone_in(folder):
        run_folder.claim(folder, recipe, resume)
        return _run_stages(
            RunContext(
                recipe,
                folder,
                progress=progress,
                shared=shared or Shared(),
                pause=pause,
                stop_at=stop_at,
                tracker=tracker,
            ),
            until,
        )


def continue_run(
    out: Path | str,
    until: str,
    progress: Progress = lambda stage, text, share: None,
    pause: Callable[[], bool] = lambda: False,
    *,
    trust: bool = False,
) -> dict[str, Any]:
    """Go on in a run folder up to a stage, with the recipe that it holds; see `run`.

    Where that recipe names code, and this user has not begun the run here, `trust` says that the code may run.
    """
    folder = Path(out)
    recipe = run_folder.load(folder, trust)
    with alone_in(folder):
        return _run_stages(RunContext(recipe, folder, progress, pause=pause), until)


def join(out: Path | str, team: Team) -> None:
    """In the processes of torchrun beside the first: take part in whatever that one trains in a run folder."""
    contexts: dict[str, RunContext] = {}

    def data(recipe: Recipe) -> DataSet:
        key = recipe.to_yaml()
        if key not in contexts:
            contexts[key] = RunContext(recipe, Path(out), lambda stage, text, share: None)
        return contexts[key].data

    team.serve(data)


def _run_stages(context: RunContext, until: str) -> dict[str, Any]:
    """Run the stages up to `until`."""
    names = list(STAGES)
    asked = names[: names.index(until) + 1]
    timed = any(costs()[name].timed for name in context.recipe.budget.names)
    if (timed or "bench" in asked) and not (context.out / "latency.json").exists():
        check_provider(context.recipe.measured.provider)  # now, not after hours of training
    run_folder.tidy(context.out)
    run_folder.check_files(context.out)
    recipe = context.recipe
    if context.team is not None:
        context.team.recipe = recipe
    for name in asked:
        context.stage, context.span = name, (0.0, 1.0)
        context.stop_if_asked()
        run_folder.record(context.out, name, recipe)
        context.recipe = resolved(context)
        try:
            with context.log.timing(name):
                STAGES[name](context)
            run_folder.seal(context.out, name)
        except Paused as paused:
            raise Stopped(f"{name}: {paused}") from paused
        except Unfinished as unfinished:
            raise Stopped(f"{name}: {unfinished}", export_current(context, unfinished)) from unfinished
    report: dict[str, Any] = read_json(context.out / "report.json") if until == "report" else {}
    if report and context.tracker is not None:
        context.tracker.end(report, context.out)
    return report
