"""package.module:factory, the user's own code; called with num_classes= if it takes it, and the recipe's options."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from compressor.errors import ModelError
from compressor.models.referenced_source import ReferencedSource
from compressor.models.user_code import contained, made_by
from compressor.user_functions import imported

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
        except (ValueError, TypeError):  # a function written in C may have no signature, others have one that is none
            takes = set()
        named = {"num_classes": classes} if "num_classes" in takes else {}
        with _in_folder(_FOLDERS.get(self.model)):
            return made_by(self.model, lambda: function(**named, **options))

    def _factory(self) -> Callable[..., Any]:
        with contained(0):
            before = os.getcwd()  # noqa: PTH109
            function = imported("model.name", self.model, ModelError)
            if os.getcwd() != before:  # noqa: PTH109
                _FOLDERS[self.model] = os.getcwd()  # noqa: PTH109
        return function
