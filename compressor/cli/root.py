"""The command line. Torch is imported only inside commands, so that --help answers at once.

Exit codes: 0 budget met, 1 budget or gate missed, 2 bad input, 3 the machine lacks something (GPU, provider,
package), 4 a gate without a verdict, 70 a bug of ours, 130 interrupted.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import click

from compressor import __version__
from compressor.cli.bench import bench_command
from compressor.cli.command import command
from compressor.cli.completion import completion_command
from compressor.cli.inspect import inspect_command
from compressor.cli.interrupts import silence_all_but_first
from compressor.cli.latency_gate import baseline_command, gate_command
from compressor.cli.networks import models_command, widths_command
from compressor.cli.olive_config import olive_config_command
from compressor.cli.recipes import recipes
from compressor.cli.side_by_side import executor_of, side_by_side
from compressor.cli.working import carry_out, console, go_on, run_recipe, show, tables_of
from compressor.errors import RecipeError
from compressor.failures import Failure

_ORDER = (
    *("recipes", "explain", "run", "shrink", "sweep"),
    *("inspect", "bench", "compare", "baseline"),
    *("search", "train", "export", "report"),
    *("models", "widths", "schema", "doctor", "completion", "olive-config"),
)


class _Commands(click.Group):
    """The commands in the order of the work, some of which had another name that still works."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """What --help lists; a command of another package's comes last."""
        place = {name: number for number, name in enumerate(_ORDER)}
        return sorted(super().list_commands(ctx), key=lambda name: place.get(name, len(place)))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name or its earlier one."""
        return super().get_command(ctx, {"compare-methods": "sweep"}.get(cmd_name, cmd_name))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="compressor")
def main() -> None:
    """Compress a network to a budget: a trained ONNX model that meets it, with the evidence.

    Begin with `compressor recipes list`, then `compressor run RECIPE -o OUT`.
    """
    warnings.filterwarnings("ignore", message=r"Image size .* exceeds limit")  # we refuse such images in a sentence


_recipe = click.argument("recipe", type=click.Path(path_type=Path))
_out = click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Run folder.")
_set = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe value.")
_resume = click.option("--resume", is_flag=True, help="Go on with an interrupted run in OUT.")
_trust = click.option(
    "--trust", is_flag=True, help="Import the code that the recipe in OUT names, though another user wrote it there."
)
_open = click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
_log = click.option(
    "--log",
    "trackers",
    multiple=True,
    metavar="NAME",
    help="Log epochs and the result to tensorboard, mlflow or wandb; may repeat.",
)
_tables = click.option(
    "--tables", is_flag=True, help="Write every table of the page to OUT/tables as well, as CSV and Markdown."
)
_stop_at = click.option(
    "--stop-at",
    type=click.FloatRange(min=0, min_open=True),
    metavar="EPOCHS",
    help="Stop growing after so many epochs; the network of then is exported to OUT/now, --resume goes on.",
)
_folder = click.argument("out", type=click.Path(path_type=Path))


@command(main, "explain", "compressor explain recipes/quickstart.yaml --set budget.macs=0.3x")
@_recipe
@_set
def explain_command(recipe: Path, overrides: tuple[str, ...]) -> None:
    """Say what a recipe will do, what its budget means in widths, and how long training will take; runs nothing."""
    from compressor.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)  # before torch: bad input is refused at once
    from compressor.pipeline.explain import explain, explanation_lines

    with console() as terminal:
        found = explain(loaded, terminal.progress)
    for line in explanation_lines(found):
        click.echo(line)


@command(main, "run", "compressor run recipes/quickstart.yaml -o runs/first --set budget.macs=0.3x")
@_recipe
@_out
@_set
@_resume
@_stop_at
@_log
@_open
def run_command(
    *,
    recipe: Path,
    out: Path,
    overrides: tuple[str, ...],
    resume: bool,
    stop_at: float | None,
    trackers: tuple[str, ...],
    open_page: bool,
) -> None:
    """Search, train, export, measure and report: everything."""
    run_recipe(
        recipe, out, overrides, resume=resume, until="report", stop_at=stop_at, open_page=open_page, trackers=trackers
    )


@command(
    main,
    "shrink",
    "compressor shrink classifier.onnx --budget latency=0.5x,batch=1 --data photos -o runs/smaller",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--budget",
    "budgets",
    required=True,
    multiple=True,
    metavar="KEY=LIMIT",
    help="As in recipes: params=0.25x, macs=10M, latency=0.5x, batch=1; may repeat.",
)
@click.option(
    "--data",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of images: train/<class> and test/<class>, or images without classes in any folders.",
)
@_out
@click.option("--method", default="taylor", show_default=True, help="What finds the widths.")
@click.option("--epochs", default=10, show_default=True, help="Of fine-tuning.")
@click.option(
    "--labels/--no-labels", default=None, help="Whether folders are classes; by default if they fit the file."
)
@click.option("--values", is_flag=True, help="(N, K) are values, such as an embedding, not logits of K classes.")
@click.option("--mean", help="Per channel, in units of 0 to 1, by which the file's images were normalised.")
@click.option("--std", help="Likewise.")
@_set
@_resume
@_open
def shrink_command(
    *,
    model: Path,
    budgets: tuple[str, ...],
    folder: Path,
    out: Path,
    method: str,
    epochs: int,
    labels: bool | None,
    values: bool,
    mean: str | None,
    std: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    open_page: bool,
) -> None:
    """Compress an ONNX file to a budget: one that takes its place comes out.

    A classifier is fine-tuned on the classes of the folder; without these, and any other network, learns to give what
    the file gave, on images alone.
    """
    silence_all_but_first()
    from compressor.cli.shrink import check_folder, parse_budget, parse_channels
    from compressor.pipeline.shrinking import assumed, checked, shrink_recipe

    check_folder(folder)
    means, deviations = parse_channels("--mean", mean), parse_channels("--std", std)
    raw = shrink_recipe(
        model,
        folder,
        parse_budget(budgets),
        method=method,
        epochs=epochs,
        labels=labels,
        values=values,
        mean=means,
        std=deviations,
    )
    loaded = checked(raw, overrides)  # before torch: bad input is refused at once
    for line in assumed(loaded.model_dump(mode="json")):
        click.echo(line)
    from compressor.pipeline.runner import run

    carry_out(
        loaded,
        out,
        "report",
        lambda progress, pause: run(loaded, out, resume=resume, progress=progress, pause=pause),
        open_page,
    )


@command(main, "search", "compressor search recipes/quickstart.yaml -o runs/first")
@_recipe
@_out
@_set
@_resume
@_stop_at
def search_command(recipe: Path, out: Path, overrides: tuple[str, ...], resume: bool, stop_at: float | None) -> None:
    """Only find the architecture; writes OUT/architecture.json."""
    run_recipe(recipe, out, overrides, resume=resume, until="search", stop_at=stop_at)


@command(main, "train", "compressor train runs/first")
@_folder
@_trust
def train_command(out: Path, trust: bool) -> None:
    """Go on in a run folder up to trained weights."""
    go_on(out, "train", trust)


@command(main, "export", "compressor export runs/first")
@_folder
@_trust
@click.option(
    "--triton",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Then add it to a model repository of Triton; OUT may be any ONNX file.",
)
def export_command(out: Path, trust: bool, triton: Path | None) -> None:
    """Go on in a run folder up to OUT/model.onnx, checked against PyTorch."""
    if triton is None or out.suffix != ".onnx":
        go_on(out, "export", trust)
    if triton is not None:
        from compressor.cli.triton import add_to_repository

        click.echo(f"{add_to_repository(out, triton, trust)}")


@command(main, "report", "compressor report runs/first")
@_folder
@_trust
@_tables
@_open
def report_command(out: Path, trust: bool, tables: bool, open_page: bool) -> None:
    """Go on in a run folder to its end, or write its report anew."""
    go_on(out, "report", trust, open_page, tables)


@command(
    main,
    "sweep",
    "compressor sweep recipes/neuralscale-digits.yaml --methods neuralscale,uniform --budgets 0.05x,0.1x --seeds 2 "
    "-o runs/methods",
)
@_recipe
@click.option("--methods", required=True, help="Names, such as neuralscale,uniform:shortcut=convcut.")
@click.option("--budgets", required=True, help="Shares, such as 0.25x,0.5x, or limits, such as params=37k+macs=1M.")
@click.option("--seeds", default=3, show_default=True, help="Runs of each, from the recipe's seed on.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the comparison.")
@side_by_side
@_set
@_resume
@_tables
@_open
def sweep_command(
    *,
    recipe: Path,
    methods: str,
    budgets: str,
    seeds: int,
    out: Path,
    workers: int | None,
    ray: str | None,
    slurm: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    tables: bool,
    open_page: bool,
) -> None:
    """Run several methods at several budgets with several seeds and draw accuracy against cost."""
    from compressor.pipeline.sweep_jobs import make_sweep
    from compressor.recipe import load_recipe

    if silence_all_but_first() > 1:
        raise RecipeError("sweep: torchrun is for one run; runs go side by side by --workers, --ray or --slurm")
    loaded = load_recipe(recipe, overrides)  # before torch: bad input is refused at once
    make_sweep(loaded, methods.split(","), budgets.split(","), seeds)
    executor = executor_of(loaded, workers=workers, ray=ray, slurm=slurm)
    from compressor.cli.interrupts import Interrupts
    from compressor.pipeline.compare import compare_methods

    try:
        with Interrupts(), console() as terminal:
            record = compare_methods(
                loaded,
                methods.split(","),
                budgets.split(","),
                seeds,
                out,
                resume=resume,
                progress=terminal.progress,
                executor=executor,
                watch=terminal.table,
            )
    except KeyboardInterrupt as error:
        raise Failure("interrupted; the comparison goes on with the same command and --resume", 130) from error
    from compressor.report import comparison_lines

    for line in comparison_lines(record):
        click.echo(line)
    click.echo(f"page: {out / 'comparison.html'}")
    if tables:
        tables_of(out / "comparison.html")
    if open_page:
        show(out / "comparison.html")
    if not record["met"]:
        click.get_current_context().exit(1)


main.add_command(bench_command)
main.add_command(gate_command)
main.add_command(baseline_command)
main.add_command(inspect_command)
main.add_command(olive_config_command)
main.add_command(recipes)
main.add_command(models_command)
main.add_command(widths_command)
main.add_command(completion_command)


@command(main, "schema", "compressor schema > recipe.schema.json")
@click.option("--markdown", is_flag=True, help="Tables of all options in place of the schema.")
def schema_command(markdown: bool) -> None:
    """Print the JSON schema of recipes, for editors; or every option with its values and default."""
    from compressor.cli.options_page import options_page
    from compressor.recipe import schema

    click.echo(options_page(schema()) if markdown else json.dumps(schema(), indent=2), nl=not markdown)


@command(main, "doctor", "compressor doctor")
def doctor_command() -> None:
    """Show versions, the machine, and which ONNX Runtime providers really work here."""
    import torch

    from compressor.pipeline import doctor, environment

    for name, value in environment.versions().items():
        click.echo(f"{name:<18} {value}")
    for key, reading in environment.machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")).items():
        click.echo(f"{key:<18} {reading}")
    for provider, answer in doctor.providers().items():
        click.echo(f"provider {provider:<9} {answer}")
