import math
from itertools import pairwise

import numpy as np
import pytest

from compressor.costs.solver import Bounds, largest_within
from compressor.errors import BudgetError
from compressor.search.methods.neuralscale import widths_for


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


def bounds(minimum=1, maximum=10**9, multiple=1):
    return Bounds(np.array(minimum), np.array(maximum), np.array(multiple))


def can_grow(widths, cost, limit, bounds):
    """Groups that could take one more step."""
    grown = [bounds.grown(np.array(widths), group) for group in range(len(widths))]
    return [group for group, wider in enumerate(grown) if wider is not None and cost(wider.tolist()) <= limit]


@pytest.mark.parametrize("family", [uniform, power])
@pytest.mark.parametrize("limit", [5_000, 12_345, 99_999, 3_000_000])
@pytest.mark.parametrize(
    "allowed",
    [
        bounds(minimum=4),
        bounds(multiple=8),
        bounds(minimum=[5, 1, 9], multiple=[4, 1, 8]),
        bounds(minimum=[7, 1, 1], maximum=[7, 10**9, 10**9], multiple=4),
        bounds(maximum=[30, 10**9, 17], multiple=[8, 3, 1]),
    ],
)
def test_bounds_are_kept_and_no_step_fits_any_more(family, limit, allowed):
    found = largest_within({"params": params}, {"params": limit}, family, 0.1, 1.0, allowed)
    allowed, widths = allowed.of(3), np.array(found.widths)
    assert params(found.widths) <= limit
    assert (widths >= allowed.minimum).all()
    assert (widths <= allowed.maximum).all()
    assert ((widths % allowed.multiple == 0) | allowed.frozen).all()
    assert (widths[allowed.frozen] == allowed.minimum[allowed.frozen]).all()
    assert can_grow(found.widths, params, limit, allowed) == []
    assert limit - params(found.widths) < found.one_channel["params"]


def test_the_largest_widths_are_taken_where_every_limit_leaves_room():
    allowed = bounds(maximum=[6, 13, 12], multiple=[1, 4, 1], minimum=[1, 1, 12])
    found = largest_within({"params": params}, {"params": 10**9}, power, 0.1, 1.0, allowed)
    assert found.widths == (6, 12, 12)
    assert found.binding is None
    assert found.one_channel == {}


@pytest.mark.parametrize(
    ("minimum", "maximum", "multiple"), [(0, 9, 1), (5, 4, 1), (5, 7, 8), ([1, 9], [9, 8], 1), ([3, 1], [3, 7], 8)]
)
def test_bounds_that_leave_no_width_are_refused(minimum, maximum, multiple):
    with pytest.raises(ValueError, match="no width is a multiple"):
        bounds(minimum, maximum, multiple)


def test_an_impossible_budget_names_the_nearest_possible_one_within_the_bounds():
    allowed = bounds(minimum=[3, 1, 1], multiple=[1, 2, 1])
    with pytest.raises(BudgetError, match=rf"50 cannot be met: .*\(1 to 3\).* still costs {params((3, 2, 1))}"):
        largest_within({"params": params}, {"params": 50}, uniform, 0.1, 1.0, allowed)


@pytest.mark.parametrize(
    ("params_limit", "macs_limit", "binding"), [(20_000, 10**12, "params"), (10**9, 10**6, "macs")]
)
def test_the_limit_that_stops_growth_is_named(params_limit, macs_limit, binding):
    limits = {"params": params_limit, "macs": macs_limit}
    assert largest_within({"params": params, "macs": macs}, limits, uniform, 0.1, 1.0).binding == binding


def with_shortcut(widths):
    """conv3×3(3→a), conv3×3(a→b), and where a and b differ a shortcut of 0.9 ab."""
    a, b = widths
    return 27 * a + 9 * a * b + (a != b) * 9 * a * b // 10


def crossing(scale):
    """The second width catches up with the first at 40 channels, and overtakes it."""
    return np.array([20 + 0.5 * scale, scale])


def test_a_cost_that_falls_where_widths_become_equal_is_searched_beyond_the_first_crossing():
    below, above, equal = (with_shortcut(widths) for widths in ((39, 37), (39, 38), (40, 40)))
    assert below < equal < above
    for limit in (equal, above - 1):
        found = largest_within({"cost": with_shortcut}, {"cost": limit}, crossing, 0.1, 1.0)
        assert found.widths == (40, 40)


@pytest.mark.parametrize("seed", range(20))
def test_jumps_in_the_cost_never_lead_above_the_limit(seed):
    rng = np.random.default_rng(seed)
    base, exponents = rng.uniform(0.5, 2, 6), rng.uniform(0.2, 0.9, 6)

    def cost(widths):
        return sum(9 * a * b + (a != b) * a * b for a, b in pairwise(widths)) + 27 * widths[0] + 10 * widths[-1]

    limit = int(10 ** rng.uniform(3, 6))
    found = largest_within({"cost": cost}, {"cost": limit}, lambda tau: base * tau**exponents, 1.0, 1e6)
    assert cost(found.widths) <= limit
    assert can_grow(found.widths, cost, limit, Bounds().of(6)) == []


def test_a_family_that_does_not_grow_is_filled_up_channel_by_channel():
    def cost(widths):
        return float(sum(widths))

    assert widths_for([5.0, 5.0], [0.0, 0.0], cost, 17).sum() == 17
    assert widths_for([5.0, 5.0], [-0.1, -0.2], cost, 17).sum() == 17
    for alpha, beta in (([math.nan, 1.0], [0.5, 0.5]), ([1.0, 0.0], [0.5, 0.5]), ([1.0, 1.0], [0.5, math.inf])):
        with pytest.raises(ValueError, match="alpha must be finite and above 0 and beta finite"):
            widths_for(alpha, beta, cost, 17)


def test_exchanged_steps_leave_less_of_the_limit_unused():
    def cost(widths):  # a stream whose every channel is dear, and two inner widths that are cheap once it is narrow
        return widths[0] * (50 * (widths[1] + widths[2]) + 2_000)

    def family(scale):
        return scale * np.array([10.0, 13.0, 17.0])

    bounds, better = Bounds(maximum=np.array([16, 40, 40])), 0
    for limit in range(15_000, 45_000, 1_117):
        plain, exchanged = (
            largest_within({"cost": cost}, {"cost": limit}, family, 0.1, 1.0, bounds, exchange=exchange).costs["cost"]
            for exchange in (False, True)
        )
        assert plain <= exchanged <= limit
        assert plain == exchanged or plain < 0.99 * limit
        better += plain < exchanged
    assert better > 3
