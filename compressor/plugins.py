"""What other installed packages add through entry points."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from compressor.errors import CompressorError


def with_plugins(group: str, builtin: Mapping[str, Any]) -> dict[str, Any]:
    """The built-in objects and those of the entry-point group, by name.

    Raises:
        CompressorError: a name is taken twice, or an object cannot be imported
    """
    merged = dict(builtin)
    for point in _points(group, tuple(sys.path)):
        if point.name in merged:
            raise CompressorError(f"entry point {group}: the name {point.name!r} ({point.value}) is already taken")
        try:
            merged[point.name] = point.load()
        except (ImportError, AttributeError) as error:
            raise CompressorError(f"entry point {group}: {point.name!r} cannot be loaded: {error}") from error
    return merged


def plugin_names(group: str) -> list[str]:
    """Names of the objects of an entry-point group, none of which is imported."""
    return [point.name for point in _points(group, tuple(sys.path))]


@lru_cache(maxsize=32)
def _points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entry points of what is installed along the import path; looking takes 10 ms, and every network is looked up."""
    return tuple(entry_points(group=group))
