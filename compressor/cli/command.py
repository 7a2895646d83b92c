"""A command of the command line: its help ends with an example, its errors are one line each. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from compressor.failures import reported


class Command(click.Command):
    """A command whose epilog, an example, keeps its line breaks."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write("Example:\n")
            for line in self.epilog.splitlines():
                formatter.write(f"  {line}\n")


def command(group: click.Group, name: str, example: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Add a function to a group as a command whose help ends with an example and whose errors are one line each."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        return group.command(name, cls=Command, epilog=example)(reported(function))

    return decorate
