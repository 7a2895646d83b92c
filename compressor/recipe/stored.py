"""Numbers in the JSON files that a run leaves: whole ones stay whole, and what cannot be is refused."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import PlainValidator, ValidationError


def problem_of(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: where, and what."""
    first = error.errors(include_url=False)[0]
    place, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _number(what: str, fits: Callable[[float], bool], *, whole: bool = False) -> PlainValidator:
    """Let through the numbers that fit, whole ones as such: pydantic would make floats of them."""

    def check(value: Any) -> Any:
        kind = numbers.Integral if whole else numbers.Real  # numpy's as well
        if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):  # type: ignore[arg-type]
            raise ValueError(f"must be {what}, not {value!r:.80}")
        return int(value) if isinstance(value, numbers.Integral) else float(value)

    return PlainValidator(check)


Number = Annotated[float, _number("a number", lambda value: True)]  # a diverged loss is none that is finite
Amount = Annotated[float, _number("a finite number of 0 or more", lambda value: 0 <= value < 1e300)]
Limit = Annotated[float, _number("a finite number above 0", lambda value: 0 < value < 1e300)]
Finite = Annotated[float, _number("a finite number", lambda value: abs(value) < 1e300)]
Share = Annotated[float, _number("a number from 0 to 1", lambda value: 0 <= value <= 1)]
Count = Annotated[int, _number("a whole number of 0 or more", lambda value: 0 <= value < 2**63, whole=True)]
Size = Annotated[int, _number("a whole number of 1 or more", lambda value: 0 < value < 2**31, whole=True)]
