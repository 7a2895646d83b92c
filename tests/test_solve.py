import numpy as np
import pytest

from compressor.errors import BudgetError
from compressor.solve import largest_within


def params(widths):
    """Parameters of conv3×3(3→a)–BN, conv3×3(a→b)–BN, conv3×3(b→c)–BN, linear(c→10)."""
    a, b, c = widths
    return 27 * a + a * b * 9 + b * c * 9 + 2 * (a + b + c) + 10 * c + 10


def macs(widths):
    a, b, c = widths
    return 1024 * 27 * a + 256 * 9 * a * b + 64 * 9 * b * c + 10 * c


BASE = np.array([13.0, 23.0, 29.0])
POWER = (np.array([0.9, 0.05, 2.0]), np.array([0.3, 0.61, 0.27]))


def uniform(scale):
    return scale * BASE


def power(tau):
    return POWER[0] * tau ** POWER[1]


@pytest.mark.parametrize("family", [uniform, power])
@pytest.mark.parametrize("limit", [400, 1_001, 5_000, 12_345, 99_999, 3_000_000])
def test_the_budget_is_met_and_no_channel_fits_any_more(family, limit):
    found = largest_within({"params": params}, {"params": limit}, family, 0.1, 1.0)
    assert found.costs["params"] == params(found.widths) <= limit
    for group in range(3):
        wider = [width + (index == group) for index, width in enumerate(found.widths)]
        assert params(wider) > limit
    slack = limit - found.costs["params"]
    assert slack < found.one_channel["params"]


@pytest.mark.parametrize("family", [uniform, power])
def test_the_solution_stays_on_the_family_but_for_single_channels(family):
    found = largest_within({"params": params}, {"params": 20_000}, family, 0.1, 1.0)
    on_curve = np.floor(family(found.scale))
    assert (np.array(found.widths) >= on_curve).all()
    assert (np.array(found.widths) <= on_curve + 2).all()


def test_all_of_several_budgets_hold_and_the_tighter_one_binds():
    costs = {"params": params, "macs": macs}
    loose = largest_within(costs, {"params": 20_000, "macs": 1e12}, uniform, 0.1, 1.0)
    alone = largest_within(costs, {"params": 20_000}, uniform, 0.1, 1.0)
    assert loose.widths == alone.widths
    tight = largest_within(costs, {"params": 20_000, "macs": 1_000_000}, uniform, 0.1, 1.0)
    assert macs(tight.widths) <= 1_000_000
    assert sum(tight.widths) < sum(alone.widths)


def test_the_starting_interval_does_not_matter():
    far = largest_within({"params": params}, {"params": 7_777}, power, 1e20, 1e21)
    near = largest_within({"params": params}, {"params": 7_777}, power, 0.5, 0.6)
    assert far.widths == near.widths


def test_a_family_that_flattens_out_above_the_limit_starts_from_the_least_network():
    found = largest_within({"params": params}, {"params": 600}, lambda s: BASE + s, 0.1, 1.0)
    assert params(found.widths) <= 600
    assert min(found.widths) >= 1


def test_an_impossible_budget_names_the_nearest_possible_one():
    with pytest.raises(BudgetError, match=rf"budget\.params: 50 cannot be met: .* still costs {params((1, 1, 1))}"):
        largest_within({"params": params}, {"params": 50}, uniform, 0.1, 1.0)


def test_a_limit_that_bounds_nothing_is_refused():
    with pytest.raises(BudgetError, match="no limit bounds"):
        largest_within({"params": lambda widths: 1.0}, {"params": 5}, uniform, 0.1, 1.0)


def test_a_minimum_is_kept():
    found = largest_within({"params": params}, {"params": 2_000}, power, 0.1, 1.0, minimum=4)
    assert min(found.widths) >= 4
    assert params(found.widths) <= 2_000
