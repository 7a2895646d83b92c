"""Latency as a cost: what is found is within the limit by what was measured, however the runtime behaves."""

import itertools
import math
import random
from types import SimpleNamespace

import pytest

from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.costs.latency import LatencyCost
from compressor.errors import BudgetError
from compressor.models import reference_architecture
from compressor.recipe import RandomConfig, UniformConfig
from compressor.search import Problem, search
from compressor.search.calibration import calibrated

MLP = reference_architecture("mlp", {}, 10, (1, 8, 8))
UNIT = 7.0


def macs(architecture):
    """Multiply-adds of the MLP, by hand: the tests ask for it thousands of times."""
    sizes = [64, *architecture.widths.values(), 10]
    return sum(before * after for before, after in itertools.pairwise(sizes))


def machine(overhead=0.1, power=1.0, steps=1, noise=0.0, export=1.0):
    """A runtime: a share of overhead, a power of the multiply-adds, widths rounded up to steps, and noise."""
    rng, asked = random.Random(0), []

    def share(architecture):
        padded = {name: -(-width // steps) * steps for name, width in architecture.widths.items()}
        return macs(architecture.with_widths(padded)) / macs(MLP)

    def measure(architecture, limit, exact):
        asked.append((architecture, exact))
        ratio = (overhead + (1 - overhead) * share(architecture) ** power) * (export if exact else 1)
        ratio *= math.exp(rng.gauss(0, noise))
        return SimpleNamespace(median=ratio, low=ratio * (1 - 2 * noise), high=ratio * (1 + 2 * noise))

    return measure, asked


def solve(measure, limit_ms, config=None, **limits):
    latency = LatencyCost(measure, MLP, UNIT, limit_ms, macs)
    problem = Problem(
        MLP, Budget({"latency_ms": limit_ms, **limits}), {**params_macs.COSTS, "latency_ms": latency}, None
    )
    return calibrated(search, problem, config or UniformConfig()), latency


MACHINES = {
    "proportional": {"overhead": 0.0},
    "overhead": {"overhead": 0.3},
    "memory bound": {"power": 0.5},
    "in steps": {"steps": 16},
    "noisy": {"noise": 0.01},
    "slower as shipped": {"export": 1.03},
    "all": {"overhead": 0.2, "power": 0.7, "steps": 8, "noise": 0.02, "export": 0.97},
}


@pytest.mark.parametrize("share", [0.35, 0.5, 0.7, 0.9, 1.3])
@pytest.mark.parametrize("kind", list(MACHINES))
def test_what_is_found_was_measured_as_shipped_and_is_within_the_limit(kind, share):
    measure, asked = machine(**MACHINES[kind])
    found, latency = solve(measure, share * UNIT)
    assert asked[-1] == (found.architecture, True)
    assert 0.985 * latency(found.architecture) <= latency.records[-1]["interval_ms"][1] <= latency(found.architecture)
    assert 0.88 * share * UNIT < latency(found.architecture) <= share * UNIT
    assert len(asked) <= 24
    assert found.binding == "latency_ms"


def test_the_multiply_adds_by_hand():
    assert macs(MLP) == params_macs.macs(MLP)


def test_every_method_gets_the_cost():
    measure, _ = machine(overhead=0.2, power=0.8)
    for draw in range(3):
        found, latency = solve(measure, 0.5 * UNIT, RandomConfig(draw=draw))
        assert 0.9 * 0.5 * UNIT < latency(found.architecture) <= 0.5 * UNIT


def test_another_limit_may_bind():
    measure, asked = machine()
    found, latency = solve(measure, 0.9 * UNIT, params=params_macs.params(MLP) // 10)
    assert found.binding == "params"
    assert latency(found.architecture) < 0.5 * UNIT
    assert asked[-1] == (found.architecture, True)
    assert len(asked) <= 4


def test_a_latency_that_no_network_has_is_refused():
    measure, asked = machine(overhead=0.4)
    with pytest.raises(BudgetError, match=r"budget.latency_ms: 2.1 ms cannot be met: .* still costs 2.8"):
        solve(measure, 0.3 * UNIT)
    assert len(asked) == 1


def test_quick_exports_that_are_far_too_slow_mislead_no_search():
    measure, asked = machine(overhead=0.1, export=0.7)
    found, latency = solve(measure, 0.5 * UNIT)
    assert asked[-1] == (found.architecture, True)
    assert 0.9 * 0.5 * UNIT < latency(found.architecture) <= 0.5 * UNIT


def test_a_generous_limit_is_approached_in_leaps_of_four():
    measure, asked = machine(overhead=0.3)
    found, latency = solve(measure, 30 * UNIT)
    sizes = [macs(architecture) for architecture, _ in asked if macs(architecture) > macs(MLP)]
    assert sizes[0] < 6 * macs(MLP)
    assert all(after < 6 * max(sizes[: place + 1]) for place, after in enumerate(sizes[1:]))
    assert 0.9 * 30 * UNIT < latency(found.architecture) <= 30 * UNIT


def test_nothing_is_measured_twice():
    measure, asked = machine(noise=0.02, steps=8)
    found, latency = solve(measure, 0.6 * UNIT)
    count = len(asked)
    assert len(set(map(repr, asked))) == count
    assert latency.calibrate(found.architecture)
    assert len(asked) == count


def test_the_unscaled_network_needs_no_measurement():
    measure, asked = machine()
    latency = LatencyCost(measure, MLP, UNIT, 2 * UNIT)
    assert latency(MLP) == UNIT
    assert latency.calibrate(MLP)
    assert not asked


def test_larger_networks_are_estimated_to_take_longer():
    measure, _ = machine(noise=0.2)
    latency = LatencyCost(measure, MLP, UNIT, UNIT / 2, macs)
    sizes = [
        MLP.with_widths({name: max(1, int(width * s)) for name, width in MLP.widths.items()})
        for s in (0.01, 0.1, 0.3, 0.31, 0.32, 0.6, 0.9)
    ]
    for architecture in sizes:
        latency.measured(architecture)
    between = [
        MLP.with_widths({name: max(1, int(width * s / 100)) for name, width in MLP.widths.items()})
        for s in range(5, 200, 7)
    ]
    estimates = [latency(architecture) for architecture in between]
    assert estimates == sorted(estimates)
    assert estimates[-1] > estimates[0]


def off_machine():
    """A runtime that the model knows but for what narrow first layers take: up to a third less than predicted."""
    measure, asked = machine(overhead=0.1)

    def real(architecture, limit, exact):
        found = measure(architecture, limit, exact)
        first = next(iter(architecture.widths.values())) / next(iter(MLP.widths.values()))
        ratio = found.median * (0.67 + 0.33 * min(1.0, first / 0.5))
        return SimpleNamespace(median=ratio, low=ratio, high=ratio)

    def model(architecture):
        return 0.1 + 0.9 * macs(architecture) / macs(MLP)

    return real, model, asked


@pytest.mark.parametrize("share", [0.3, 0.45, 0.6])
def test_what_a_model_is_off_by_is_learnt_where_the_search_goes(share):
    measure, model, asked = off_machine()
    latency = LatencyCost(measure, MLP, UNIT, share * UNIT, macs, model=model)
    problem = Problem(
        MLP, Budget({"latency_ms": share * UNIT}), {**params_macs.COSTS, "latency_ms": latency}, trainer=None
    )
    found = calibrated(search, problem, UniformConfig())
    assert 0.97 * share * UNIT <= latency(found.architecture) <= share * UNIT
    assert len(asked) <= 7


def test_a_measured_network_corrects_those_that_are_like_it():
    measure, model, _ = off_machine()
    latency = LatencyCost(measure, MLP, UNIT, UNIT / 2, macs, model=model)

    def scaled(share):
        return MLP.with_widths({name: max(1, round(width * share)) for name, width in MLP.widths.items()})

    def off(share):
        return latency(scaled(share)) / (UNIT * model(scaled(share)))

    before = {share: off(share) for share in (0.19, 0.21, 0.9)}
    latency.measured(scaled(0.2))
    assert off(0.19) < 0.85 * before[0.19]
    assert off(0.21) < 0.85 * before[0.21]
    assert off(0.9) > 0.95 * before[0.9]


def test_networks_that_a_model_does_not_know_go_by_their_multiply_adds():
    measure, asked = machine(overhead=0.3)
    latency = LatencyCost(measure, MLP, UNIT, UNIT / 2, macs, model=lambda architecture: None)
    plain = LatencyCost(machine(overhead=0.3)[0], MLP, UNIT, UNIT / 2, macs)
    for share in (0.1, 0.3, 0.7):
        one = MLP.with_widths({name: max(1, round(width * share)) for name, width in MLP.widths.items()})
        assert latency(one) == plain(one)
    assert not asked


def test_networks_of_other_groups_are_corrected_a_little():
    """As those with stacked layers are, whose widths have other names."""
    other = reference_architecture("lenet5", {}, 10, (1, 28, 28))
    latency = LatencyCost(
        lambda *given: SimpleNamespace(median=0.6, low=0.6, high=0.6),
        MLP,
        UNIT,
        UNIT / 2,
        params_macs.macs,
        model=lambda architecture: 1.0 if architecture == MLP else 0.5,
    )
    before = latency(other)
    latency.measured(MLP.with_widths({name: max(1, width // 2) for name, width in MLP.widths.items()}))
    assert before < latency(other) < 0.56 * UNIT
