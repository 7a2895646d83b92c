"""The forms of a network that TissueNet chooses among: which pairs of layers are stacked, and with which units.

A form is a one-parameter family: all widths but those between the layers of a pair are scaled alike, and a pair of
layers has as many units as its channels allow, with k hidden nodes each. Single steps of a width, and of a pair's k,
are what the integer repair of `compressor.costs.solver` adds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compressor.costs.params_macs import count_macs
from compressor.costs.solver import UNBOUNDED, Bounds
from compressor.errors import ModelError, not_one_of
from compressor.models import build_meta, example_input, graph_of, stackable
from compressor.models.architecture import Architecture
from compressor.models.stacked import Site, find_sites, select
from compressor.models.stacked.spec import BasicUnit, Kind, Stack, drawn, grouped, most_units, spread
from compressor.report.tissue import units_text
from compressor.search.bounds import bounds_for
from compressor.search.methods.tissuenet import TissueNetConfig
from compressor.search.problem import Problem, block_of

Mix = Literal["single", "hybrid", "given"]
STRATEGIES = ("all", "r", "alternate")
_NODES = (2, 8, 16)  # n0 that `auto` tries: the paper's, and those that fill a block of a runtime's kernels
_RATIOS = (1, 2, 4, 8)  # hidden nodes of a unit to its inputs that `auto` tries …
_LARGEST = 16  # … as long as there are no more nodes than that, or twice the inputs
_BLOCK = 16  # channels that ONNX Runtime's blocked kernels take at once
_ALIGNED = 8  # channels: sides of a pair that cannot be tied have at least so many units in common
_COARSER = (1, 2, 4, 8)  # times n0, where a fixed input of a pair allows no narrower output otherwise


class Tie(NamedTuple):
    """A width that is always `after` for every `before` channels of another group."""

    leader: str
    before: int
    after: int


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
        in_blocks: whether a limited cost rises in whole blocks of channels
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
    in_blocks: bool

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.strategy}, {units_text(self.mix, self.nodes, self.k)}"

    @property
    def searchable(self) -> int:
        """How many pairs have a k of their own: none if the recipe gives the kinds."""
        return 0 if self.mix == "given" else len(self.sites)

    @cached_property
    def ties(self) -> dict[str, Tie]:
        """{group: what its width follows}: both sides of a stacked layer keep their proportion, so its units do.

        What many pairs make, a residual stream, leads what each of them reads; else what a pair reads leads what it
        makes. A group that the recipe freezes follows nothing, and what reads a fixed input is tied to nothing.
        """
        made = [site.makes for site in self.sites]
        names = list(self.skeleton.widths)
        kept = {name for name, frozen in zip(names, self.allowed.frozen, strict=True) if frozen}
        ties: dict[str, Tie] = {}
        for site in self.sites:
            if site.reads is None or site.reads == site.makes:
                continue
            shared = made.count(site.makes) > 1 or site.shared
            leader, follower = (site.makes, site.reads) if shared else (site.reads, site.makes)
            before, after = (site.outputs, site.inputs) if shared else (site.inputs, site.outputs)
            if self.mix == "given":
                before, after = self.kinds[0][::-2] if shared else self.kinds[0][::2]
            leads = {tie.leader for tie in ties.values()}
            if follower not in {*ties, *kept, *leads, *self._hidden} and leader not in {*ties, *self._hidden}:
                ties[follower] = Tie(leader, before // math.gcd(before, after), after // math.gcd(before, after))
        return ties

    @cached_property
    def _hidden(self) -> set[str]:
        return {site.hidden for site in self.sites}

    @cached_property
    def free(self) -> list[str]:
        """The groups that are scaled: all but those within a pair, and those that follow others."""
        return [name for name in self.skeleton.widths if name not in self._hidden and name not in self.ties]

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
        names = list(self.skeleton.widths)
        least, most, step = (
            ([], [], []) if not self.free else zip(*(self._limits(n, names) for n in self.free), strict=True)
        )
        return Bounds(
            np.array([*least, *[self.k] * self.searchable], dtype=np.int64),
            np.array([*most, *[UNBOUNDED] * self.searchable], dtype=np.int64),
            np.array([*step, *self._steps_of_k], dtype=np.int64),
        )

    @property
    def _steps_of_k(self) -> list[int]:
        """Of every pair: merged units fill blocks if k is a multiple of n0; the last pair's k fills other budgets.

        k rises from the form's own; what a bound's multiples leave out lies below that.
        """
        whole = self.nodes if self.mix == "single" and self.k % self.nodes == 0 else 1
        single = 0 if self.in_blocks else min(1, self.searchable)
        return [whole] * (self.searchable - single) + [1] * single

    def _limits(self, name: str, names: list[str]) -> tuple[int, int, int]:
        """Least and largest width of a free group, and its step, with regard to the groups that follow it."""
        for site in self.sites:
            if self.mix == "given" and site.reads is None and name == site.makes:  # the units leave no choice
                made = site.inputs // self.kinds[0].inputs * self.kinds[0].outputs
                return made, made, 1
        place = names.index(name)
        least, most = int(self.allowed.minimum[place]), int(self.allowed.maximum[place])
        step = math.lcm(int(self.allowed.multiple[place]), self._step(name))
        for follower, tie in self.ties.items():
            if tie.leader == name:
                own = names.index(follower)
                whole = math.lcm(int(self.allowed.multiple[own]), self._step(follower))
                # A leader's width times after / before is a multiple of the follower's step.
                step = math.lcm(step, whole * tie.before // math.gcd(whole * tie.before, tie.after))
                least = max(least, -(-int(self.allowed.minimum[own]) * tie.before // tie.after))
        return least, max(least, most), step

    def _step(self, name: str) -> int:
        """What a width must be a multiple of for the units of the pairs that it feeds, or that make it."""
        step = 1
        for site in self.sites:
            if name == site.reads:
                step = math.lcm(step, self.kinds[0].inputs if self.kinds else self._block(site.inputs))
            elif name == site.makes and site.reads is None:  # as many units as the fixed input has room for
                step = math.lcm(step, site.inputs // (self.kinds[0].inputs if self.kinds else self.nodes))
            elif name == site.makes and name not in self.ties and site.reads not in self.ties:
                step = math.lcm(step, _ALIGNED)
        return step

    def _block(self, channels: int) -> int:
        """Channels of so many units that merged they fill a block of a runtime's kernels; fewer in narrow layers."""
        block = _BLOCK
        while block > 1 and 4 * block > channels:
            block //= 2
        # A layer too narrow for two such units has two or more of fewer inputs.
        return math.lcm(2, block) if channels < 2 * self.nodes else math.lcm(self.nodes, block)

    def architecture(self, numbers: Sequence[int]) -> Architecture:
        """The network of whole widths and k (free groups + searchable pairs,).

        Raises:
            ModelError: the recipe's units do not add up to a pair's channels
        """
        widths = dict(zip(self.free, numbers, strict=False))
        widths |= {name: widths[tie.leader] * tie.after // tie.before for name, tie in self.ties.items()}
        chosen = list(numbers[len(self.free) :]) or [self.k] * len(self.sites)
        stacks = {}
        for site, k in zip(self.sites, chosen, strict=True):
            inputs = site.inputs if site.reads is None else widths[site.reads]
            stacks[site.first] = Stack(site.second, self._units(site, inputs, widths[site.makes], int(k)))
            widths[site.hidden] = stacks[site.first].hidden
        ordered = {name: int(widths[name]) for name in self.skeleton.widths}
        # A pair of a width that follows another one has, stacked, a width of its own.
        own = {site.hidden: int(widths[site.hidden]) for site in self.sites if site.hidden not in ordered}
        return replace(self.skeleton, widths={**ordered, **own}, stacks=stacks)

    def _units(self, site: Site, inputs: int, outputs: int, k: int) -> tuple[Kind, ...]:
        if self.mix == "given":
            return self._given(site, inputs, outputs)
        count = most_units(inputs, outputs, self.nodes)
        if inputs < count * self.nodes:  # units of fewer inputs have as many fewer hidden nodes
            k = max(1, k * (inputs // count) // self.nodes)
        k = max(k, -(-self._fewest_hidden(site) // count))
        if self.mix == "single" or k < 2:
            return spread(inputs, k * count, outputs, count)
        unit = BasicUnit(inputs // count, k, outputs // count)
        few, many = unit._replace(hidden=k - k // 2), unit._replace(hidden=k + k // 2)
        return drawn((few, unit, many), inputs, f"{self.seed} {site.first}")

    def _fewest_hidden(self, site: Site) -> int:
        """Channels that the recipe wants between the layers of a pair at least."""
        names = list(self.skeleton.widths)
        return int(self.allowed.minimum[names.index(site.hidden)]) if site.hidden in names else 1

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
        own = []
        for k, mix, nodes in _units(config, sites):
            own.append(
                Form(
                    strategy=strategy if isinstance(strategy, str) else "chosen pairs",
                    skeleton=skeleton,
                    sites=tuple(sites),
                    k=k,
                    mix=mix,
                    nodes=nodes,
                    kinds=kinds,
                    counts=config.counts,
                    seed=problem.seed,
                    allowed=bounds_for(skeleton, problem, "search.method: tissuenet"),
                    in_blocks=block_of(problem) > 1,
                )
            )
        _check_runs(own[0])
        forms += own
    if not forms:
        what = f"search.units: {config.units[0]} " if kinds else f"search.strategy: {config.strategy} "
        raise ModelError(
            f"{what}leaves nothing to stack: model {problem.reference.model} has no such pair of layers, of which only "
            "the second reads the first and that read and make two or more channels"
        )
    return forms


def _check_runs(form: Form) -> None:
    """Run a form at its least widths: a network's own code may use a layer's weights or sizes rather than the layer.

    Raises:
        ModelError: it does not run
    """
    architecture = form.architecture(form.bounds.least.tolist())
    try:
        count_macs(build_meta(architecture), example_input(architecture, 1).to("meta"))
    except ModelError:
        raise
    except Exception as error:  # it is the user's code that raises
        pairs = ", ".join(site.first for site in form.sites)
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ModelError(
            f"search.strategy: {form.strategy}: model {architecture.model} does not run with stacked layers in place "
            f"of the pairs of {pairs}: {said}; valid: a list of the first layers of other pairs"
        ) from error


def _units(config: TissueNetConfig, sites: Sequence[Site]) -> list[tuple[int, Mix, int]]:
    """The units to try: (k, mix, least inputs)."""
    if config.units:
        return [(1, "given", 1)]
    fixed = [site.inputs for site in sites if site.reads is None]
    found: list[tuple[int, Mix, int]] = []
    for nodes in _inputs(config, fixed):
        mixes: tuple[Mix, ...] = ("single", "hybrid") if config.mix == "auto" else (config.mix,)
        if config.mix == config.nodes == "auto" and nodes != _NODES[0]:
            mixes = ("single",)  # hybrid ones are slow, which is not what units of more inputs are for
        for mix in mixes:
            found += [(k, mix, nodes) for k in _ks(config, nodes) if mix == "single" or k > 1]
    return found


def _inputs(config: TissueNetConfig, fixed: Sequence[int]) -> list[int]:
    """The least inputs of a unit to try; of pairs with a fixed input those that divide it."""
    # With a k of the recipe's, the paper's units: k says how large they are.
    auto = _NODES if config.k == "auto" else _NODES[:1]
    nodes = list(auto) if config.nodes == "auto" else [int(config.nodes)]
    if not fixed:
        return nodes
    coarser = sorted({one * factor for one in nodes for factor in _COARSER})
    return [one for one in coarser if all(inputs % one == 0 and inputs > one for inputs in fixed)] or [1]


def _ks(config: TissueNetConfig, nodes: int) -> list[int]:
    if config.k != "auto":
        return [int(config.k)]
    return [nodes * ratio for ratio in _RATIOS if nodes * ratio <= max(_LARGEST, 2 * nodes)]


def _suit(site: Site, unit: BasicUnit) -> bool:
    """Whether units can be stacked in place of a pair, at some widths."""
    if site.reads == site.makes and site.reads is not None:
        return unit.inputs == unit.outputs
    return site.reads is not None or site.inputs % unit.inputs == 0


def _sites(problem: Problem, strategy: str | tuple[str, ...]) -> tuple[Architecture, list[Site]]:
    """The network in the form that a strategy stacks, and the pairs of its layers that it stacks."""
    named = not isinstance(strategy, str)
    skeleton, firsts = stackable(problem.reference, "all" if named else str(strategy), problem.width)
    graph = graph_of(skeleton)
    frozen = {name for name, kept in zip(problem.reference.widths, problem.bounds.frozen, strict=True) if kept}
    sites = [site for site in find_sites(build_meta(skeleton), graph) if site.hidden not in frozen]
    if named or firsts is None:
        streams = {name for name in graph.groups if len(graph.producers(name)) > 1}
        return skeleton, select(sites, strategy if named else str(strategy), streams=streams)
    known = {site.first: site for site in sites}
    if missing := [first for first in firsts if first not in known and first not in frozen]:
        raise ModelError(f"model {skeleton.model}: {not_one_of(missing[0], known)}")
    return skeleton, [known[first] for first in firsts if first in known]
