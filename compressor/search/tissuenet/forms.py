"""The forms of a network that TissueNet chooses among: which pairs of layers are stacked, and with which units.

A form is a one-parameter family: all widths but those between the layers of a pair are scaled alike, and a pair of
layers has as many units as its channels allow, with k hidden nodes each. Single steps of a width, and of a pair's k,
are what the integer repair of `compressor.solve` adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compressor.architecture import Architecture
from compressor.errors import ModelError, not_one_of
from compressor.models import build_meta, plan_of, stackable
from compressor.recipe import TissueNetConfig
from compressor.search.problem import Problem, bounds_for
from compressor.solve import UNBOUNDED, Bounds
from compressor.stacking import Site, find_sites, select
from compressor.units import BasicUnit, Kind, Stack, drawn, grouped, most_units, spread

Mix = Literal["single", "hybrid", "given"]
STRATEGIES = ("all", "r", "alternate")
KS = (2, 4, 8, 16)
_ALIGNED = 8  # units whose number has such a factor can be merged to blocks that suit a runtime's kernels


@dataclass(frozen=True)
class Form:
    """One way of stacking a network.

    Attributes:
        strategy: what picked the sites
        skeleton: the network with none of them stacked yet
        sites: the pairs of layers that are stacked
        k: hidden nodes of a unit, of hybrid units in the mean
        mix: single: equal units; hybrid: of k/2, k and 3k/2 hidden nodes, drawn; given: of the recipe's kinds
        nodes: least inputs of a unit
        kinds: the recipe's
        counts: their proportions; empty: drawn
        seed: of the draws
        allowed: widths that the skeleton's groups may have
    """

    strategy: str
    skeleton: Architecture
    sites: tuple[Site, ...]
    k: int
    mix: Mix
    nodes: int
    kinds: tuple[BasicUnit, ...]
    counts: tuple[int, ...]
    seed: int
    allowed: Bounds

    @property
    def name(self) -> str:
        """What people call it."""
        units = "given units" if self.mix == "given" else f"k = {self.k}" + (", hybrid" if self.mix == "hybrid" else "")
        return f"{self.strategy}, {units}"

    @property
    def searchable(self) -> int:
        """How many pairs have a k of their own: none if the recipe gives the kinds."""
        return 0 if self.mix == "given" else len(self.sites)

    @cached_property
    def free(self) -> list[str]:
        """The groups that are scaled: all but those between the layers of a pair."""
        hidden = {site.hidden for site in self.sites}
        return [name for name in self.skeleton.widths if name not in hidden]

    @cached_property
    def base(self) -> NDArray[np.float64]:
        """(free groups + searchable pairs,) the skeleton's widths, then k for each pair."""
        widths = [self.skeleton.widths[name] for name in self.free]
        return np.array([*widths, *[self.k] * self.searchable], dtype=np.float64)

    def scaled(self, scale: float) -> NDArray[np.float64]:
        """The real widths and k of a scale, which leaves k as it is."""
        scaled = self.base.copy()
        scaled[: len(self.free)] *= scale
        return scaled

    @cached_property
    def bounds(self) -> Bounds:
        """What the widths, and every pair's k, may be."""
        places = [list(self.skeleton.widths).index(name) for name in self.free]
        multiple = self.allowed.multiple[places].copy()
        for index, name in enumerate(self.free):
            multiple[index] = np.lcm(multiple[index], self._step(name))
        ones = np.ones(self.searchable, dtype=np.int64)
        return Bounds(
            np.concatenate([self.allowed.minimum[places], ones]),
            np.concatenate([self.allowed.maximum[places], ones * UNBOUNDED]),
            np.concatenate([multiple, ones]),
        )

    def _step(self, name: str) -> int:
        """What a width must be a multiple of for the units of the pairs that it feeds, or that make it."""
        step = 1
        for site in self.sites:
            if name not in (site.reads, site.makes):
                continue
            if self.kinds:
                inputs, _, outputs = self.kinds[0]
                mine = {site.reads: inputs, site.makes: outputs}[name] if site.reads != site.makes else inputs
                step = int(np.lcm(step, mine))
            elif site.reads == site.makes:
                step = int(np.lcm(step, self.nodes))
            else:  # what both sides have in common decides how many units there are
                other = site.outputs if name == site.reads else site.inputs
                mine = site.inputs if name == site.reads else site.outputs
                step = int(np.lcm(step, min(_ALIGNED * max(1, mine // other), mine)))
        return step

    def architecture(self, numbers: Sequence[int]) -> Architecture:
        """The network of whole widths and k (free groups + searchable pairs,).

        Raises:
            ModelError: the recipe's units do not add up to a pair's channels
        """
        widths = dict(zip(self.free, numbers, strict=False))
        chosen = list(numbers[len(self.free) :]) or [self.k] * len(self.sites)
        stacks = {}
        for site, k in zip(self.sites, chosen, strict=True):
            inputs = site.inputs if site.reads is None else widths[site.reads]
            outputs = site.outputs if site.makes is None else widths[site.makes]
            stacks[site.first] = Stack(site.second, self._units(site, inputs, outputs, int(k)))
            widths[site.hidden] = stacks[site.first].hidden
        ordered = {name: int(widths[name]) for name in self.skeleton.widths}
        # A pair of a width that follows another one has, stacked, a width of its own.
        own = {site.hidden: int(widths[site.hidden]) for site in self.sites if site.hidden not in ordered}
        return replace(self.skeleton, widths={**ordered, **own}, stacks=stacks)

    def _units(self, site: Site, inputs: int, outputs: int, k: int) -> tuple[Kind, ...]:
        if self.mix == "given":
            return self._given(site, inputs, outputs)
        count = most_units(inputs, outputs, self.nodes)
        if self.mix == "single" or k < 2:
            return spread(inputs, k * count, outputs, count)
        unit = BasicUnit(inputs // count, k, outputs // count)
        few, many = unit._replace(hidden=k - k // 2), unit._replace(hidden=k + k // 2)
        return drawn((few, unit, many), inputs, f"{self.seed} {site.first}")

    def _given(self, site: Site, inputs: int, outputs: int) -> tuple[Kind, ...]:
        before, _, after = self.kinds[0]
        count = inputs // before
        if inputs % before or count * after != outputs:
            raise ModelError(
                f"search.units: units of {before} inputs and {after} outputs cannot be stacked in place of "
                f"{site.first}, which reads {inputs} channels, and {site.second}, which makes {outputs}"
            )
        if not self.counts:
            return drawn(self.kinds, inputs, f"{self.seed} {site.first}")
        ends = np.rint(np.cumsum(self.counts) / sum(self.counts) * count).astype(int)
        each = np.diff(ends, prepend=0).tolist()
        return grouped(kind for kind, many in zip(self.kinds, each, strict=True) for _ in range(many))


def forms_of(problem: Problem, config: TissueNetConfig) -> list[Form]:
    """All forms that a recipe lets the search choose among.

    Raises:
        ModelError: no pair of the network's layers can be stacked so
    """
    kinds = tuple(BasicUnit(*unit) for unit in config.units)
    strategies = STRATEGIES if config.strategy == "auto" else (config.strategy,)
    forms, seen = [], []
    for strategy in strategies:
        skeleton, sites = _sites(problem, strategy)
        if kinds:
            sites = [site for site in sites if _suit(site, kinds[0])]
        if not sites or (skeleton, sites) in seen:
            continue
        seen.append((skeleton, sites))
        for k, mix in _units(config):
            forms.append(
                Form(
                    strategy if isinstance(strategy, str) else "chosen pairs",
                    skeleton,
                    tuple(sites),
                    k,
                    mix,
                    config.nodes,
                    kinds,
                    config.counts,
                    problem.seed,
                    bounds_for(skeleton, problem, "search.method: tissuenet"),
                )
            )
    if not forms:
        what = f"search.units: {config.units[0]} " if kinds else f"search.strategy: {config.strategy} "
        raise ModelError(
            f"{what}leaves nothing to stack: model {problem.reference.model} has no such pair of layers that keep the "
            "resolution, of which only the second reads the first and that read and make two or more channels"
        )
    return forms


def _units(config: TissueNetConfig) -> list[tuple[int, Mix]]:
    if config.units:
        return [(1, "given")]
    ks = KS if config.k == "auto" else (config.k,)
    mixes: tuple[Mix, ...] = ("single", "hybrid") if config.mix == "auto" else (config.mix,)
    return [(k, mix) for mix in mixes for k in ks if mix == "single" or k > 1]


def _suit(site: Site, unit: BasicUnit) -> bool:
    """Whether units can be stacked in place of a pair, at some widths."""
    if site.reads == site.makes and site.reads is not None:
        return unit.inputs == unit.outputs
    return site.inputs * unit.outputs == site.outputs * unit.inputs and site.inputs % unit.inputs == 0


def _sites(problem: Problem, strategy: str | tuple[str, ...]) -> tuple[Architecture, list[Site]]:
    """The network in the form that a strategy stacks, and the pairs of its layers that it stacks."""
    named = not isinstance(strategy, str)
    skeleton, firsts = stackable(problem.reference, "all" if named else str(strategy), problem.width)
    plan = plan_of(skeleton)
    frozen = {name for name, kept in zip(problem.reference.widths, problem.bounds.frozen, strict=True) if kept}
    sites = [site for site in find_sites(build_meta(skeleton), plan) if site.hidden not in frozen]
    if named or firsts is None:
        streams = {name for name in plan.groups if len(plan.producers(name)) > 1}
        return skeleton, select(sites, strategy if named else str(strategy), streams=streams)
    known = {site.first: site for site in sites}
    if missing := [first for first in firsts if first not in known and first not in frozen]:
        raise ModelError(f"model {skeleton.model}: {not_one_of(missing[0], known)}")
    return skeleton, [known[first] for first in firsts if first in known]
