"""What moves the indicators of growing networks, what is drawn by them, and what the loss cannot say."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from growing_problem import INDICATORS, problem_of
from torch import nn

from compressor import models
from compressor.search.channel_scale import ChannelScales
from compressor.search.methods.growing.indicators import Indicators
from compressor.search.methods.growing.space import Space
from compressor.search.methods.growing.utility import Utility


def test_the_loss_says_nothing_about_the_width_of_a_layer_that_a_batch_norm_follows():
    vgg = models.reference_architecture("vgg11_bn", {}, 10, (3, 32, 32), 0.25)
    torch.manual_seed(0)
    graph, model = models.graph_of(vgg), models.build(vgg)
    images, labels = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
    nn.functional.cross_entropy(model(images), labels).backward()
    scales = ChannelScales(model, graph, list(vgg.widths))
    products = dict(zip(vgg.widths, scales.derivatives().split(list(vgg.widths.values())), strict=True))
    last = products.pop(next(reversed(vgg.widths)))  # the classifier reads it
    for name, own in products.items():
        assert own.sum().abs() < 1e-3 * own.abs().sum(), name
    assert last.sum().abs() > 1e-2 * last.abs().sum()
    narrow = models.build(vgg.with_widths({**vgg.widths, "conv2": 1}))
    nn.functional.cross_entropy(narrow(images), labels).backward()
    norm = narrow.bn2
    alone = (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).abs().sum()
    assert alone < 1e-3 * products["conv2"].abs().sum()


def watched(space, costs, squares):
    """Utility after one step in which every channel had the square given, with one sign or the other in turn."""
    utility = Utility(space, costs, 1.0, torch.device("cpu"))
    signs = 1.0 - 2 * (np.arange(space.length) % 2)
    utility.observe(torch.arange(space.length), torch.tensor(signs * np.sqrt(squares)))
    return utility


def test_utility_is_larger_where_squares_are_and_costs_are_not_and_few_are_drawn(tiny, quick_trainer):
    space = Space.of(problem_of(tiny, quick_trainer(), 0.5))
    stem, inner = space.slices["stem"], space.slices["inner"]
    every, even = np.ones(space.length, dtype=bool), np.ones(space.length)
    assert watched(space, even, even).of(every) == pytest.approx(0, abs=0.2)  # w / (w - 1) of groups of 13 and 23
    dear = even.copy()
    dear[inner] = 3.0
    found = watched(space, dear, even).of(every)
    assert found[stem].min() - found[inner].max() > np.log(3) - 0.3
    found = watched(space, even, dear).of(every)
    assert found[inner].min() - found[stem].max() == pytest.approx(np.log(3), abs=0.3)
    few = every.copy()
    few[inner.start + 12 : inner.stop] = False
    found = watched(space, even, even).of(few)
    assert found[inner].min() - found[stem].max() == pytest.approx(np.log(23 / 12), abs=0.3)
    uneven = even.copy()
    uneven[stem.start] = 9.0
    found = watched(space, even, uneven).of(every)
    assert found[stem.start] > found[stem.start + 1 : stem.stop].max() + 0.5


def test_a_group_whose_derivatives_do_not_add_up_to_0_becomes_as_wide_as_others_in_the_mean(tiny, quick_trainer):
    space = Space.of(problem_of(tiny, quick_trainer(), 0.5))
    stem, inner = space.slices["stem"], space.slices["inner"]
    drawn = np.ones(space.length, dtype=bool)
    utility = Utility(space, np.ones(space.length), 1.0, torch.device("cpu"))
    products = 1.0 - 2 * (torch.arange(space.length) % 2)
    products[inner] = 1000.0  # as of what a classifier reads
    utility.observe(torch.arange(space.length), products)
    assert utility.of(drawn) == pytest.approx(0, abs=0.3)
    drawn[inner.start + 12 : inner.stop] = False
    found = utility.of(drawn)
    assert found[inner].min() - found[stem].max() == pytest.approx(np.log(23 / 12), abs=0.4)


def test_utility_of_a_lone_channel_is_that_of_its_group_when_it_had_more(tiny, quick_trainer):
    space = Space.of(problem_of(tiny, quick_trainer(), 0.5))
    even, inner = np.ones(space.length), space.slices["inner"]
    every = np.ones(space.length, dtype=bool)
    alone = every.copy()
    alone[inner.start + 1 : inner.stop] = False
    utility = watched(space, even, even)
    assert utility.of(alone)[inner] == pytest.approx(0)  # never seen with another one
    utility.of(every)
    utility.observe(torch.arange(space.length), torch.zeros(space.length))
    assert utility.of(alone)[inner.start] == 2.5  # as rare as that: pulled up as far as it goes
    assert np.abs(utility.of(every)).max() <= 2.5


@pytest.mark.parametrize("floor", [0.0, 0.5, 1.0])
def test_no_group_is_left_far_behind_the_others(tiny, quick_trainer, floor):
    space = Space.of(problem_of(tiny, quick_trainer(), 0.5))
    settings, alike = dataclasses.replace(INDICATORS, even=True), (torch.device("cpu"), np.ones(space.length))
    indicators = Indicators(space, dataclasses.replace(settings, floor=floor), *alike)
    chances = np.full(space.length, 0.5)
    first = next(iter(space.slices.values()))
    chances[first] = 0.01
    counts = indicators.counts(chances, set(space.slices))
    sizes = {name: own.stop - own.start for name, own in space.slices.items()}
    assert all(1 <= count <= sizes[name] for name, count in counts.items())
    plain = Indicators(space, settings, *alike).counts(chances, set(space.slices))
    shares = {
        name: min(float(chances[own].sum()), 1) if plain[name] == 1 else plain[name]
        for name, own in space.slices.items()
    }
    level = math.exp(sum(math.log(shares[name] / sizes[name]) for name in plain) / len(plain))
    assert all(counts[name] >= floor * level * sizes[name] - 1e-9 for name in counts)
    assert all(counts[name] == plain[name] for name in counts if plain[name] >= floor * level * sizes[name])
    drawn = indicators.draw()
    own_counts = indicators.counts(indicators.chances(), set(space.slices))
    assert {name: int(drawn[own].sum()) for name, own in space.slices.items()} == own_counts


def test_narrow_groups_and_those_of_absent_layers_do_not_raise_the_others(tiny, quick_trainer):
    space = Space.of(problem_of(tiny, quick_trainer(), 0.5))
    settings = dataclasses.replace(INDICATORS, even=True, floor=0.75)
    indicators = Indicators(space, settings, torch.device("cpu"), np.ones(space.length))
    assert set(indicators.counts(np.full(space.length, 1e-3), set(space.slices)).values()) == {1}
    chances, (first, *others) = np.full(space.length, 0.1), space.slices
    chances[space.slices[first]] = 1.0
    with_it, without = (indicators.counts(chances, there) for there in (set(space.slices), set(others)))
    assert all(without[name] <= with_it[name] for name in others)
    assert any(without[name] < with_it[name] for name in others)


@pytest.mark.parametrize("redraw", [0.1, 1.0])
def test_what_is_drawn_has_the_widths_that_the_force_is_taken_from(tiny, quick_trainer, redraw):
    space, generator = Space.of(problem_of(tiny, quick_trainer(), 0.5)), torch.Generator().manual_seed(0)
    settings = dataclasses.replace(INDICATORS, even=True, redraw=redraw)
    indicators = Indicators(space, settings, torch.device("cpu"), np.ones(space.length))
    for _ in range(10):
        indicators.s += 0.5 * torch.randn(space.length, generator=generator)
        expected, drawn = indicators.expected(), indicators.draw()
        for own in space.slices.values():
            assert drawn[own].sum() == max(1, round(float(expected[own].sum())))
        indicators.round += 1


def test_draws_have_the_probability_of_the_indicators_however_many_draw_anew(tiny, quick_trainer):
    space = Space.of(problem_of(tiny, quick_trainer(), 0.5))
    for redraw in (1.0, 0.2):
        count, rounds = np.zeros(space.length), 0
        for seed in range(40):
            settings = dataclasses.replace(INDICATORS, redraw=redraw, seed=seed)
            indicators = Indicators(space, settings, torch.device("cpu"), np.ones(space.length))
            indicators.s.fill_(0.4)
            for _ in range(10):
                indicators.round += 1
                count += indicators.draw()
                rounds += 1
        assert count.mean() / rounds == pytest.approx(1 / (1 + np.exp(-0.4)), abs=0.02)


def test_with_few_new_lots_networks_change_less(tiny, quick_trainer):
    space, changes = Space.of(problem_of(tiny, quick_trainer(), 0.5)), {}
    for redraw in (1.0, 0.1):
        indicators = Indicators(
            space, dataclasses.replace(INDICATORS, redraw=redraw), torch.device("cpu"), np.ones(space.length)
        )
        indicators.s.zero_()
        draws = []
        for _ in range(20):
            draws.append(indicators.draw())
            indicators.round += 1
        changes[redraw] = sum(int((a != b).sum()) for a, b in itertools.pairwise(draws))
    assert 0 < changes[0.1] < 0.3 * changes[1.0]


def test_temperatures_rise_with_the_draws_of_each_or_for_all_alike(tiny, quick_trainer):
    space = Space.of(problem_of(tiny, quick_trainer(), 0.5))
    drawn = np.arange(space.length) % 2 == 0
    for temperature in ("structure", "global"):
        settings = dataclasses.replace(INDICATORS, temperature=temperature)
        indicators = Indicators(space, settings, torch.device("cpu"), np.ones(space.length))
        for _ in range(INDICATORS.rounds):
            indicators.count_draw(drawn)
        beta = indicators.beta().numpy()
        assert beta[drawn] == pytest.approx(100.0, rel=1e-4)
        assert beta[~drawn] == pytest.approx(1.0 if temperature == "structure" else 100.0, rel=1e-4)


def test_the_penalty_pushes_up_below_the_budget_and_down_above_it(tiny, quick_trainer):
    space = Space.of(problem_of(tiny, quick_trainer(), 0.5))
    for force, sign in ((-0.05, 1), (0.05, -1)):
        indicators = Indicators(space, INDICATORS, torch.device("cpu"), np.ones(space.length))
        before, indicators.force = indicators.s.clone(), force
        indicators.step(torch.zeros(0, dtype=torch.int64), torch.zeros(0))
        assert bool(((indicators.s - before) * sign > 0).all())
