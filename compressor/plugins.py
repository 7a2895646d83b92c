"""What other installed packages add through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from compressor.errors import CompressorError


def with_plugins(group: str, builtin: Mapping[str, Any]) -> dict[str, Any]:
    """The built-in objects and those of the entry-point group, by name.

    Raises:
        CompressorError: a name is taken twice, or an object cannot be imported
    """
    merged = dict(builtin)
    for point in entry_points(group=group):
        if point.name in merged:
            raise CompressorError(f"entry point {group}: the name {point.name!r} ({point.value}) is already taken")
        try:
            merged[point.name] = point.load()
        except (ImportError, AttributeError) as error:
            raise CompressorError(f"entry point {group}: {point.name!r} cannot be loaded: {error}") from error
    return merged
