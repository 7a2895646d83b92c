"""Code of the user's that we call: imported from where they work, its failures in one sentence."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from compressor.errors import CompressorError

_Made = TypeVar("_Made")


def cause_of(error: BaseException) -> str:
    """An error of someone else's code, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


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
        name: package.module:function
        kind: of error to raise

    Raises:
        CompressorError: of that kind: it cannot be imported, or cannot be called
    """
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - the user's own module lies beside the recipe's caller
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    found = called(f"{key}: cannot import {name}", lambda: getattr(importlib.import_module(module), function), kind)
    if not callable(found):
        raise kind(f"{key}: {name} is a {type(found).__name__}, not a function or class")
    made: Callable[..., Any] = found
    return made
