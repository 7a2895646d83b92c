"""Pairs and their ratio; times come from fake sessions, so that nothing here depends on the machine."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from compressor.bench import BenchError, pairs
from compressor.bench.inputs import TensorSpec
from compressor.bench.pairs import LOOKS, Pairs, measure_pairs, median_alone
from compressor.bench.turns import Conditions

NEVER = lambda found: False  # noqa: E731


def pairs_of(times, clock="wall", seed=0):
    """Pairs with these times, (blocks, pairs, 2), by one clock, and the double by the other."""
    times = np.asarray(times, dtype=float)
    by = {"wall": times, "cpu": 2 * times} if clock == "wall" else {"wall": 2 * times, "cpu": times}
    return Pairs(by["wall"], by["cpu"], clock, "cpu", 1, 1.0, seed, np.ones((len(times), 2)), ((), ()))


def noisy(blocks, size, between, within=0.01, ratio=1.0, seed=0):
    """Times whose ratio differs by `between` from block to block and by `within` inside (standard deviations)."""
    rng = np.random.default_rng(seed)
    base = np.exp(rng.normal(0, 0.3, (blocks, size)))  # slow minutes, which both sides share
    logs = np.log(ratio) + rng.normal(0, between, (blocks, 1)) + rng.normal(0, within, (blocks, size))
    return np.stack([base, base * np.exp(logs)], axis=2)


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_ratio_of_a_candidate_that_is_slower_by_a_constant_factor(clock):
    found = pairs_of(noisy(8, 7, 0, 0, ratio=1.05), clock).ratio()
    assert (found.median, found.low, found.high) == pytest.approx((1.05, 1.05, 1.05))
    assert found.level == 0.99


def test_ratio_is_of_the_clock_that_was_chosen():
    times = noisy(4, 5, 0, 0, ratio=1.25)
    found = Pairs(times, times[:, :, ::-1], "wall", "cpu", 1, 1.0, 0, np.ones((4, 2)), ((), ()))
    assert found.ratio().median == pytest.approx(1.25)
    assert replace(found, clock="cpu").ratio().median == pytest.approx(0.8)


def test_interval_is_as_wide_as_blocks_disagree_however_many_pairs_they_have():
    few, many = (pairs_of(noisy(16, size, 0.04)).ratio() for size in (5, 100))
    assert 0.5 < (many.high - many.low) / (few.high - few.low) < 2
    alone = pairs_of(noisy(16, 100, 0)).ratio()
    assert many.high - many.low > 5 * (alone.high - alone.low)


def test_interval_narrows_with_blocks_and_widens_with_the_level():
    widths = [(lambda r: r.high - r.low)(pairs_of(noisy(blocks, 5, 0.04)).ratio()) for blocks in (8, 32, 128)]
    assert widths == sorted(widths, reverse=True)
    found = pairs_of(noisy(16, 5, 0.04))
    narrow, wide = found.ratio(0.5), found.ratio(0.99)
    assert wide.low < narrow.low < narrow.median < narrow.high < wide.high


def test_interval_holds_about_as_often_as_it_says():
    """Of 200 comparisons of a model with itself, 16 blocks each, the interval at 99 % misses 1 seldom."""
    missed = 0
    for seed in range(200):
        found = pairs_of(noisy(16, 5, 0.03, seed=seed)).ratio()
        missed += not found.low <= 1 <= found.high
    assert missed <= 8  # a bootstrap over few blocks is a little narrow: 2 would be exact


def test_the_seed_decides_the_interval():
    times = noisy(8, 5, 0.05)
    first, again, other = (pairs_of(times, seed=seed).ratio() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_large_measurement_is_resampled_in_parts(monkeypatch):
    found = pairs_of(noisy(16, 20, 0.05))
    whole = found.ratio()
    monkeypatch.setattr(pairs, "_CHUNK", 16 * 20 * 3)
    assert found.ratio() == whole


class FakeTurns:
    """Stands in for `Turns`: the base takes 1 ms of CPU, the candidate 1.5; walls are ten times that."""

    opened, clock = [], None
    one_thread, threads, warm_up_seconds = True, 1, 0.001

    def __init__(self, paths, conditions, order):
        type(self).opened.append((tuple(paths), conditions))
        self.factors = [1.5 if path == "candidate" else 1.0 for path in paths]
        self.entrants = [self.entrant(path) for path in paths]
        self.wall_ms, self.cpu_ms = [[] for _ in paths], [[] for _ in paths]

    def entrant(self, path):
        opened = SimpleNamespace(provider="cpu", create_ms=7.0 if path == "candidate" else 5.0)
        spec = TensorSpec(f"x of {path}", (1,), "float32")
        return SimpleNamespace(opened=opened, one_thread=self.one_thread, threads=self.threads, inputs=(spec,))

    def warm_up(self, rounds):
        type(self).clock.now += rounds * self.warm_up_seconds

    def run(self, rounds):
        for side, factor in enumerate(self.factors):
            self.cpu_ms[side] += [factor] * rounds
            self.wall_ms[side] += [10 * factor] * rounds


@pytest.fixture
def turns(monkeypatch):
    """Give fake sessions and a clock that they move; returns the class, to be changed by the test."""
    clock = SimpleNamespace(now=0.0)
    fake = type("Turns", (FakeTurns,), {"opened": [], "clock": clock})
    monkeypatch.setattr(pairs, "Turns", fake)
    monkeypatch.setattr(pairs, "time", SimpleNamespace(monotonic=lambda: clock.now, perf_counter=lambda: clock.now))
    return fake


def measure(decided=NEVER, conditions=None, **options):
    return measure_pairs("base", "candidate", conditions or Conditions("auto", 1, 1), decided, **options)


def test_each_block_opens_both_files_and_the_sides_stay_apart(turns):
    found = measure(looks=(8,))
    orders = [paths for paths, _ in turns.opened]
    assert len(orders) == 8
    assert set(orders) == {("base", "candidate"), ("candidate", "base")}
    assert found.ratio().median == pytest.approx(1.5)
    assert found.cpu_ms[:, :, 0] == pytest.approx(1.0)
    assert found.wall_ms[:, :, 1] == pytest.approx(15.0)
    assert found.session_ms.tolist() == [[5.0, 7.0]] * 8
    assert [[spec.name for spec in side] for side in found.inputs] == [["x of base"], ["x of candidate"]]


def test_the_seed_decides_the_order_of_the_sessions(turns):
    for seed in (3, 3, 4):
        measure(conditions=Conditions("cpu", 1, 1, seed), looks=(8,))
    orders = [paths for paths, _ in turns.opened]
    assert orders[:8] == orders[8:16] != orders[16:]


def test_auto_takes_one_provider_for_all_blocks_and_inputs_keep_their_values(turns):
    found = measure(conditions=Conditions("auto", 4, 1, seed=9), looks=(3,))
    assert [conditions.provider for _, conditions in turns.opened] == ["auto", "cpu", "cpu"]
    assert {conditions.seed for _, conditions in turns.opened} == {9}
    assert found.provider == "cpu"


def test_decided_is_asked_at_every_look_until_it_says_so(turns):
    asked = []

    def at_32(found):
        asked.append(found.wall_ms.shape[0])
        return asked[-1] == 32

    assert measure(at_32).wall_ms.shape[0] == 32
    assert asked == [8, 16, 32]


def test_looks_end(turns):
    told = []
    assert measure(progress=lambda block, most: told.append((block, most))).wall_ms.shape[0] == LOOKS[-1] == 128
    assert told == [(block, 128) for block in range(1, 129)]


@pytest.mark.parametrize(("seconds", "blocks"), [(0, 8), (0.42, 10), (0.5, 12)])
def test_time_ends_the_measurement_between_looks_but_not_before_the_first(turns, seconds, blocks):
    """Two rounds of 19.2 ms warm a block of 13 pairs up; in the first block 3 more have decided that."""
    turns.warm_up_seconds = 0.0192
    found = measure(max_seconds=seconds)
    assert found.wall_ms.shape[:2] == (blocks, 13)
    assert turns.clock.now == pytest.approx(0.0192 * (3 + 2 * blocks))
    assert found.seconds == turns.clock.now


@pytest.mark.parametrize(("pair", "size"), [(1e-6, 100), (0.01, 25), (10.0, 2)])
def test_a_block_has_2_to_100_pairs_by_their_time(turns, pair, size):
    turns.warm_up_seconds = pair
    assert measure(looks=(2,)).wall_ms.shape == (2, size, 2)


@pytest.mark.parametrize(
    ("one_thread", "asked", "taken"),
    [(True, "auto", "cpu"), (True, "cpu", "cpu"), (True, "wall", "wall"), (False, "auto", "wall")],
)
def test_auto_is_cpu_time_where_one_thread_does_all(turns, one_thread, asked, taken):
    turns.one_thread = one_thread
    found = measure(clock=asked, looks=(2,))
    assert found.clock == taken
    assert found.times_ms[0, 0, 0] == {"cpu": 1.0, "wall": 10.0}[taken]


def test_cpu_time_of_several_threads_is_refused(turns):
    turns.one_thread, turns.threads = False, 2
    with pytest.raises(BenchError, match="clock 'cpu' needs provider 'cpu' with threads=1, not 'cpu' with 2 threads"):
        measure(clock="cpu")


def test_a_model_alone_is_measured_in_fresh_sessions_too(turns):
    assert median_alone("candidate", Conditions("cpu", 1, 1), blocks=4) == (15.0, (15.0, 15.0))
    assert [paths for paths, _ in turns.opened] == [("candidate",)] * 4


def test_median_of_the_candidate_is_by_the_clock(turns):
    assert measure(looks=(4,)).candidate_ms() == (15.0, (15.0, 15.0))


def test_real_sessions(save_linear):
    path = save_linear()
    found = measure_pairs(path, path, Conditions("cpu", 3, 1), NEVER, looks=(1, 2))
    assert found.wall_ms.shape == found.cpu_ms.shape
    assert found.wall_ms.shape[0] == 2
    assert (found.wall_ms > 0).all()
    assert found.inputs == ((TensorSpec("x", (3, 13), "float32"),),) * 2
    assert (found.session_ms > 0).all()
    assert (found.clock, found.provider, found.threads) == ("cpu", "cpu", 1)
