"""`compressor bench`: the latency of any ONNX file."""

from __future__ import annotations

from pathlib import Path

import click

from compressor.commands.common import Command, reported


@click.command("bench", cls=Command, epilog="compressor bench runs/first/model.onnx --provider cpu --threads 1")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--provider", default="auto", show_default=True, help="auto, cpu, cuda or tensorrt.")
@click.option("--batch", default=100, show_default=True, help="Inputs per run.")
@click.option("--warmup", default=20, show_default=True, help="Runs before the clock.")
@click.option("--runs", default=80, show_default=True, help="Runs on the clock.")
@click.option("--threads", type=int, help="Intra-op threads; default: ONNX Runtime's choice.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write samples and machine here.")
@reported
def bench_command(
    model: Path,
    provider: str,
    batch: int,
    warmup: int,
    runs: int,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Measure the latency of an ONNX file under the fixed protocol."""
    from compressor.bench import machine_fingerprint, measure_latency
    from compressor.files import write_json

    latency = measure_latency(model, provider=provider, batch=batch, warmup=warmup, runs=runs, threads=threads)
    click.echo(
        f"{model}: mean {latency.mean:.3f} ms, median {latency.median:.3f}, p90 {latency.p90:.3f}, "
        f"p99 {latency.p99:.3f} at batch {latency.batch}; {latency.throughput_per_s:,.0f} inputs/s; "
        f"{latency.provider}, {latency.threads} threads, {latency.runs} runs"
    )
    if json_file is not None:
        write_json(json_file, latency.to_json() | {"machine": machine_fingerprint()})
