"""From a recipe's budget to costs, limits and channel counts."""

from types import SimpleNamespace

import pytest

from compressor.costs import params_macs
from compressor.errors import RecipeError
from compressor.models import reference_architecture
from compressor.pipeline.limits import limited_costs
from compressor.recipe import CostContext, parse_recipe

#   images ──▶ fc1 (96) ──▶ fc2 (40) ──▶ logits
WIDTHS = dict(zip(reference_architecture("mlp", {}, 10, (1, 8, 8)).widths, (96, 40), strict=False))
NET = reference_architecture("mlp", {}, 10, (1, 8, 8)).with_widths(WIDTHS)


class Runtime:
    """A runtime on which latency is a line in the parameters."""

    def __init__(self, overhead=0.0):
        self.overhead, self.asked = overhead, []

    def unscaled_ms(self, blocks=8):
        return 8.0, 9.0

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


def test_a_share_is_of_the_median_and_milliseconds_hold_for_the_slowest():
    share = limited({"latency": "0.5x"}, Runtime())
    assert (share.own, share.budget.limits) == ({"latency_ms": 8.0}, {"latency_ms": 4.0})
    absolute = limited({"latency_ms": 4.0}, Runtime())
    assert (absolute.own, absolute.budget.limits) == ({"latency_ms": 9.0}, {"latency_ms": 4.0})
    assert absolute.costs["latency_ms"](NET) == 9.0


def test_without_a_latency_nothing_is_measured_and_any_width_is_allowed():
    found = limited({"params": 5000, "macs": "0.5x"})
    assert found.budget.limits == {"params": 5000, "macs": params_macs.macs(NET) // 2}
    assert set(found.bounds.multiple.tolist()) == {1}


def test_under_a_latency_budget_channels_come_in_steps_of_eight():
    runtime = Runtime()
    found = limited({"latency": "0.5x"}, runtime)
    assert found.bounds.multiple.tolist() == [8, 8]
    (asked,) = runtime.asked  # whether the least such network is quick enough
    assert set(asked[0].widths.values()) == {8}
    assert limited({"latency": "0.5x"}, Runtime(), {"round_to": 3}).bounds.multiple.tolist() == [3, 3]


@pytest.mark.parametrize(("params", "step"), [(750, 8), (400, 4), (200, 2), (120, 1), (10, 1)])
def test_steps_are_finer_where_the_budget_asks_for_less(params, step):
    share = params / params_macs.params(NET)
    found = limited({"latency": f"{share:.9f}x"}, Runtime())
    assert found.bounds.multiple.tolist() == [step, step]


def test_a_wrong_group_is_told_before_anything_is_measured():
    runtime = Runtime()
    with pytest.raises(RecipeError, match=r"widths.frozen: 'fc9' is not one of"):
        limited({"latency": "0.5x"}, runtime, {"frozen": ["fc9"]})
    assert not runtime.asked


def test_narrow_groups_have_finer_steps():
    from compressor.recipe import WidthsConfig
    from compressor.search.bounds import bounds_of

    names = list(NET.widths)
    for width, step in ((32, 8), (31, 4), (16, 4), (15, 2), (8, 2), (7, 1), (1, 1)):
        bounds = bounds_of(WidthsConfig(), NET.with_widths({names[0]: 64, names[1]: width}), 8)
        assert bounds.multiple.tolist() == [8, step]
