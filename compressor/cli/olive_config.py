"""`compressor olive-config`: the files that `olive run` needs to use our pass. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import click

from compressor.cli.command import Command
from compressor.failures import reported


@click.command("olive-config", cls=Command, epilog="compressor olive-config recipes/neuralscale-digits.yaml -o olive")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the files.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe value.")
@reported
def olive_config_command(recipe: Path, out: Path, overrides: tuple[str, ...]) -> None:
    """Write a package config for Olive (its own passes and ours) and a run config that does what the recipe says."""
    from compressor.integrations.olive.configs import PACKAGE_CONFIG, RUN_CONFIG, write_configs
    from compressor.recipe import load_recipe

    write_configs(load_recipe(recipe, overrides), out)
    click.echo(f"run it: olive run --config {out / RUN_CONFIG} --package-config {out / PACKAGE_CONFIG}")
