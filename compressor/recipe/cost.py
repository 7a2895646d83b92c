"""Costs: what the `budget` section of a recipe may limit, and what the rest of the package asks of each.

A built-in cost is a module in `compressor.costs.kinds` with a `COST`; an installed package adds its own through the
entry-point group `compressor.costs`. Nothing else knows a cost by its name, but for `BudgetConfig`,
which declares the keys of the built-in ones; a cost that is not declared there gets a key of the kind of `params`.
Neither this module nor the built-in costs import torch before a cost is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import RecipeError
from compressor.plugins import built_in, with_plugins

if TYPE_CHECKING:
    from markupsafe import Markup
    from pydantic import BaseModel
    from torch import nn

    from compressor.costs.latency_measurement import Runtime
    from compressor.models.architecture import Architecture
    from compressor.recipe.sections import Recipe
    from compressor.report.values import Record

_GROUP = "compressor.costs"
_TAKEN = {  # keys of reports
    *("name", "recipe", "method", "seed", "dataset", "reference_widths", "baseline", "trace", "finetuning", "machine"),
    *(
        "fallback",
        "note",
        "versions",
        "seconds",
        "opset",
        "accuracy",
        "metric",
        "parity",
        "precision",
        "stacked",
        "also",
    ),
    *("budget", "verification", "efficiency", "widths", "stacks", "training", "value", "samples", "folder", "error"),
}


@dataclass(frozen=True)
class CostContext:
    """What a cost is evaluated with.

    Attributes:
        recipe: of the run
        reference: the unscaled network
        measure_file: (architecture, file → number) → the number of the file that the architecture would be shipped as,
            exported untrained, with metadata as long as they may become; the largest of several forms
        runtime: what measures latency, made when it is first asked for
        progress: gets a sentence on what is measured
    """

    recipe: Recipe
    reference: Architecture
    measure_file: Callable[[Architecture, Callable[[Path], float]], float]
    runtime: Callable[[], Runtime]
    progress: Callable[[str], None]


@dataclass(frozen=True)
class ShippedNetwork:
    """A trained network and its file.

    Attributes:
        model: the network, on the CPU
        architecture: of the network
        path: of the ONNX file
    """

    model: nn.Module
    architecture: Architecture
    path: Path


def _count(value: float) -> str:
    return f"{value:,.0f}"


@dataclass(frozen=True)
class Cost:
    """Something that a network costs and a budget may limit.

    Attributes:
        name: of its key under `budget`, and in records
        title: in tables, with its unit
        description: of its key in recipes
        evaluator: context → a function of an architecture, asked hundreds of times by a search; one that is an estimate
            is a `compressor.search.problem.Calibrated`
        shipped: what a trained network and its file cost, exactly; None: `verify` measures that
        verify: (context, file, largest allowed value) → a record of the measurement, kept as JSON
        verified: key of what it found in that record
        record: key of those records in a network's report, and their file in the run folder, NAME.json
        search_record: key in search.json for the `to_json()` of its evaluator; "": it has none
        record_type: what those records must be at least, beside a finite number under `verified`
        search_type: the same of what is in search.json
        depends_on: sections of the recipe, beside `budget`, that it follows from: "export" for one of the file, "bench"
            for one that is timed on this machine
        step: the least that `widths.round_to: auto` stands for under a limit of this cost, if that fills the budget
        always: every network's record has it, limited or not
        counts_zeros: zeros that are stored among the weights count like other values
        along_params: a search for it goes by the parameters: it grows as these do, or not with every channel
        by_channel: what is left of a limit is shown in channels as well
        place: in tables and messages, the lowest first
        title_of_result: of what counts against the limit, if that is not the value of the title
        text: a value as sentences have it
        sections: of the report page: record → HTML, empty where the record lacks what it shows
        lines: of the summary in the terminal: record → a sentence, or ""
        of_unscaled: record of a run → what the unscaled network cost, if its own record does not have it
    """

    name: str
    title: str
    description: str
    evaluator: Callable[[CostContext], Callable[[Architecture], float]]
    shipped: Callable[[ShippedNetwork], float] | None = None
    verify: Callable[[CostContext, Path, float], Mapping[str, Any]] | None = None
    verified: str = "cost"
    record: str = ""
    search_record: str = ""
    record_type: type[BaseModel] | None = None
    search_type: type[BaseModel] | None = None
    depends_on: tuple[str, ...] = ()
    step: int = 1
    always: bool = False
    counts_zeros: bool = False
    along_params: bool = False
    by_channel: bool = True
    place: int = 100
    title_of_result: str = ""
    text: Callable[[float], str] = _count
    sections: tuple[Callable[[Record], Markup], ...] = ()
    lines: tuple[Callable[[Record], str], ...] = ()
    of_unscaled: Callable[[Record], Any] = lambda record: None

    @property
    def timed(self) -> bool:
        """Whether it is a matter of this machine's speed."""
        return "bench" in self.depends_on

    @property
    def of_file(self) -> bool:
        """Whether it is read off the shipped file, and so depends on its precision."""
        return self.shipped is not None and "export" in self.depends_on

    def shown_in(self, record: Record) -> bool:
        """Whether tables list it for a network: it is always there, or the network's record has it."""
        return self.always or (self.shipped is not None and record.get(self.name) is not None)


def costs() -> dict[str, Cost]:
    """All costs by name, those of installed packages included, in their order.

    Raises:
        RecipeError: an entry point is no cost
        CompressorError: an entry point cannot be imported, or its name is taken
    """
    own = {cost.name: cost for cost in built_in("compressor.costs.kinds", "COST")}
    found = with_plugins(_GROUP, own)
    for name, cost in found.items():
        if not isinstance(cost, Cost) or cost.name != name:
            raise RecipeError(f"entry point {_GROUP}: {name!r} must be a compressor.costs.Cost of that name")
        if (cost.shipped is None) == (cost.verify is None):
            raise RecipeError(f"entry point {_GROUP}: {name!r} must have one of shipped and verify")
        if name in _TAKEN:
            raise RecipeError(f"entry point {_GROUP}: the name {name!r} has another meaning in reports")
        if cost.verify is not None and not cost.record:
            raise RecipeError(f"entry point {_GROUP}: {name!r} has verify, and so must have record")
    return dict(sorted(found.items(), key=lambda item: (item[1].place, item[0])))


def cost_title(name: str) -> str:
    """What tables call a cost; its name where no such cost is installed."""
    found = costs().get(name)
    return name if found is None else found.title
