"""TissueNet ("Compact Neural Networks via Stacking Designed Basic Units"): pairs of layers give way to stacked layers
of small units that no weight connects; which pairs, and which units, is chosen to fill the budget.

Every form (strategy, n0, k, mix of units) is scaled to the budget; all of them then cost what is allowed, or nearly. A
few of these are trained for a moment: of each kind of unit first the one of most capacity, which is parameters times
multiply-adds, equal units before hybrid ones, and what is slow beside a uniformly scaled network last. The one of least
validation loss is the result. It is trained from scratch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from compressor.recipe.method import Method, MethodConfig
from compressor.recipe.values import PositiveInt, WholeOrAuto
from compressor.report.tissue import tissue_line, tissue_section
from compressor.search.problem import Problem, SearchResult

_STRATEGIES = ("auto", "all", "r", "alternate")


def _strategy(value: Any) -> Any:
    named = isinstance(value, (list, tuple)) and value and all(isinstance(name, str) for name in value)
    if not named and value not in _STRATEGIES:
        raise ValueError(f"must be one of {', '.join(_STRATEGIES)}, or a list of the first layers of pairs")
    return value


class TissueNetConfig(MethodConfig):
    """TissueNet: pairs of layers give way to stacked layers of small units that no weight connects."""

    method: Literal["tissuenet"] = "tissuenet"
    strategy: Annotated[Literal["auto", "all", "r", "alternate"] | tuple[str, ...], BeforeValidator(_strategy)] = Field(
        "auto",
        description="which pairs of layers are stacked: all; r, all but those of the first and last stage; alternate, "
        "every second of a residual stage; a list of the pairs' first layers; auto: the best of the three",
    )
    k: WholeOrAuto = Field(
        "auto",
        description="hidden nodes of a unit (n0, k, n2); auto: the best of 1, 2, 4 and 8 times n0, up to 16 or 2 n0",
    )
    nodes: WholeOrAuto = Field(
        "auto",
        description="inputs of a unit, n0, or the next that divides a layer's channels; auto: the best of 2, 8 and 16, "
        "or 2 if k is given",
    )
    mix: Literal["auto", "single", "hybrid"] = Field(
        "auto", description="hybrid: units of k/2, k and 3k/2 hidden nodes, drawn at random; auto: the better one"
    )
    units: tuple[tuple[PositiveInt, PositiveInt, PositiveInt], ...] = Field(
        (), description="kinds (n0, n1, n2) of units to stack, in place of k, nodes and mix"
    )
    counts: tuple[PositiveInt, ...] = Field(
        (), description="how many of each kind, in proportion; none: drawn at random for each position"
    )
    slowdown: Annotated[float, Field(gt=0)] | None = Field(
        2.0,
        description="networks that take more than so many times as long as the one scaled uniformly to the same budget "
        "are tried after all others, if no time is limited; null: how long they take is not measured",
    )
    trials: PositiveInt = Field(4, description="networks of most capacity that are trained for a moment, to choose one")
    trial_epochs: PositiveInt = Field(2, description="epochs of each such training")

    @model_validator(mode="after")
    def _kinds_fit_together(self) -> TissueNetConfig:
        if len(self.counts) not in (0, len(self.units)):
            raise ValueError(f"counts: {len(self.counts)} numbers for {len(self.units)} kinds of units; give one each")
        if len({(inputs, outputs) for inputs, _, outputs in self.units}) > 1:
            raise ValueError("units: all kinds must have the same n0 and the same n2; only n1 may differ")
        if self.units and {"k", "nodes", "mix"} & self.model_fields_set:
            given = min({"k", "nodes", "mix"} & self.model_fields_set)
            raise ValueError(f"units: says all of the units, so {given} must not be given")
        return self


def search(problem: Problem, config: TissueNetConfig) -> SearchResult:
    """See `compressor.search.methods.tissuenet.choose.choose`."""
    from compressor.search.methods.tissuenet.choose import choose

    return choose(problem, config)


METHOD = Method(
    TissueNetConfig,
    search,
    depends_on=("train", "bench", "export"),
    keeps_weights=False,
    sections=(tissue_section,),
    lines=(tissue_line,),
)
