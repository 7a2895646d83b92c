"""What a source of data reads from the recipe's `data` section.

A protocol and not the recipe's class: sources stay usable from Python without a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from compressor.errors import DataError, not_one_of


class SourceConfig(Protocol):
    """The fields of a recipe's `data` section, read only."""

    @property
    def name(self) -> str:
        """Name of the source: a built-in one or one of the entry-point group `compressor.datasets`."""

    @property
    def path(self) -> str | None:
        """Folder that holds the data; None for embedded data."""

    @property
    def labels(self) -> bool:
        """Whether images have classes; if not, folders say nothing."""

    @property
    def download(self) -> bool:
        """Whether missing data may be downloaded."""

    @property
    def image_size(self) -> int | None:
        """Side in pixels to which images are resized; None: as they are."""

    @property
    def channels(self) -> int | None:
        """1 (grey) or 3 (RGB); None: as the images are."""

    @property
    def validation(self) -> float:
        """Share of the training part that is kept for validation, 0 to 0.9.

        Sources with a validation part of their own only ask whether it is 0: no validation.
        """

    @property
    def limit(self) -> int | None:
        """How many training images to use, before validation is taken away, or windows of text; None: all."""

    @property
    def memory_gib(self) -> float:
        """Image folders that take no more than this once decoded are kept in memory (GiB)."""

    @property
    def augment(self) -> Sequence[str]:
        """Random changes of training images; text has none."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Of a plug-in's data set, or of a function that gives the user's."""

    @property
    def workers(self) -> int | None:
        """Processes that load the user's torch datasets; None: as many as suit the machine."""

    @property
    def window(self) -> int:
        """Tokens of text that a network sees at once, 2 or more; images have none."""


def check_config(config: SourceConfig) -> None:
    """Refuse values that no source can serve.

    Raises:
        DataError: names the field, its value and the valid values.
    """
    if not 0 <= config.validation <= 0.9:
        raise DataError(f"data.validation: {config.validation!r} is not a share between 0 and 0.9")
    if config.channels not in (None, 1, 3):
        raise DataError(f"data.channels: {not_one_of(config.channels, (1, 3))}")
    for field in ("image_size", "limit"):
        value = getattr(config, field)
        if value is not None and value < 1:
            raise DataError(f"data.{field}: {value!r} is not a number of at least 1")


def data_folder(config: SourceConfig) -> Path:
    """Return the existing folder that `config.path` names.

    Raises:
        DataError: no path is given, or it is not a folder.
    """
    if config.path is None:
        raise DataError(f"data.path: the data set {config.name!r} needs the folder that holds it, got none")
    folder = expanded(config.path)
    if not folder.is_dir():
        raise DataError(f"data.path: {config.path!r} is not a folder (looked for {folder.absolute()})")
    return folder


def expanded(path: str) -> Path:
    """A path of a recipe, in which ~ is the user's home.

    Raises:
        DataError: there is no such user
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"data.path: {path!r}: {error}") from error
