"""`compressor models` and `compressor widths`: networks and their width groups, in lines of 80 characters."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from compressor.cli.command import Command
from compressor.errors import RecipeError
from compressor.failures import reported

_WIDTH = 80


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, name: int) -> list[str]:
    """Lines of at most 80 characters where words allow it: a name, numbers to the right, and a text that is wrapped.

    Args:
        head: titles of the columns
        rows: as many cells each; the last one may be long
        name: characters of the first column; a longer name has a line of its own
    """
    sizes = [max(len(row[place]) for row in [head, *rows]) for place in range(1, len(head) - 1)]
    left = name + sum(size + 2 for size in sizes) + 2
    lines = []
    for first, *numbers, text in [head, *rows]:
        begin = first if len(first) <= name else ""
        if not begin:
            lines.append(first)
        columns = "".join(f"  {cell:>{size}}" for cell, size in zip(numbers, sizes, strict=True))
        told = textwrap.wrap(text, _WIDTH - left, break_long_words=False, break_on_hyphens=False) or [""]
        lines.append(f"{begin:<{name}}{columns}  {told[0]}".rstrip())
        lines += [" " * left + line for line in told[1:]]
    return lines


@click.command("models", cls=Command, epilog="compressor models")
@reported
def models_command() -> None:
    """List the networks of the zoo with their parameters, multiply-adds and options."""
    from compressor.cli import listing

    rows = [(name, f"{row['params']:,}", f"{row['macs']:,}", row["options"]) for name, row in listing.rows().items()]
    for line in table(("network", "parameters", "MACs", "options"), rows, name=max(len(row[0]) for row in rows)):
        click.echo(line)
    click.echo("Counted for images of 3×32×32 and 10 classes, or texts of 35 of 10,000 words.")
    click.echo("Also: torchvision:NAME, timm:NAME, onnx:FILE, package.module:factory.")
    click.echo("`compressor widths MODEL` lists their width groups (--shape 35 for texts).")


def _names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: networks of the zoo, and files."""
    from compressor.cli import listing

    found = [CompletionItem(name) for name in listing.rows() if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *found]  # click's script of bash forgets what came before a file


@click.command("widths", cls=Command, epilog="compressor widths torchvision:resnet18 --shape 3,64,64")
@click.argument("model", shell_complete=_names)
@click.option("--shape", default="3,32,32", show_default=True, help="Of an image 3,32,32; of a text 35, its length.")
@click.option("--classes", default=10, show_default=True, help="Number of outputs.")
@click.option("--option", "options", multiple=True, help="Option of the model, such as shortcut=conv; may repeat.")
@reported
def widths_command(model: str, shape: str, classes: int, options: tuple[str, ...]) -> None:
    """List the width groups of a network: the names for `widths.minimum` and `widths.frozen`, and what is fixed."""
    from compressor.cli import listing

    sides = [int(side) if side.strip().isdecimal() else 0 for side in shape.split(",")]
    if len(sides) not in (1, 3) or min(sides) < 1:
        raise RecipeError(
            f"--shape {shape!r}: must be three whole numbers such as 3,32,32, or one, the length of a text"
        )
    pairs = [option.partition("=") for option in options]
    if bad := next((option for option, pair in zip(options, pairs, strict=True) if not (pair[0] and pair[2])), None):
        raise RecipeError(f"--option {bad!r}: must look like shortcut=conv")
    named = {key: _value(value) for key, _, value in pairs}
    found = listing.width_groups(model, tuple(sides), classes, named)
    rows = [(name, f"{channels:,}", str(step), "") for name, channels, step in found["groups"]]
    for line in table(
        ("group", "channels", "in steps of", ""), rows, name=min(48, max((len(row[0]) for row in rows), default=5))
    ):
        click.echo(line)
    for reason in found["fixed"]:
        for line in textwrap.wrap(f"fixed: {reason}", _WIDTH, subsequent_indent="       ", break_long_words=False):
            click.echo(line)


def _value(text: str) -> Any:
    """A number, list or mapping if the text is one in JSON, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
