"""Code of the user's that we call: imported from where they work, its failures in one sentence."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from compressor.errors import CompressorError

_Made = TypeVar("_Made")


_OFFERED: dict[str, Callable[..., Any]] = {}
GIVEN = "given:"


def offer_function(name: str, function: Callable[..., Any]) -> str:
    """Let recipes of this process name a function that it holds; returns what they call it, given:NAME."""
    _OFFERED[name] = function
    return f"{GIVEN}{name}"


def cause_of(error: BaseException) -> str:
    """An error of someone else's code, in one line; of one in a worker process of torch what that says in the end."""
    try:
        text = str(error).strip()
    except Exception:  # its own code fails; its kind is known
        text = ""
    if "Original Traceback" in text:
        return text.splitlines()[-1].strip()
    return f"{type(error).__name__}: {' '.join(text.split())}" if text else type(error).__name__


def called(what: str, function: Callable[[], _Made], kind: type[CompressorError]) -> _Made:
    """What someone else's code gives.

    Args:
        what: sentence to which the cause is added, such as "model.name: nets:net cannot be built"
        function: that code
        kind: of error to raise

    Raises:
        CompressorError: of that kind: it raises anything, or ends the process
    """
    try:
        return function()
    except CompressorError:
        raise
    except SystemExit as error:
        code = "" if error.code is None else f": {error.code}"
        raise kind(f"{what}: it ends the process{code}") from error
    except Exception as error:  # the user's code runs here
        raise kind(f"{what}: {cause_of(error)}") from error


def imported(key: str, name: str, kind: type[CompressorError]) -> Callable[..., Any]:
    """The function or class that package.module:function names; the working directory is looked into as well.

    Args:
        key: of the recipe, for errors
        name: package.module:function, or given:NAME of a function that this process holds
        kind: of error to raise

    Raises:
        CompressorError: of that kind: it cannot be imported, or cannot be called
    """
    if name.startswith(GIVEN):
        if name.removeprefix(GIVEN) not in _OFFERED:
            raise kind(f"{key}: {name} is a function that only the process held that began this; call it from there")
        return _OFFERED[name.removeprefix(GIVEN)]
    module, _, function = name.partition(":")
    find_here()
    found = called(f"{key}: cannot import {name}", lambda: getattr(importlib.import_module(module), function), kind)
    if not callable(found):
        raise kind(f"{key}: {name} is a {type(found).__name__}, not a function or class")
    made: Callable[..., Any] = found
    return made


def find_here() -> None:
    """Let modules of the working directory be found: the user's own lie beside the recipe's caller."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)


def call(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call a function with those arguments that it names, and what else it needs by position, the first ones."""
    try:
        taken = list(inspect.signature(function).parameters.values())
    except ValueError:  # a function written in C may have no signature
        return function(*given.values())
    positional = [one for one in taken if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [one for one in positional if one.default is one.empty]
    if any(one.name not in given or one.kind is one.POSITIONAL_ONLY for one in needed):
        return function(*list(given.values())[: len(needed)])
    if any(one.kind is one.VAR_KEYWORD for one in taken):
        return function(**given)
    names = [one.name for one in taken if one.kind is not one.VAR_POSITIONAL]
    return function(**{name: given[name] for name in names if name in given})
