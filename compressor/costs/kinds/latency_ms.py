"""Milliseconds of one batch on ONNX Runtime, measured beside the unscaled network.

What counts against the limit is the upper end of what was measured. See `compressor.costs.latency` for the estimate
that a search works with, and `compressor.costs.latency_measurement` for how networks and files are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, StrictBool

from compressor.recipe.cost import Cost, CostContext
from compressor.recipe.stored import Amount, Count, Limit, Size
from compressor.report.values import Record, dig
from compressor.report.verification import latency_budget_section, verified_line

if TYPE_CHECKING:
    from compressor.models.architecture import Architecture

_NAME = "latency_ms"
_ROUGH = 2  # blocks


class _Ratio(BaseModel):
    median: Limit
    low: Limit
    high: Limit


class Verification(BaseModel):
    """How the latency of a file was verified: as `Runtime.verify` gives it; these keys are what reports need."""

    model_config = ConfigDict(extra="allow")

    ratio: _Ratio
    median_ms: Amount
    interval_ms: tuple[Amount, Amount]
    cost_ms: Amount
    limit_ms: Limit
    share: Limit | None
    verdict: str
    pairs: Size
    blocks: Size
    clock: str


class _Measured(BaseModel):
    macs: Count
    ms: Amount
    interval_ms: tuple[Amount, Amount]
    exact: StrictBool


class _Model(BaseModel):
    probes: Size
    median_error: Amount
    largest_error: Amount


class LatencySearch(BaseModel):
    """What a search measured: as `LatencyCost.to_json` gives it."""

    unscaled_ms: Limit
    limit_ms: Limit
    measured: list[_Measured]
    layer_model: _Model | None = None


def _evaluator(context: CostContext) -> Callable[[Architecture], float]:
    from compressor.costs.latency import LatencyCost

    runtime, budget = context.runtime(), context.recipe.budget
    # A limit in milliseconds is to hold even if the unscaled network is as slow as it may be; of a share, milliseconds
    # are only for display.
    unscaled = runtime.unscaled_ms()[1] if budget.latency is None else runtime.unscaled_ms(_ROUGH)[0]
    limit = budget.resolve(dict.fromkeys(budget.names, unscaled))[_NAME]
    model, how = runtime.model(limit / unscaled, unscaled), runtime.conditions
    conditions = f"{how.provider}-{how.batch}-{how.threads}"
    return LatencyCost(
        runtime.ratio,
        context.reference,
        unscaled,
        limit,
        model=model,
        conditions=conditions,
        block=1 if model is None else runtime.block,
    )


def _verify(context: CostContext, path: Path, limit: float) -> Mapping[str, Any]:
    return context.runtime().verify(path, limit, context.recipe.budget.latency_share)


def _of_unscaled(record: Record) -> Any:
    return dig(record, "latency_search", "unscaled_ms")


COST = Cost(
    name=_NAME,
    title="latency, ms",
    description="milliseconds of one batch on ONNX Runtime, median by the clock, such as 3.0",
    evaluator=_evaluator,
    verify=_verify,
    verified="cost_ms",
    record="verification",
    search_record="latency",
    record_type=Verification,
    search_type=LatencySearch,
    depends_on=("bench", "export"),
    by_channel=False,  # what a channel adds is an estimate finer than its noise
    place=5,
    title_of_result="latency, ms (upper end of its interval)",
    text=lambda value: f"{value:.4g} ms",
    sections=(latency_budget_section,),
    lines=(verified_line,),
    of_unscaled=_of_unscaled,
)
