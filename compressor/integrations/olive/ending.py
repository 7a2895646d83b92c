"""How our pass ends a run of Olive when it cannot deliver.

Olive's engine catches every Exception of a pass: those of a search become a log line, and most others too, and
`olive run` exits with 0. What it does not catch is SystemExit, which ends the process with our exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from compressor.errors import BudgetError, CompressorError, RecipeError
from compressor.failures import Failure, reported
from compressor.integrations.olive.parameters import PASS


class PassFailed(SystemExit):
    """Ends `olive run`: 1 budget missed, 2 bad input, 3 the machine lacks something, 70 a bug of ours."""

    def __init__(self, message: str, code: int, about_budget: bool = False) -> None:
        super().__init__(code)
        self.message, self.about_budget = message, about_budget

    def __str__(self) -> str:
        return self.message


class BudgetMissedError(CompressorError):
    """The network that came out costs more than the budget allows."""

    exit_code = 1


@contextmanager
def loud() -> Iterator[None]:
    """Turn every error inside into a line on stderr and a PassFailed, which Olive does not catch."""
    try:
        with _reported():
            yield
    except Failure as failure:
        for line in failure.message.splitlines():
            sys.stderr.write(f"error: {line}\n")
        missed = isinstance(failure.__cause__, BudgetError | BudgetMissedError)
        raise PassFailed(failure.message, failure.exit_code, missed) from failure


@contextmanager
def _reported() -> Iterator[None]:
    """What `reported` makes of errors, for a block."""
    try:
        yield
    except Exception as caught:
        error = RecipeError(_first(caught)) if isinstance(caught, ValidationError) else caught

        def again() -> None:
            raise error

        reported(again)()


def _first(error: ValidationError) -> str:
    """A sentence about a parameter whose type is wrong."""
    item = error.errors(include_url=False)[0]
    return f"{PASS}: {item['loc'][0]}: {item['input']!r} is not valid: {item['msg']}"
