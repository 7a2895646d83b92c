"""`compressor shrink`: from an ONNX file and a folder of images to a smaller file, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressor.errors import RecipeError


def parse_budget(pairs: tuple[str, ...]) -> dict[str, Any]:
    """A recipe's `budget` of KEY=VALUE, several of them in one text with commas if so liked.

    Raises:
        RecipeError: one is none
    """
    found: dict[str, Any] = {}
    for pair in (part for text in pairs for part in text.split(",")):
        key, equals, value = pair.partition("=")
        if not (equals and key.strip() and value.strip()):
            raise RecipeError(f"--budget {pair!r}: must look like latency=0.5x or params=0.5M")
        if key.strip() in found:
            raise RecipeError(f"--budget {pair!r}: {key.strip()} is given twice")
        found[key.strip()] = _number(value.strip())
    return found


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_channels(option: str, text: str | None) -> list[float] | None:
    """Numbers, one a channel.

    Raises:
        RecipeError: they are none
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise RecipeError(f"{option} {text!r}: must be numbers, one a channel, such as 0.485,0.456,0.406") from error


def check_folder(folder: Path) -> None:
    """Refuse what is no folder.

    Raises:
        RecipeError: it is none
    """
    if not folder.is_dir():
        raise RecipeError(f"--data {folder}: is not a folder")
