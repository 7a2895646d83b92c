import pytest

from compressor.budget import Budget

BUDGET = Budget({"params": 1000.0, "macs": 500.0})


@pytest.mark.parametrize(
    ("params", "macs", "missed"),
    [(999, 499, {}), (1000, 500, {}), (1001, 500, {"params": 1}), (1300, 507, {"params": 300, "macs": 7})],
)
def test_misses_by_how_much_each_limit_is_exceeded(params, macs, missed):
    costs = {"params": params, "macs": macs, "bytes": 10**9}
    assert BUDGET.misses(costs) == missed
    assert BUDGET.verdict(costs) == {
        "limits": {"params": 1000.0, "macs": 500.0},
        "costs": {"params": params, "macs": macs},
        "met": not missed,
        "slack": {"params": 1000 - params, "macs": 500 - macs},
    }


def test_a_limit_whose_cost_is_not_known_is_not_met_in_silence():
    with pytest.raises(KeyError, match="macs"):
        BUDGET.misses({"params": 1})
