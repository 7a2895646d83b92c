"""`compressor recipes`: those that come with the package. Imports no torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from compressor.cli.command import command
from compressor.errors import RunError, not_one_of


@click.group()
def recipes() -> None:
    """Recipes that come with the package."""


@command(recipes, "list", "compressor recipes list")
def recipes_list() -> None:
    """Name the recipes, a line each."""
    for name, text in _recipes().items():
        first = next((line[1:].strip() for line in text.splitlines() if line.startswith("#")), "")
        click.echo(f"{name:<24} {first}")


@command(recipes, "show", "compressor recipes show quickstart")
@click.argument("name")
def recipes_show(name: str) -> None:
    """Print a recipe."""
    click.echo(_shipped(name), nl=False)


@command(recipes, "copy", "compressor recipes copy quickstart my.yaml")
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path))
def recipes_copy(name: str, target: Path) -> None:
    """Copy a recipe to a file of your own."""
    from compressor.files import write_atomic

    text = _shipped(name)
    if target.exists():
        raise RunError(f"{target}: exists already; name another file")
    write_atomic(target, text)
    click.echo(f"{target}")


def _recipes() -> dict[str, str]:
    folder = resources.files("compressor.recipes")
    found = {
        p.name.removesuffix(".yaml"): p.read_text(encoding="utf-8")
        for p in folder.iterdir()
        if p.name.endswith(".yaml")
    }
    return dict(sorted(found.items()))


def _shipped(name: str) -> str:
    recipes = _recipes()
    name = name.removesuffix(".yaml")
    if name not in recipes:
        raise RunError(f"recipe {not_one_of(name, recipes)}")
    return recipes[name]
