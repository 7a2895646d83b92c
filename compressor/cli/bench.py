"""`compressor bench`: the latency of any ONNX file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.cli.command import Command
from compressor.cli.options import PROVIDER_HELP, check_writable, given_inputs, parse_batches, parse_shapes
from compressor.errors import on_one_line
from compressor.failures import Failure, reported

if TYPE_CHECKING:
    from compressor.bench import Conditions, Latency, Memory, Profile

_DEAREST = 10  # nodes of the profile that are printed
_MIB = 2**20


@click.command(
    "bench",
    cls=Command,
    epilog="compressor bench bert.onnx --preset serving --shape seq=128 --profile --json latency.json",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--provider", default="auto", show_default=True, help=PROVIDER_HELP)
@click.option(
    "--preset",
    default="paper",
    show_default=True,
    help="paper: batch 100, 20 + 80 runs. serving: batch 1, 8 and 100 on one thread. Other options win over it.",
)
@click.option("--batch", help="Inputs per run, such as 1 or 1,8,100; the file is opened anew for each.")
@click.option("--warmup", type=int, help="Runs before the clock.  [default: 20]")
@click.option("--runs", type=int, help="Runs on the clock.  [default: 80]")
@click.option("--threads", type=int, help="Intra-op threads; 0, the default, takes one for each core.")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=SIZES",
    help="Shape of an input (tokens=N,128; N is the batch) or size of a symbolic axis (seq=128); may repeat.",
)
@given_inputs
@click.option("--cuda-graph", is_flag=True, help="Replay the model as one CUDA graph.")
@click.option("--profile", is_flag=True, help="Show the ten most expensive nodes by ONNX Runtime's profile.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write samples and machine here.")
@reported
def bench_command(model: Path, profile: bool, json_file: Path | None, **options: Any) -> None:
    """Measure the latency and the memory of an ONNX file.

    Times are milliseconds for a whole batch. Exit codes: 2 bad input, 3 the provider does not work here.
    """
    from compressor.bench import machine_fingerprint
    from compressor.bench.machine import usable_cores
    from compressor.files import write_json

    protocol = _protocol(**options)
    if (threads := protocol.conditions.threads or 0) > usable_cores():
        click.echo(f"note: {threads} threads share {usable_cores()} usable cores, which makes times longer", err=True)
    check_writable(json_file)
    try:
        rows = [_measure(model, batch, protocol, profile, batch == protocol.batches[0]) for batch in protocol.batches]
    except KeyboardInterrupt as error:
        raise Failure("interrupted; nothing was written", 130) from error
    for line in _below(rows):
        click.echo(line)
    if json_file is not None:
        record: dict[str, Any] = {
            "machine": machine_fingerprint(),
            "preset": options["preset"],
            "measurements": [row.latency.to_json() for row in rows],
            "memory": [row.memory.to_json() | {"batch": row.latency.batch} for row in rows],
            "profile": [row.profile.to_json() for row in rows if row.profile is not None] or None,
        }
        write_json(json_file, record)


@dataclass(frozen=True)
class _Protocol:
    """What is asked for; `conditions` are those of the first batch."""

    batches: tuple[int, ...]
    warmup: int
    runs: int
    conditions: Conditions


@dataclass(frozen=True)
class _Row:
    latency: Latency
    memory: Memory
    profile: Profile | None


def _protocol(
    *,
    preset: str,
    batch: str | None,
    warmup: int | None,
    runs: int | None,
    threads: int | None,
    shapes: tuple[str, ...],
    provider: str,
    cuda_graph: bool,
    inputs: str | None,
) -> _Protocol:
    """Join the preset and the options."""
    from compressor.bench import Conditions
    from compressor.bench.protocol import protocol

    base = protocol(preset)
    batches = base.batches if batch is None else tuple(parse_batches(batch))
    threads = base.threads if threads is None else threads or None
    conditions = Conditions(
        provider=provider,
        batch=batches[0],
        threads=threads,
        seed=0,
        shapes=parse_shapes(shapes),
        cuda_graph=cuda_graph,
        inputs=inputs,
    )
    return _Protocol(
        batches, base.warmup if warmup is None else warmup, base.runs if runs is None else runs, conditions
    )


def _measure(model: Path, batch: int, protocol: _Protocol, profile: bool, first: bool) -> _Row:
    """Measure at one batch and print its row of the table."""
    from compressor.bench import measure_latency, measure_memory, profile_model

    asked = replace(protocol.conditions, batch=batch)
    # First, so that where memory runs out it is that process which ends.
    memory = measure_memory(model, asked)
    if memory.killed:
        raise Failure(f"{model}: batch={batch}: {memory.problem}", 2)
    if memory.refused and memory.problem:  # the same would be found out again, which may take as long
        raise Failure(memory.problem, memory.refused)
    latency = measure_latency(
        model,
        provider=asked.provider,
        batch=batch,
        warmup=protocol.warmup,
        runs=protocol.runs,
        threads=asked.threads,
        shapes=asked.shapes,
        cuda_graph=asked.cuda_graph,
        inputs=asked.inputs,
    )
    taken = replace(asked, provider=latency.provider)  # "auto" has decided
    if first:
        for line in _head(latency):
            click.echo(on_one_line(line))
    click.echo(_line(_cells(latency, memory)))
    return _Row(latency, memory, profile_model(model, taken, protocol.warmup, protocol.runs) if profile else None)


def _head(latency: Latency) -> list[str]:
    """Say what is measured, and name the columns."""
    inputs = ", ".join(f"{spec.name} {list(spec.shape)} {spec.dtype}" for spec in latency.inputs) or "no inputs"
    threads = f"{latency.threads} thread{'s' * (latency.threads > 1)}"
    graph = ", CUDA graph" if latency.cuda_graph else ""
    return [
        f"{latency.path}: {latency.provider}{graph}, {threads}, {latency.warmup} warm-up and {latency.runs} measured "
        f"runs; at batch {latency.batch}: {inputs}",
        _line({name: name for name in _cells(latency, None)}),
    ]


_WIDTHS = {"batch": 6, "95 % interval": 20, "inputs/s": 11, "95 % of CPU": 20, "session ms": 11}


def _cells(latency: Latency, memory: Memory | None) -> dict[str, str]:
    """Cells by column; which columns there are depends on the provider and the threads alone."""
    cells = {
        "batch": f"{latency.batch}",
        "median ms": _ms(latency.median),
        "95 % interval": _interval(latency.interval),
        "mean": _ms(latency.mean),
        "p90": _ms(latency.p90),
        "p99": _ms(latency.p99),
        "inputs/s": f"{latency.throughput_per_s:,.0f}",
    }
    if latency.cpu_median is not None and latency.cpu_interval is not None:
        cells |= {"CPU ms": _ms(latency.cpu_median), "95 % of CPU": _interval(latency.cpu_interval)}
    cells |= {"session ms": f"{latency.session_ms:.0f}", "peak MiB": _mebibytes(memory.host_bytes if memory else None)}
    if latency.provider != "cpu":
        cells["GPU MiB"] = _mebibytes(memory.device_bytes if memory else None)
    return cells


def _line(cells: dict[str, str]) -> str:
    return "".join(text.rjust(_WIDTHS.get(name, 10)) for name, text in cells.items())


def _interval(ends: tuple[float, float]) -> str:
    return f"{_ms(ends[0])} to {_ms(ends[1])}"


def _ms(time: float) -> str:
    """Three decimals, more where they would hide the number."""
    return f"{time:.{3 if time >= 1 else 4 if time >= 0.01 else 5}f}"


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / _MIB:,.1f}"


def _below(rows: list[_Row]) -> list[str]:
    """What the table leaves to say: nodes on the CPU, memory that is not known, profiles."""
    lines = []
    last = rows[-1].latency
    if last.provider != "cpu":
        lines.append(_nodes(last))
        lines.append("GPU MiB: growth of all GPUs' used memory by nvidia-smi, other processes included")
    for row in rows:
        if row.memory.host_bytes is None:
            why = row.memory.problem or "this system does not report it"
            lines.append(f"peak memory at batch {row.latency.batch} is not known: {why}")
        if row.profile is not None:
            lines += ["", *_profile(row.profile)]
    return lines


def _nodes(latency: Latency) -> str:
    if latency.cpu_share is None:
        return "nodes on the CPU: not known, this ONNX Runtime does not report it"
    named = ", ".join(f"{count} {op}" for op, count in sorted(latency.cpu_ops.items()))
    count, total = latency.nodes.get("cpu", 0), sum(latency.nodes.values())
    return f"nodes on the CPU: {count} of {total} ({latency.cpu_share:.1%}){': ' if named else ''}{named}"


def _profile(profile: Profile) -> list[str]:
    """The most expensive nodes, and how far ONNX Runtime's clock agrees with ours."""
    kind = max([len(node.op_type) for node in profile.nodes[:_DEAREST]] + [8])
    lines = [
        f"profile at batch {profile.batch}: {len(profile.nodes)} nodes, {_ms(profile.nodes_ms)} ms a run; on the same "
        f"runs our clock shows {profile.clock_ratio:.3f} times ONNX Runtime's own model_run",
        f"{'share':>7}{'median ms':>11}  {'operator':<{kind}}  {'on':<8}  node",
    ]
    lines += [
        f"{node.share:>7.1%}{_ms(node.median_ms):>11}  {node.op_type:<{kind}}  {node.provider:<8}  {node.name}"
        for node in profile.nodes[:_DEAREST]
    ]
    if profile.provider != "cpu":
        lines.append("times of nodes on a GPU are those of their launch by the host")
    return lines
