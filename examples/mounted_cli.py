"""compressor's commands as a part of another command line.

python examples/mounted_cli.py compress run recipes/neuralscale-digits.yaml -o runs/mounted
python examples/mounted_cli.py release runs/mounted
"""

from pathlib import Path

import click

from compressor.cli import main


@click.group()
def tool() -> None:
    """A team's own tool, of which compression is one part."""


tool.add_command(main, "compress")


@tool.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.pass_context
def release(context: click.Context, run: Path) -> None:
    """Say what a run's file is, by one of the mounted commands; its errors and exit codes stay as they are."""
    inspect = main.get_command(context, "inspect")
    assert inspect is not None
    click.echo(f"releasing {run / 'model.onnx'}")
    inspect.main([str(run / "model.onnx")], standalone_mode=False)


if __name__ == "__main__":
    tool()
