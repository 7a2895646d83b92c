"""package.module:factory, the user's own code; called with num_classes= if it takes it, and the recipe's options."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from compressor.errors import ModelError
from compressor.models.referenced_source import ReferencedSource
from compressor.models.user_code import called, contained, made_by

_FOLDERS: dict[str, str] = {}  # where code was when it had been imported: it may go to its own folder, and stay there


@contextmanager
def _in_folder(folder: str | None) -> Iterator[None]:
    before = os.getcwd()  # noqa: PTH109
    os.chdir(folder or before)
    try:
        yield
    finally:
        os.chdir(before)


class FactorySource(ReferencedSource):
    """A network that a function or class of the user makes."""

    def check(self, options: Mapping[str, Any]) -> None:
        """See `ModelSource`."""
        self._factory()

    def made(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """See `ReferencedSource`."""
        function = self._factory()
        try:
            takes = set(inspect.signature(function).parameters)
        except ValueError:  # a function written in C may have no signature
            takes = set()
        named = {"num_classes": classes} if "num_classes" in takes else {}
        with _in_folder(_FOLDERS.get(self.model)):
            return made_by(self.model, lambda: function(**named, **options))

    def _factory(self) -> Callable[..., Any]:
        module, _, name = self.model.partition(":")
        if os.getcwd() not in sys.path:  # noqa: PTH109 - the user's own module lies beside the recipe's caller
            sys.path.insert(0, os.getcwd())  # noqa: PTH109
        with contained(0):
            before = os.getcwd()  # noqa: PTH109
            function = called(
                f"model.name: cannot import {self.model}", lambda: getattr(importlib.import_module(module), name)
            )
            if os.getcwd() != before:  # noqa: PTH109
                _FOLDERS[self.model] = os.getcwd()  # noqa: PTH109
        if not callable(function):
            raise ModelError(f"model.name: {self.model} is a {type(function).__name__}, not a function or class")
        found: Callable[..., Any] = function
        return found
