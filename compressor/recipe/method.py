"""Search methods: what the `search` section of a recipe may name, and what the rest of the package asks of each.

A built-in method is a module or package in `compressor.search.methods` with a `METHOD`; an installed package adds its
own through the entry-point group `compressor.methods`. Both are the same `Method` and found here; nothing else lists
them by name. Neither this module nor the built-in methods import torch before a search begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, Field

from compressor.errors import RecipeError
from compressor.plugins import built_in, with_plugins
from compressor.recipe.values import Section

if TYPE_CHECKING:
    from markupsafe import Markup

    from compressor.report.values import Record
    from compressor.search import Problem, SearchResult

_GROUP = "compressor.methods"


class MethodConfig(Section):
    """The options of a search method; a child has the field `method: Literal["NAME"] = "NAME"`."""

    method: str
    weights: Literal["auto", "kept", "fresh"] = Field(
        "auto",
        description="of the network found: kept: those of the trained network, which is fine-tuned then; fresh: it is "
        "trained from scratch; auto: kept where there are trained ones (model.weights)",
    )
    ranking: Literal["taylor", "l1", "l2", "random"] = Field(
        "taylor",
        description="which channels of a group are kept: those of largest first-order Taylor expansion on training "
        "data, of largest L1 or L2 norm of their filters, or any",
    )


@dataclass(frozen=True)
class Method:
    """A search method.

    Attributes:
        config: of the `search` section, a pydantic model with the field `method: Literal["NAME"]`
        search: (problem, config) → what it found, see `compressor.search`
        depends_on: sections of the recipe, beside `search`, that its outcome follows from, such as "train"; a run is
            not resumed with another value of these
        trains: whether it trains networks; a comparison runs those that do not first
        anytime: the network trains while the search changes it: a pause has a network to ship
            (`compressor.search.Unfinished`), and the best epoch on validation data means nothing
        trains_first: whether it trains the unscaled network, where that has no trained weights, to cut it down
        keeps_weights: whether its networks can keep trained weights, being the unscaled one at other widths
        sections: of the report page, in this order: record → HTML, empty where the record lacks what it shows
        lines: of the summary in the terminal: record → a sentence, or ""
    """

    config: type[BaseModel]
    search: Callable[[Problem, Any], SearchResult]
    depends_on: tuple[str, ...] = ()
    trains: bool = True
    anytime: bool = False
    trains_first: bool = False
    keeps_weights: bool = True
    sections: tuple[Callable[[Record], Markup], ...] = ()
    lines: tuple[Callable[[Record], str], ...] = ()

    @property
    def name(self) -> str:
        """What recipes call it."""
        (name,) = get_args(self.config.model_fields["method"].annotation)
        return str(name)


def methods() -> dict[str, Method]:
    """All search methods by name, those of installed packages included.

    Raises:
        RecipeError: an entry point is no search method
        CompressorError: an entry point cannot be imported, or its name is taken
    """
    own = {method.name: method for method in built_in("compressor.search.methods", "METHOD")}
    return {name: own.get(name) or _plugin(name, value) for name, value in with_plugins(_GROUP, own).items()}


def method_of(config: BaseModel) -> Method:
    """The search method that a `search` section belongs to.

    Raises:
        RecipeError: there is none
    """
    for method in methods().values():
        if method.config is type(config):
            return method
    raise RecipeError(f"search: {type(config).__name__} is the section of no search method that is installed")


def sections_of(record: Record) -> tuple[Callable[[Record], Markup], ...]:
    """The sections that the search method of a run brings; those of all built-in ones where it is not installed."""
    method = methods().get(str(record.get("method")))
    return _general()[0] if method is None else method.sections


def lines_of(record: Record) -> tuple[Callable[[Record], str], ...]:
    """Likewise the lines of the summary."""
    method = methods().get(str(record.get("method")))
    return _general()[1] if method is None else method.lines


def _general() -> tuple[tuple[Callable[[Record], Markup], ...], tuple[Callable[[Record], str], ...]]:
    """Sections and lines of all built-in methods: each is empty where the record lacks what it shows."""
    own = built_in("compressor.search.methods", "METHOD")
    sections = dict.fromkeys(section for method in own for section in method.sections)
    return tuple(sections), tuple(dict.fromkeys(line for method in own for line in method.lines))


def _plugin(name: str, value: Any) -> Method:
    """The method of an entry point: a `Method`, or a pair (config class, search function) as in version 0.1."""
    method = _of_pair(*value) if isinstance(value, tuple) and len(value) == 2 else value
    if isinstance(method, Method) and isinstance(method.config, type) and issubclass(method.config, BaseModel):
        field = method.config.model_fields.get("method")
        if field is not None and get_args(field.annotation) == (name,):
            return method
    raise RecipeError(
        f"entry point {_GROUP}: {name!r} must be a compressor.search.Method, or a pair (pydantic config class, search "
        f"function), whose config class has the field method: Literal[{name!r}]"
    )


def _of_pair(config: Any, search: Callable[[Problem, Any], SearchResult]) -> Method:
    """What a pair is: what it depends on may stand in its config class, and what it shows in its trace."""
    depends_on: tuple[str, ...] = getattr(config, "uses", ())
    anytime: bool = getattr(config, "anytime", False)
    sections, lines = _general()
    return Method(config, search, depends_on, anytime=anytime, sections=sections, lines=lines)
