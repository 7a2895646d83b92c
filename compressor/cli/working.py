"""Carrying out a recipe from the command line: progress on the terminal, signals, and what it led to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.cli.interrupts import Interrupts, silence_all_but_first
from compressor.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from compressor.cli.progress import Console
    from compressor.pipeline.runner import Progress, Stopped
    from compressor.recipe import Recipe


def run_recipe(
    recipe: Path,
    out: Path,
    overrides: tuple[str, ...],
    *,
    resume: bool,
    until: str,
    stop_at: float | None,
    open_page: bool = False,
    trackers: tuple[str, ...] = (),
) -> None:
    """Run a recipe file up to a stage, and say what that led to."""
    from compressor.integrations.trackers import Trackers
    from compressor.recipe import load_recipe

    silence_all_but_first()
    loaded = load_recipe(recipe, overrides)  # before torch: bad input is refused at once
    tracker = Trackers(trackers, loaded, out, lambda text: click.echo(f"warning: {text}", err=True))
    from compressor.pipeline.runner import run

    try:
        carry_out(
            loaded,
            out,
            until,
            lambda progress, pause: run(
                loaded,
                out,
                resume=resume,
                until=until,
                progress=progress,
                pause=pause,
                stop_at=stop_at,
                tracker=tracker if trackers else None,
            ),
            open_page,
        )
    finally:
        tracker.close()


def go_on(out: Path, until: str, trust: bool, open_page: bool = False, tables: bool = False) -> None:
    """Go on in a run folder up to a stage, and say what that led to."""
    from compressor.pipeline import run_folder

    silence_all_but_first()
    recipe = run_folder.load(out, trust)  # before torch: bad input is refused at once
    from compressor.pipeline.runner import continue_run

    def work(progress: Progress, pause: Callable[[], bool]) -> dict[str, Any]:
        return continue_run(out, until, progress, pause, trust=trust)

    carry_out(recipe, out, until, work, open_page, tables)


def carry_out(
    recipe: Recipe,
    out: Path,
    until: str,
    work: Callable[[Progress, Callable[[], bool]], dict[str, Any]],
    open_page: bool,
    tables: bool = False,
) -> None:
    """Run stages with progress on the terminal, and say what they led to."""
    from compressor.pipeline.runner import Stopped, join
    from compressor.training.distributed import teamwork
    from compressor.training.trainer import pick_device

    interrupts = Interrupts()
    try:
        with teamwork(pick_device(recipe.device)) as team:
            if team is not None and team.rank:
                join(out, team)
                raise click.exceptions.Exit  # what the command says and writes then is process 0's
            with interrupts, console() as terminal:
                report = work(terminal.progress, interrupts)
    except Stopped as stopped:
        _conclude_early(stopped, out, interrupts.pressed)
        return
    if tables:
        tables_of(out / "report.html")
    if open_page:
        show(out / "report.html")
    _conclude(report, out, until)


def tables_of(page: Path) -> None:
    """Write the tables of a page beside it, and say where."""
    from compressor.files import read_text
    from compressor.report.tables import write_tables

    written = write_tables(read_text(page), page.parent / "tables")
    click.echo(f"tables: {page.parent / 'tables'} ({len(written)} files)")


def show(page: Path) -> None:
    """Open a page in the browser; without one, the run is as good."""
    if click.launch(str(page)) != 0:
        click.echo(f"no browser opens: {page}", err=True)


def _conclude_early(stopped: Stopped, out: Path, interrupted: bool) -> None:
    """Say what a run has that was stopped while it trained; raises Failure if that was by Ctrl-C."""
    if current := stopped.current:
        metric, budget = current["metric"], current["budget"]
        parts = [f"{name} {budget['costs'][name]:,.0f} of {limit:,.0f}" for name, limit in budget["limits"].items()]
        click.echo(f"current network: {out / 'now' / 'model.onnx'}")
        click.echo(f"  {', '.join(parts)}; {metric['name']} {metric['onnx']:.4f}")
    message = f"{stopped}; {out} goes on with the same command and --resume"
    if interrupted:
        raise Failure(message, 130)
    click.echo(message)


def console() -> Console:
    """Progress on the terminal."""
    from compressor.cli.progress import Console

    return Console()


def _conclude(report: dict[str, Any], out: Path, until: str) -> None:
    if until != "report":
        written = {"search": "architecture.json", "train": "weights.safetensors", "export": "model.onnx"}[until]
        click.echo(f"{until} done: {out / written}")
        return
    from compressor.report import summary_lines

    for line in summary_lines(report):
        click.echo(line)
    click.echo(f"model:  {out / 'model.onnx'}\nreport: {out / 'report.html'}")
    if not report["budget"]["met"]:
        click.get_current_context().exit(1)
