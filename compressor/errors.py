"""Every error that compressor raises on purpose.

    CompressorError               exit code 2
    ├── RecipeError               a recipe does not say what is allowed
    ├── ModelError                a network cannot be built, traced or resized
    ├── DataError                 a data set is missing or broken
    ├── BudgetError               no network of this search space can meet the budget
    ├── RunError                  a run folder does not fit the request
    ├── TrainingError             training diverged
    ├── ExportError               the ONNX file is not what PyTorch computes
    └── UnavailableError          exit code 3: the machine lacks a GPU, provider or extra

Messages are one sentence that names the file, the path in it, the bad value and the valid ones.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

_LONGEST = 800  # characters of a sentence


class CompressorError(Exception):
    """Base of all errors of this package; the command line prints it and exits with `exit_code`."""

    exit_code = 2


class RecipeError(CompressorError):
    """A recipe has an unknown key or a value that is not allowed."""


class ModelError(CompressorError):
    """A network cannot be built, traced or resized."""


class DataError(CompressorError):
    """A data set is missing, broken or does not fit the network."""


class BudgetError(CompressorError):
    """No network of the search space can meet the budget."""


class RunError(CompressorError):
    """A run folder does not fit what was asked of it."""


class TrainingError(CompressorError):
    """The loss is no longer a finite number."""


class ExportError(CompressorError):
    """The exported file is refused: unchecked, not one file, or not what PyTorch computes."""


class UnavailableError(CompressorError):
    """This machine lacks what was asked for: a GPU, a provider, an optional package."""

    exit_code = 3


def not_one_of(value: object, valid: Iterable[object]) -> str:
    """Say that `value` is not among `valid`, and name the nearest valid one.

    Returns:
        a clause such as "'neuralscal' is not one of neuralscale, uniform (did you mean neuralscale?)"
    """
    names = sorted(str(v) for v in valid)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{value!r} is not one of {', '.join(names)}{hint}"


def _commands(character: str) -> bool:
    """Whether a terminal does something else with a character than to show it: a new line, another direction."""
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def on_one_line(text: str) -> str:
    """A sentence for a terminal: no control characters, and without the middle of a value that fills pages."""
    text = "".join(c.encode("unicode_escape").decode() if _commands(c) else c for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
