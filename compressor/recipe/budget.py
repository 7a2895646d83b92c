"""The `budget` section."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from compressor.recipe.values import Batch, Limit, Provider, Section, Share, Threads, is_share, no_bool

LATENCY = "latency_ms"
_COUNTS = ("params", "macs", "onnx_bytes")
_KEYS = (*_COUNTS, LATENCY, "latency")
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
            raise ValueError(f"sets no limit; give one or more of {', '.join(_KEYS)}")
        if self.latency_ms is not None and self.latency is not None:
            raise ValueError(f"sets latency_ms: {self.latency_ms:g} and latency: {self.latency}; give one of them")
        if LATENCY not in self.names and self.conditions:
            told = ", ".join(self.conditions)
            raise ValueError(f"sets {told} without a latency; give latency_ms or latency beside it")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the limited costs."""
        counts = tuple(name for name in _COUNTS if getattr(self, name) is not None)
        return counts if self.latency_ms is None and self.latency is None else (*counts, LATENCY)

    @property
    def conditions(self) -> dict[str, Any]:
        """What this section says of how latency is measured: batch, provider, threads."""
        given = {name: getattr(self, name) for name in ("batch", "provider", "threads")}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def latency_share(self) -> float | None:
        """The limit of the latency as a share of the unscaled network's; None: it is in milliseconds, or none."""
        return None if self.latency is None else float(self.latency.removesuffix("x"))

    def at_share(self, share: str) -> dict[str, Any]:
        """The same section with every limit at a share of the unscaled network, such as "0.25x"."""
        keys = ("latency" if name == LATENCY else name for name in self.names)
        return dict.fromkeys(keys, share) | self.conditions

    def resolve(self, reference_costs: Mapping[str, float]) -> dict[str, float]:
        """{cost name: limit}, shares turned into numbers; counts are whole, rounded down.

        Args:
            reference_costs: {cost name: what the unscaled network costs}; holds all of `names`
        """
        limits = {name: _resolved(getattr(self, name), reference_costs[name]) for name in self.names if name != LATENCY}
        if (share := self.latency_share) is not None:
            limits[LATENCY] = share * reference_costs[LATENCY]
        elif self.latency_ms is not None:
            limits[LATENCY] = self.latency_ms
        return limits


def _resolved(value: int | str, whole: float) -> float:
    if isinstance(value, int):
        return float(value)
    # The decimal number that was written: as a float, 0.07 of 100 would be 7.000…001, and 0.29 of 100 less than 29.
    return float(math.floor(Fraction(value.removesuffix("x")) * Fraction(whole)))
