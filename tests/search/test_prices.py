import numpy as np
import pytest

from compressor.models import graph_of
from compressor.search.prices import Prices


def prices_of(limits, exponent=1.0):
    costs = {"stems": lambda widths: 3.0 * widths["stem"], "inners": lambda widths: 1.0 * widths["inner"]}
    return Prices({name: costs[name] for name in limits}, limits, exponent)


def test_a_slice_costs_its_share_of_the_most_violated_limit(tiny):
    graph = graph_of(tiny)
    widths = {"stem": 10, "inner": 20}
    assert prices_of({"stems": 10}).per_slice(graph, widths) == pytest.approx({"stem": 0.3, "inner": 0})
    both = prices_of({"stems": 10, "inners": 1})  # 3 times its limit, and 20 times
    assert both.share(widths) == 20
    assert both.per_slice(graph, widths) == pytest.approx({"stem": 0, "inner": 1})


@pytest.mark.parametrize(
    ("exponent", "expected"), [(0.0, [4, 3, 0, 1, 2]), (0.5, [0, 1, 2, 4, 3]), (1, [1, 2, 0, 4, 3])]
)
def test_slices_go_by_importance_per_price_and_free_ones_last(exponent, expected):
    importance, owners = np.array([1.0, 2.0, 3.0, 0.5, 0.2]), np.array([0, 1, 1, 2, 2])
    assert prices_of({"stems": 1}, exponent).order(importance, owners, np.array([1.0, 4.0, 0.0])) == expected
