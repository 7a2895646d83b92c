"""From a recipe's budget to costs, limits and channel counts."""

from types import SimpleNamespace

import pytest

from compressor.bench import Conditions
from compressor.costs import params_macs
from compressor.errors import BudgetError, RecipeError
from compressor.models import reference_architecture
from compressor.pipeline.limits import limited_costs
from compressor.recipe import CostContext, WidthsConfig, parse_recipe
from compressor.search.bounds import bounds_of
from compressor.search.scaling import scaled_widths

#   images ──▶ fc1 (96) ──▶ fc2 (40) ──▶ logits
WIDTHS = dict(zip(reference_architecture("mlp", {}, 10, (1, 8, 8)).widths, (96, 40), strict=False))
NET = reference_architecture("mlp", {}, 10, (1, 8, 8)).with_widths(WIDTHS)


class Runtime:
    """A runtime on which latency is a line in the parameters."""

    conditions = Conditions("cpu", 1, 1)

    def __init__(self, overhead=0.0, block=8):
        self.overhead, self.asked, self.block = overhead, [], block

    def unscaled_ms(self, blocks=8):
        return 8.0, 9.0

    def model(self, share, unscaled_ms):
        return None

    def ratio(self, architecture, limit, exact):
        self.asked.append((architecture, limit, exact))
        ratio = self.overhead + (1 - self.overhead) * params_macs.params(architecture) / params_macs.params(NET)
        return SimpleNamespace(median=ratio, low=ratio, high=ratio)


def limited(budget, runtime=None, widths=None):
    raw = {"model": "mlp", "data": "digits", "budget": budget, "search": {"method": "uniform"}, "widths": widths or {}}
    context = CostContext(
        parse_recipe(raw), NET, lambda architecture, measure: 1000, lambda: runtime, lambda text: None
    )
    return limited_costs(context)


def aligned(found):
    """The steps of the widest group."""
    return int(found.bounds.multiple.max())


def test_a_share_is_of_the_median_and_milliseconds_hold_for_the_slowest():
    share = limited({"latency": "0.5x"}, Runtime())
    assert (share.own, share.budget.limits) == ({"latency_ms": 8.0}, {"latency_ms": 4.0})
    absolute = limited({"latency_ms": 4.0}, Runtime())
    assert (absolute.own, absolute.budget.limits) == ({"latency_ms": 9.0}, {"latency_ms": 4.0})
    assert absolute.costs["latency_ms"](NET) == 9.0


@pytest.mark.parametrize(
    "budget", [{"params": 5000}, {"macs": "0.5x"}, {"params": 4000, "macs": "0.7x"}, {"latency": "0.5x"}]
)
@pytest.mark.parametrize("block", [1, 4, 8, 16])
def test_widths_are_whole_blocks_unless_that_leaves_more_than_two_per_cent_of_the_budget(budget, block):
    found = limited(budget, Runtime(block=block))
    limits = found.budget.limits
    assert block % aligned(found) == 0
    assert found.bounds.multiple.tolist() == bounds_of(WidthsConfig(), NET, aligned(found)).multiple.tolist()
    filled = {}
    for step in (block, aligned(found)):
        widths = scaled_widths(NET, found.costs, limits, bounds_of(WidthsConfig(), NET, step))
        filled[step] = max(widths.costs[name] / limit for name, limit in limits.items())
    if aligned(found) > 1:
        assert filled[aligned(found)] >= 0.98
    if aligned(found) < block:
        assert filled[block] < 0.98


def test_the_recipe_may_say_how_widths_are_rounded():
    for widths, multiple in (({"round_to": 3}, 3), ({"round_to": 1}, 1)):
        assert limited({"params": 5000}, None, widths).bounds.multiple.tolist() == [multiple] * 2


@pytest.mark.parametrize("params", [750, 400, 200, 120, 10])
def test_steps_are_finer_where_the_budget_asks_for_less(params):
    share = params / params_macs.params(NET)
    found = limited({"latency": f"{share:.9f}x"}, Runtime())
    least = NET.with_widths(dict.fromkeys(NET.widths, aligned(found)))
    assert aligned(found) == 1 or params_macs.params(least) <= params


def test_a_wrong_group_is_told_before_anything_is_measured():
    runtime = Runtime()
    with pytest.raises(RecipeError, match=r"widths.frozen: 'fc9' is not one of"):
        limited({"latency": "0.5x"}, runtime, {"frozen": ["fc9"]})
    assert not runtime.asked


def test_narrow_groups_have_finer_steps():
    names = list(NET.widths)
    for width, step in ((32, 8), (31, 4), (16, 4), (15, 2), (8, 2), (7, 1), (1, 1)):
        bounds = bounds_of(WidthsConfig(), NET.with_widths({names[0]: 64, names[1]: width}), 8)
        assert bounds.multiple.tolist() == [8, step]


class Jagged(Runtime):
    """A runtime on which single channels are slower than some."""

    def ratio(self, architecture, limit, exact):
        found = super().ratio(architecture, limit, exact)
        odd = 0.3 * all(width % 4 for width in architecture.widths.values())
        return SimpleNamespace(median=found.median + odd, low=found.low + odd, high=found.high + odd)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_a_budget_that_only_wider_networks_meet_is_met(share):
    found = limited({"latency": f"{share}x"}, Jagged(block=8))
    widths = scaled_widths(NET, found.costs, found.budget.limits, found.bounds)
    assert widths.costs["latency_ms"] <= share * 8
    assert aligned(found) in (4, 8)


def test_what_no_network_meets_is_told_of_single_channels_if_they_are_as_near():
    found = limited({"latency": "0.5x"}, Runtime(overhead=1.0, block=8))
    with pytest.raises(BudgetError, match=r"with 1 channel in every group"):
        scaled_widths(NET, found.costs, found.budget.limits, found.bounds)


def test_what_cannot_be_met_is_told_of_the_network_that_comes_nearest():
    found = limited({"latency": "0.004x"}, Jagged(block=8))
    with pytest.raises(BudgetError, match=r"with the fewest allowed channels \(4 to 4\)"):
        scaled_widths(NET, found.costs, found.budget.limits, found.bounds)
