"""`compressor inspect`: what a file says of itself. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from compressor.cli.command import Command
from compressor.failures import reported


@click.command("inspect", cls=Command, epilog="compressor inspect runs/quickstart/model.onnx")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON, the recipe included.")
@reported
def inspect_command(model: Path, as_json: bool) -> None:
    """Show what an ONNX file takes and gives, its size, precision, classes, budget and accuracy."""
    from compressor.cli.inspection import inspect_file, inspection_lines

    facts = inspect_file(model)
    click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(inspection_lines(facts)))
