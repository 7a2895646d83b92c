"""`compressor completion`: what a shell needs to complete commands, options and files. Imports no torch."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from compressor.cli.command import Command
from compressor.failures import reported

_VARIABLE = "_COMPRESSOR_COMPLETE"  # as click makes it of the command's name


@click.command(
    "completion",
    cls=Command,
    epilog="compressor completion bash > ~/.compressor-completion  # and in ~/.bashrc: source ~/.compressor-completion",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@reported
def completion_command(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and files in a shell."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "compressor", _VARIABLE).source())
