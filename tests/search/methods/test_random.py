import json
from dataclasses import replace

import numpy as np
import pytest

from compressor.costs.solver import Bounds
from compressor.errors import BudgetError, ModelError
from compressor.models import reference_architecture
from compressor.recipe import RandomConfig, UniformConfig
from compressor.search import search


def vgg(problem, limit=700):
    """VGG11 whose cost is its number of channels: quick to count."""
    costs = {"params": lambda architecture: sum(architecture.widths.values())}
    given = problem(reference_architecture("vgg11_bn", {}, 10, (3, 32, 32)), {"params": limit})
    return replace(given, costs=costs)


@pytest.mark.parametrize("limits", [{"params": 2_000}, {"macs": 100_000}, {"params": 3_000, "macs": 150_000}])
@pytest.mark.parametrize("draw", range(3))
def test_the_result_meets_every_budget_and_is_full(tiny, problem, assert_full, limits, draw):
    found = search(problem(tiny, limits), RandomConfig(draw=draw))
    assert_full(found.architecture, limits)
    assert found.weights is None
    json.dumps(found.trace)


def test_a_draw_is_the_same_whatever_the_budget_and_another_draw_or_seed_is_another(problem):
    drawn = search(vgg(problem), RandomConfig()).trace["drawn"]
    assert search(vgg(problem, 900), RandomConfig()).trace["drawn"] == drawn
    others = [search(vgg(problem), RandomConfig(draw=draw)).trace["drawn"] for draw in range(1, 5)]
    assert all(other != drawn for other in others)


def test_shares_lie_in_the_range_and_are_even_in_the_logarithm(problem):
    shares = []
    for draw in range(60):
        drawn = search(vgg(problem), RandomConfig(draw=draw, smallest=0.25)).trace["drawn"]
        widths = reference_architecture("vgg11_bn", {}, 10, (3, 32, 32)).widths
        shares += [drawn[name] / widths[name] for name in widths]
    assert 0.24 < min(shares) < 0.27
    assert 0.96 < max(shares) <= 1
    assert np.mean(np.log(shares)) == pytest.approx(np.log(0.25) / 2, rel=0.1)


def test_frozen_groups_are_not_drawn(tiny, problem):
    bounds = Bounds(np.array([13, 1]), np.array([13, 10**6]))
    found = search(problem(tiny, {"params": 4_000}, bounds=bounds), RandomConfig())
    assert found.trace["drawn"]["stem"] == found.architecture.widths["stem"] == 13


def test_an_impossible_budget_is_refused(tiny, problem):
    with pytest.raises(BudgetError, match="cannot be met"):
        search(problem(tiny, {"params": 10}), RandomConfig())


CONVCUT = UniformConfig(shortcut="convcut")


@pytest.mark.parametrize(
    ("name", "shortcut"), [("preact_resnet18", "identity"), ("resnet20", "conv"), ("mobilenetv2", "identity")]
)
def test_uniform_scaling_with_convolved_shortcuts_starts_from_the_networks_own_widths(problem, name, shortcut):
    """NeuralScale section 6.4: the same default widths, a 1×1 convolution in every shortcut."""
    given = problem(
        reference_architecture(name, {"shortcut": shortcut}, 10, (1, 8, 8), 0.2), {"params": 20_000}, width=0.2
    )
    whole = reference_architecture(name, {"shortcut": "convcut"}, 10, (1, 8, 8), 0.2)
    found = search(given, CONVCUT)
    assert found.architecture.options["shortcut"] == "convcut"
    assert found.architecture == search(problem(whole, {"params": 20_000}, width=0.2), UniformConfig()).architecture


@pytest.mark.parametrize("name", ["vgg11_bn", "torchvision:resnet18"])
def test_convolved_shortcuts_are_refused_where_there_are_none(problem, name):
    reference = reference_architecture(name, {}, 10, (3, 32, 32))
    with pytest.raises(
        ModelError, match=rf"search.shortcut: convcut: model {name} has no such shortcut; mobilenetv2, "
    ):
        search(problem(reference, {"params": 100_000}), CONVCUT)


def test_limits_of_single_widths_do_not_survive_another_shortcut(problem):
    reference = reference_architecture("resnet20", {}, 10, (1, 8, 8))
    count = len(reference.widths)
    eights = Bounds(np.full(count, 8), np.full(count, 800), np.full(count, 8))
    found = search(problem(reference, {"params": 60_000}, bounds=eights), CONVCUT).architecture
    assert all(width % 8 == 0 for width in found.widths.values())
    single = Bounds(np.array([16, *[1] * (count - 1)]), np.full(count, 800))
    with pytest.raises(ModelError, match=r"limits of single widths have no meaning there"):
        search(problem(reference, {"params": 60_000}, bounds=single), CONVCUT)
