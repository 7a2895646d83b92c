"""What the package's own folders and other installed packages add: objects that are found by where they lie."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from compressor.errors import CompressorError
from compressor.user_functions import called


def built_in(package: str, attribute: str) -> list[Any]:
    """The objects of that name in the modules of a package, in the order of the modules' names."""
    found = sorted(pkgutil.iter_modules(import_module(package).__path__), key=lambda module: module.name)
    return [getattr(import_module(f"{package}.{module.name}"), attribute) for module in found]


def with_plugins(group: str, builtin: Mapping[str, Any]) -> dict[str, Any]:
    """The built-in objects and those of the entry-point group, by name.

    Raises:
        CompressorError: a name is taken twice, or an object cannot be imported
    """
    merged = dict(builtin)
    for point in _points(group, tuple(sys.path)):
        if point.name in merged:
            raise CompressorError(f"entry point {group}: the name {point.name!r} ({point.value}) is already taken")
        where = f"entry point {group}: {point.name!r} ({point.value}) cannot be loaded"
        merged[point.name] = called(where, point.load, CompressorError)
    return merged


def plugin_names(group: str) -> list[str]:
    """Names of the objects of an entry-point group, none of which is imported."""
    return [point.name for point in _points(group, tuple(sys.path))]


@lru_cache(maxsize=32)
def _points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entry points of what is installed along the import path; looking takes 10 ms, and every network is looked up."""
    return tuple(entry_points(group=group))
