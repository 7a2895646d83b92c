from types import SimpleNamespace

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
    ("exponent", "expected"), [(0.0, [4, 3, 0, 1, 2]), (0.5, [0, 1, 4, 2, 3]), (1, [1, 2, 0, 4, 3])]
)
def test_slices_go_by_importance_per_price_and_free_ones_late(exponent, expected):
    importance, owners = np.array([1.0, 2.0, 3.0, 0.5, 0.2]), np.array([0, 1, 1, 2, 2])
    assert prices_of({"stems": 1}, exponent).order(importance, owners, np.array([1.0, 4.0, 0.0])) == expected


def test_where_nothing_is_saved_anywhere_importance_alone_counts():
    importance, owners = np.array([0.3, 0.1, 0.2]), np.array([0, 1, 1])
    assert prices_of({"stems": 1}).order(importance, owners, np.zeros(2)) == [1, 2, 0]


@pytest.mark.parametrize("block", [1, 4, 8, 16])
def test_of_a_cost_in_blocks_a_group_has_the_price_of_its_share_of_a_block(tiny, block):
    """Widths count as whole blocks: the next channel saves nothing, a block of them does."""

    def padded(widths):
        return float(sum(-(-width // block) * block for width in widths.values()))

    graph = graph_of(tiny)
    found = Prices({"padded": padded}, {"padded": 1.0}, block=block).per_slice(graph, {"stem": 13, "inner": 23})
    for name, width in {"stem": 13, "inner": 23}.items():
        assert (found[name] > 0) == (width > block), name


@pytest.mark.parametrize(("step", "width"), [(3, 48), (3, 96), (6, 96), (12, 96), (5, 160)])
def test_a_group_in_steps_that_do_not_divide_a_block_is_not_free(step, width):
    graph = SimpleNamespace(groups={"only": SimpleNamespace(step=step)})

    def padded(widths):
        return float(-(-widths["only"] // 16) * 16)

    assert Prices({"padded": padded}, {"padded": 1.0}, block=16).per_slice(graph, {"only": width})["only"] > 0
