"""Values of options that several commands take, read and checked before anything is measured. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

import click

from compressor.errors import RecipeError, RunError


def check_writable(*paths: Path | None) -> None:
    """Refuse files that cannot be written, before anything that takes long.

    Raises:
        RunError: names the file and what is in its way
    """
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise RunError(f"{path}: is a folder; name a file")
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise RunError(f"{path}: cannot be written: {above} is not a folder that can be written to")


PROVIDER_HELP = "One of auto, cpu, cuda, tensorrt, openvino, coreml."

given_inputs = click.option(
    "--inputs",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE.npz",
    help="Values for inputs, by their names; others are drawn at random.",
)


def parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int | str, ...]]:
    """Read the values of `--shape`: `tokens=N,128` (the shape of an input), `seq=128` (the size of a symbolic axis).

    Returns:
        sizes by name; "N" stands for the batch

    Raises:
        RecipeError: a value that reads otherwise, or a name given twice
    """
    shapes: dict[str, tuple[int | str, ...]] = {}
    for text in texts:
        name, _, given = text.rpartition("=")  # names of tensors may hold an equals sign, sizes never
        words = [word.strip() for word in given.split(",")]
        if not name or not all(word == "N" or (word.isascii() and word.isdigit() and len(word) < 10) for word in words):
            raise RecipeError(
                f"--shape {text!r}: must look like tokens=N,128 (an input; N is the batch) or seq=128 (a symbolic axis)"
            )
        if name in shapes:
            raise RecipeError(f"--shape {text!r}: {name!r} is given twice")
        shapes[name] = tuple(word if word == "N" else int(word) for word in words)
    return shapes


def parse_batches(text: str) -> list[int]:
    """Read the value of `--batch`: `1` or `1,8,100`.

    Raises:
        RecipeError: not whole numbers of 1 or more, or one of them twice
    """
    words = [word.strip() for word in text.split(",")]
    batches = [int(word) if word.isascii() and word.isdigit() else 0 for word in words]
    if min(batches) < 1 or len(set(batches)) < len(batches):
        raise RecipeError(f"--batch {text!r}: must be different whole numbers of 1 or more, such as 1 or 1,8,100")
    return batches
