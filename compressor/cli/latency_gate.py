"""`compressor compare` and `compressor baseline`: is a model slower than the one that it is to replace?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from compressor.cli.command import Command, command
from compressor.cli.options import PROVIDER_HELP, check_writable, given_inputs, parse_batches, parse_shapes
from compressor.errors import RecipeError, RunError
from compressor.failures import Failure, reported

if TYPE_CHECKING:
    from compressor.bench.baseline import Baseline
    from compressor.bench.gate import Comparison

_FOLDER = ".onnx-baselines"
_LINE_SECONDS, _COLUMNS = 10.0, 60

_batch = click.option("--batch", default="100", show_default=True, help="Inputs per run, such as 1 or 1,100.")
_provider = click.option("--provider", default="auto", show_default=True, help=PROVIDER_HELP)
_threads = click.option("--threads", default=1, show_default=True, help="Intra-op threads; 0 takes one for each core.")
_shape = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=SIZES",
    help="Shape of an input (tokens=N,128; N is the batch) or size of a symbolic axis (seq=128); may repeat.",
)
_baselines = click.option(
    "--baselines",
    "folder",
    default=_FOLDER,
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the baselines.",
)


@click.command(
    "compare",
    cls=Command,
    epilog="compressor compare old.onnx new.onnx --max-regression 2% --batch 1,100 --json comparison.json",
)
@click.argument("base")
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--max-regression", default="2%", show_default=True, help="By how much CANDIDATE may be slower.")
@_batch
@_provider
@_threads
@_shape
@given_inputs
@click.option("--cuda-graph", is_flag=True, help="Replay each model as one CUDA graph.")
@click.option(
    "--clock",
    default="auto",
    show_default=True,
    help="wall, cpu (CPU time of the one thread that works), or auto: cpu where it can be had.",
)
@click.option(
    "--max-seconds", default=120.0, show_default=True, help="For each batch; then what is open is inconclusive."
)
@_baselines
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write numbers, samples and machine here.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the ratios here, .svg or .png.")
@reported
def gate_command(
    base: str,
    candidate: Path,
    max_regression: str,
    folder: Path,
    json_file: Path | None,
    picture: Path | None,
    **conditions: Any,
) -> None:
    """Tell whether CANDIDATE is slower than BASE, both measured here and now, in turns.

    BASE is an ONNX file or the name of a baseline. Exit codes: 0 ok or improvement, 1 regression, 4 inconclusive;
    with several batches the worst of them.
    """
    allowed = parse_share("--max-regression", max_regression)
    batches = parse_batches(conditions.pop("batch"))
    conditions |= {"shapes": parse_shapes(conditions["shapes"]), "threads": conditions["threads"] or None}
    if picture is not None and picture.suffix not in (".svg", ".png"):
        raise RecipeError(f"--picture {picture}: must end in .svg or .png")
    check_writable(json_file, picture)
    file, baseline = _base(base, folder)
    if baseline is not None:
        click.echo(_baseline_text(baseline))
    comparisons = [_compare(file, candidate, batch, max_regression=allowed, **conditions) for batch in batches]
    record = _record(comparisons, baseline)
    _write(record, json_file, picture)
    click.get_current_context().exit(record["exit_code"])


def _compare(base: Path, candidate: Path, batch: int, **arguments: Any) -> Comparison:
    """Measure at one batch, with progress, and print the verdict."""
    from compressor.bench.gate import compare_latency

    try:
        with _Progress(f"batch {batch}") as progress:
            comparison = compare_latency(base, candidate, batch=batch, progress=progress, **arguments)
    except KeyboardInterrupt as error:
        raise Failure("interrupted; nothing was decided", 130) from error
    click.echo(comparison.sentence())
    return comparison


def _base(base: str, folder: Path) -> tuple[Path, Baseline | None]:
    """Find the file that BASE means: its own, or that of a baseline."""
    from compressor.bench.baseline import BaselineStore, UnknownBaseline

    if Path(base).is_file():
        return Path(base), None
    try:
        baseline = BaselineStore(folder).load(base)
    except UnknownBaseline as error:
        raise RunError(f"BASE {base!r} is not a file, and {error}") from error
    return baseline.model, baseline


def _record(comparisons: list[Comparison], baseline: Baseline | None) -> dict[str, Any]:
    """Sum up all batches; a regression counts more than what could not be decided."""
    worst = next(
        verdict
        for verdict in ("regression", "inconclusive", "ok", "improvement")
        if verdict in {comparison.verdict for comparison in comparisons}
    )
    return {
        "verdict": worst,
        "exit_code": next(one.exit_code for one in comparisons if one.verdict == worst),
        "baseline": None if baseline is None else _baseline_json(baseline),
        "comparisons": [comparison.to_json() for comparison in comparisons],
    }


def _write(record: dict[str, Any], json_file: Path | None, picture: Path | None) -> None:
    from compressor.files import write_atomic, write_json

    if json_file is not None:
        write_json(json_file, record)
    if picture is not None:
        from compressor.report.ratio_figure import ratio_picture

        write_atomic(picture, ratio_picture(record, picture.suffix.removeprefix(".")))


@click.group("baseline")
def baseline_command() -> None:
    """Models to compare with, kept by their content."""


@command(baseline_command, "save", "compressor baseline save model.onnx --name main --batch 1,100")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--name", help="Default: the file's name without .onnx.")
@_batch
@_provider
@_threads
@_shape
@_baselines
def baseline_save(
    *,
    model: Path,
    name: str | None,
    batch: str,
    provider: str,
    threads: int,
    shapes: tuple[str, ...],
    folder: Path,
) -> None:
    """Keep MODEL under a name, with its latency here; what had the name before is replaced."""
    from compressor.bench import measure_latency
    from compressor.bench.baseline import BaselineStore

    arguments: dict[str, Any] = {"provider": provider, "threads": threads or None, "shapes": parse_shapes(shapes)}
    latencies = [measure_latency(model, batch=size, **arguments) for size in parse_batches(batch)]
    baseline = BaselineStore(folder).save(model.stem if name is None else name, model, latencies)
    for line in _lines(baseline, here=True):
        click.echo(line)


@command(baseline_command, "list", "compressor baseline list")
@_baselines
def baseline_list(folder: Path) -> None:
    """Name the baselines, a line each."""
    from compressor.bench import machine_fingerprint
    from compressor.bench.baseline import BaselineStore

    store, here = BaselineStore(folder), machine_fingerprint()
    for name in store.names():
        baseline = store.load(name)
        numbers = "; ".join(_numbers(latency) for latency in baseline.latencies) or "no numbers"
        elsewhere = " (another machine)" if baseline.differs_from(here) else ""
        click.echo(f"{name}  {baseline.date[:10]}  {baseline.sha256[:12]}  {numbers}{elsewhere}")


@command(baseline_command, "show", "compressor baseline show main")
@click.argument("name")
@_baselines
def baseline_show(name: str, folder: Path) -> None:
    """Print what is known about a baseline."""
    from compressor.bench import machine_fingerprint
    from compressor.bench.baseline import BaselineStore

    baseline = BaselineStore(folder).load(name)
    differences = baseline.differs_from(machine_fingerprint())
    for line in _lines(baseline, here=not differences):
        click.echo(line)
    for difference in differences:
        click.echo(f"  {difference}")


@command(baseline_command, "rename", "compressor baseline rename 'tests/t.py::test_old' 'tests/t.py::test_new'")
@click.argument("name")
@click.argument("new")
@_baselines
def baseline_rename(name: str, new: str, folder: Path) -> None:
    """Give a baseline another name; its model stays as it is."""
    from compressor.bench.baseline import BaselineStore

    BaselineStore(folder).rename(name, new)
    click.echo(f"renamed {name} to {new}")


@command(baseline_command, "remove", "compressor baseline remove main")
@click.argument("name")
@_baselines
def baseline_remove(name: str, folder: Path) -> None:
    """Forget a baseline, and its model where no other baseline needs it."""
    from compressor.bench.baseline import BaselineStore

    BaselineStore(folder).remove(name)
    click.echo(f"removed {name}")


def parse_share(option: str, text: str) -> float:
    """Read a share: `2%` or `0.02`.

    A bare number of 1 or more is refused: whoever writes 2 rather means 2 % than 200 %.

    Raises:
        RecipeError: anything else, or not above 0 and below 1000 %
    """
    percent = text.strip().endswith("%")
    try:
        number = float(text.strip().removesuffix("%").strip())
    except ValueError:
        number = -1.0
    share = number / 100 if percent else number
    if not 0 < share < (10 if percent else 1):
        raise RecipeError(f"{option} {text!r}: must be 2% or a share below 1 such as 0.02, above 0 and below 1000%")
    return share


def _lines(baseline: Baseline, here: bool) -> list[str]:
    """Describe a baseline; the machine comes last, for `show` adds in what it differs from this one."""
    return [
        f"name     {baseline.name}",
        f"model    {baseline.model}",
        f"source   {baseline.source}",
        f"date     {baseline.date}",
        *(f"latency  {_numbers(latency)}" for latency in baseline.latencies),
        f"machine  {baseline.machine.get('cpu')}; gpu {baseline.machine.get('gpu')}"
        + (" (this one)" if here else ": not this one, so its numbers mean nothing here:"),
    ]


def _numbers(latency: Mapping[str, Any]) -> str:
    low, high = latency["interval_ms"]
    return (
        f"median {latency['median_ms']:.4g} ms ({low:.4g} to {high:.4g}) at batch {latency['batch']} on "
        f"{latency['provider']}, {latency['threads']} thread{'s' * (latency['threads'] != 1)}"
    )


def _baseline_text(baseline: Baseline) -> str:
    """Say what BASE is, with its stored numbers: they are from another hour, if not machine, and decide nothing."""
    from compressor.bench import machine_fingerprint

    differences = baseline.differs_from(machine_fingerprint())
    where = f"another machine ({'; '.join(differences)})" if differences else "this machine"
    numbers = "; ".join(_numbers(latency) for latency in baseline.latencies) or "no numbers"
    return f"baseline {baseline.name} of {baseline.date[:10]}, on {where} then, shown only: {numbers}"


def _baseline_json(baseline: Baseline) -> dict[str, Any]:
    return {
        "name": baseline.name,
        "sha256": baseline.sha256,
        "date": baseline.date,
        "source": baseline.source,
        "machine": dict(baseline.machine),
        "latencies": [dict(latency) for latency in baseline.latencies],
    }


class _Progress:
    """Blocks done, on stderr, written between blocks only: a live display would take turns with the models."""

    def __init__(self, what: str) -> None:
        self._what, self._printed = what, time.monotonic()
        self._stream = sys.stderr
        self._live = self._stream.isatty()

    def __enter__(self) -> Callable[[int, int], None]:
        return self._show

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._stream.write(f"\r{'':<{_COLUMNS}}\r")
            self._stream.flush()

    def _show(self, block: int, most: int) -> None:
        text = f"  {self._what}: block {block} of at most {most}"
        now = time.monotonic()
        if self._live:
            self._stream.write(f"\r{text:<{_COLUMNS}}")
            self._stream.flush()
        elif now - self._printed >= _LINE_SECONDS:
            self._printed = now
            click.echo(text, err=True)
