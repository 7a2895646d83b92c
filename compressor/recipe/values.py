"""Kinds of values in a recipe, and what all its sections have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
_QUANTITY = re.compile(r"\s*([0-9_.]+(?:[eE][+-]?[0-9]+)?)\s*([kMG]?)\s*")
_SHARE = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*x\s*")


_LARGEST_QUANTITY = 10**15  # whole numbers up to here are exact as floats
_LARGEST_COUNT = 2**31 - 1
_LARGEST_SHARE = 10**6


def _quantity(value: Any) -> Any:
    """Turn '0.58M' and 58e3 into whole numbers; anything else is left for pydantic to refuse."""
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value)
        try:
            value = float(match[1].replace("_", "")) * _UNITS[match[2]] if match else None
        except ValueError:
            value = None
    if value is None or isinstance(value, bool):
        raise ValueError("must be a number such as 580000, 0.58M or 580k")
    return int(value + 1e-6) if isinstance(value, float) and 1 <= value <= _LARGEST_QUANTITY else value


def is_share(text: str) -> bool:
    """Whether a text is meant as a share of the unscaled network, such as 0.25x."""
    return _SHARE.fullmatch(text) is not None


def _share(value: Any) -> Any:
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    try:
        fits = match is not None and 0 < float(match[1]) <= _LARGEST_SHARE
    except ValueError:
        fits = False
    if not match or not fits:
        raise ValueError(f"a share of the unscaled network must be above 0 and at most {_LARGEST_SHARE}x")
    return f"{match[1]}x"


def _limit(value: Any) -> Any:
    """A quantity, or a share of the unscaled network's cost such as '0.25x'."""
    if isinstance(value, str) and is_share(value):
        return _share(value)
    try:
        value = _quantity(value)
    except ValueError as error:
        raise ValueError(f"{error}, or a share of the unscaled network such as 0.25x") from error
    if not isinstance(value, int) or not 0 < value <= _LARGEST_QUANTITY:
        raise ValueError(
            f"must be a whole number from 1 to {_LARGEST_QUANTITY:.0e}, or a share of the unscaled network "
            "such as 0.25x"
        )
    return value


def _minimum(value: Any) -> Any:
    counts = list(value.values()) if isinstance(value, dict) else [value]
    if not all(type(count) is int and 0 < count <= _LARGEST_COUNT for count in counts):
        raise ValueError("must be a whole number above 0, or a mapping of groups to such numbers")
    return value


def no_bool(value: Any) -> Any:
    """Refuse true and false where a number is meant."""
    if isinstance(value, bool):  # Python takes True for 1
        raise ValueError("must be a number")
    return value


def _whole_or_auto(value: Any) -> Any:
    if value != "auto" and not (type(value) is int and 0 < value <= _LARGEST_COUNT):
        raise ValueError("must be a whole number above 0, or auto")
    return value


Limit = Annotated[
    Annotated[int, Field(gt=0, le=_LARGEST_QUANTITY)] | Annotated[str, Field(pattern=r"^[0-9.eE+-]+x$")],
    BeforeValidator(_limit),
]
PositiveInt = Annotated[int, Field(gt=0, le=_LARGEST_COUNT), BeforeValidator(no_bool)]
WholeOrAuto = Annotated[PositiveInt | Literal["auto"], BeforeValidator(_whole_or_auto)]
BatchSize = Annotated[PositiveInt, Field(ge=2)]  # batch-norm needs two images
Share = Annotated[str, BeforeValidator(_share)]
Batch = Annotated[PositiveInt, Field(le=65536)]
Provider = Literal["auto", "cpu", "cuda", "tensorrt", "openvino", "coreml"]
Threads = Annotated[PositiveInt, Field(le=1024)]
Minimum = Annotated[PositiveInt | dict[str, PositiveInt], BeforeValidator(_minimum)]
NonNegativeInt = Annotated[int, Field(ge=0, le=_LARGEST_COUNT), BeforeValidator(no_bool)]


def empty(kind: Callable[[], type[BaseModel]]) -> BaseModel:
    """What an instance of a class that is made at run time is read into when it was pickled."""
    made = kind()
    return made.__new__(made)


def _is_number(field: FieldInfo) -> bool:
    """Whether a field takes floats, and neither true nor false, and does not look at what it is given itself."""
    parts: list[Any] = [*field.metadata, field.annotation]
    for part in parts:
        parts += get_args(part)
    return float in parts and not any(part in (bool, Any) or isinstance(part, BeforeValidator) for part in parts)


def _spelled(value: Any) -> Any:
    """A value of which true and false are texts, which are no numbers."""
    if isinstance(value, list | tuple):
        return [_spelled(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else value


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_bool(cls, values: Any) -> Any:
        """Have true and false refused where numbers are meant: pydantic takes them for 1.0 and 0.0."""
        if not isinstance(values, dict):
            return values
        numbers = {name for name, field in cls.model_fields.items() if _is_number(field)}
        return {name: _spelled(value) if name in numbers else value for name, value in values.items()}
