"""The `budget` section."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, create_model, model_validator

from compressor.errors import RecipeError
from compressor.recipe.cost import costs
from compressor.recipe.values import Batch, Limit, Provider, Section, Share, Threads, empty, is_share, no_bool

_LATENCY = "latency_ms"
_CONDITIONS = ("batch", "provider", "threads")
_LONGEST_MS = 10**6


def _milliseconds(value: Any) -> Any:
    if isinstance(value, str) and is_share(value):
        raise ValueError(
            f"must be milliseconds such as 3.0; a share of the unscaled network's goes under latency: {value}"
        )
    return no_bool(value)


def _latency_share(value: Any) -> Any:
    if not isinstance(value, str) or not is_share(value):
        raise ValueError(
            "must be a share of the unscaled network's latency such as 0.5x; milliseconds go under latency_ms"
        )
    return value


Milliseconds = Annotated[float, Field(gt=0, le=_LONGEST_MS), BeforeValidator(_milliseconds)]


class BudgetConfig(Section):
    """Upper limits of the result; all given ones must hold. 0.25x is a quarter of what the unscaled network has."""

    params: Limit | None = Field(None, description="parameters, such as 580000, 0.58M or 0.25x")
    macs: Limit | None = Field(None, description="multiply-adds for one image, such as 10M or 0.25x")
    onnx_bytes: Limit | None = Field(None, description="size of the ONNX file, such as 200k or 0.25x")
    activation_bytes: Limit | None = Field(
        None, description="most memory that activations take at once, at batch 1 or export.batch, such as 256k or 0.5x"
    )
    latency_ms: Milliseconds | None = Field(
        None, description="milliseconds of one batch on ONNX Runtime, median by the clock, such as 3.0"
    )
    latency: Annotated[Share, BeforeValidator(_latency_share)] | None = Field(
        None, description="the same as a share of the unscaled network's, measured beside it, such as 0.5x"
    )
    batch: Batch | None = Field(None, description="inputs in that batch; null: bench.batch")
    provider: Provider | None = Field(None, description="what runs it; null: bench.provider")
    threads: Threads | None = Field(None, description="intra-op threads; null: bench.threads")

    @model_validator(mode="after")
    def _check(self) -> BudgetConfig:
        if not self.names:
            keys = [name for name in type(self).model_fields if name not in _CONDITIONS]
            raise ValueError(f"sets no limit; give one or more of {', '.join(keys)}")
        if self.latency_ms is not None and self.latency is not None:
            raise ValueError(f"sets latency_ms: {self.latency_ms:g} and latency: {self.latency}; give one of them")
        if _LATENCY not in self.names and self.conditions:
            names = ", ".join(self.conditions)
            raise ValueError(f"sets {names} without a latency; give latency_ms or latency beside it")
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """A class that is made at run time is not found by its name."""
        return empty, (budget_type,), self.__getstate__()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the limited costs."""
        given = (name for name in type(self).model_fields if getattr(self, name) is not None)
        named = (_LATENCY if name == "latency" else name for name in given if name not in _CONDITIONS)
        return tuple(dict.fromkeys(named))

    @property
    def conditions(self) -> dict[str, Any]:
        """What this section says of how latency is measured: batch, provider, threads."""
        given = {name: getattr(self, name) for name in _CONDITIONS}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def latency_share(self) -> float | None:
        """The limit of the latency as a share of the unscaled network's; None: it is in milliseconds, or none."""
        return None if self.latency is None else float(self.latency.removesuffix("x"))

    def at_share(self, share: str) -> dict[str, Any]:
        """The same section with every limit at a share of the unscaled network, such as "0.25x"."""
        keys = ("latency" if name == _LATENCY else name for name in self.names)
        return dict.fromkeys(keys, share) | self.conditions

    def with_conditions(self, limits: Mapping[str, Any]) -> dict[str, Any]:
        """These limits as a section, with what this one says of how latency is measured if they limit that."""
        return (self.conditions if {_LATENCY, "latency"} & set(limits) else {}) | dict(limits)

    def resolve(self, reference_costs: Mapping[str, float]) -> dict[str, float]:
        """{cost name: limit}, shares turned into numbers; counts are whole, rounded down.

        Args:
            reference_costs: {cost name: what the unscaled network costs}; holds all of `names`
        """
        limits = {
            name: _resolved(getattr(self, name), reference_costs[name]) for name in self.names if name != _LATENCY
        }
        if (share := self.latency_share) is not None:
            limits[_LATENCY] = share * reference_costs[_LATENCY]
        elif self.latency_ms is not None:
            limits[_LATENCY] = self.latency_ms
        return limits


def budget_type() -> type[BudgetConfig]:
    """`BudgetConfig`, with a key for every cost that it does not declare itself."""
    known = costs()
    if taken := [name for name in known if hasattr(BudgetConfig, name) or name in (*_CONDITIONS, "latency")]:
        raise RecipeError(f"entry point compressor.costs: the name {taken[0]!r} has another meaning under budget")
    return _limiting(*((n, cost.description) for n, cost in known.items() if n not in BudgetConfig.model_fields))


@functools.cache  # sections are equal only if their class is the same
def _limiting(*others: tuple[str, str]) -> type[BudgetConfig]:
    if not others:
        return BudgetConfig
    fields: dict[str, Any] = {name: (Limit | None, Field(None, description=text)) for name, text in others}
    return create_model("BudgetConfig", __base__=BudgetConfig, __doc__=BudgetConfig.__doc__, **fields)


def _resolved(value: int | str, whole: float) -> float:
    if isinstance(value, int):
        return float(value)
    # The decimal number that was written: as a float, 0.07 of 100 would be 7.000…001, and 0.29 of 100 less than 29.
    return float(math.floor(Fraction(value.removesuffix("x")) * Fraction(whole)))
