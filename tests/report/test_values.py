"""The words and digits that the report's page and terminal share."""

import pytest

from compressor.report import efficiency
from compressor.report.figures import thinned
from compressor.report.format import quantity, short_names
from compressor.report.svg import log_ticks
from compressor.report.values import layer_order


def test_efficiency_of_the_tissuenet_paper():
    ce, se = efficiency(71.13, 1.67, 4.14, base_accuracy=73.55, base_macs=7.79, base_params=14.96)
    assert ce == pytest.approx(4.51, abs=0.005)
    assert se == pytest.approx(3.49, abs=0.005)


def test_the_baseline_scores_one():
    assert efficiency(0.7, 5, 11, base_accuracy=0.7, base_macs=5, base_params=11) == (1, 1)


@pytest.mark.parametrize("name", ["base_accuracy", "macs", "params"])
def test_efficiency_names_what_it_cannot_divide_by(name):
    values = {"accuracy": 0.5, "macs": 3, "params": 5, "base_accuracy": 0.7, "base_macs": 7, "base_params": 11}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        efficiency(**{**values, name: 0})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (57_990, "57,990"),
        (58_000.0, "58,000"),
        (0.57, "0.57"),
        (2.0, "2"),
        (12_345.678, "12,346"),
        (0, "0"),
        (None, "–"),
        (float("nan"), "–"),
        (3.17e-6, "3.17e-06"),
        (True, "–"),
        ("7", "–"),
        (9.9996, "10"),
    ],
)
def test_quantity(value, text):
    assert quantity(value) == text


def test_layers_keep_the_order_of_the_network():
    names = ["stem", *(f"conv{i}" for i in range(12)), "head"]
    ordered = dict.fromkeys(sorted(names), 3)
    assert layer_order({"widths": ordered, "trace": {"iterations": [{"groups": names}]}}) == names
    assert layer_order({"widths": dict.fromkeys(names, 3)}) == names
    natural = [*(f"conv{i}" for i in range(12)), "head", "stem"]
    assert layer_order({"widths": ordered}) == natural


def test_short_names_stay_apart():
    assert short_names(["a" * 30 + "1", "a" * 30 + "2"], 12) == ["aaaa…aaaaaa1", "aaaa…aaaaaa2"]
    clash = ["a" * 10 + "x" + "a" * 10, "a" * 10 + "y" + "a" * 10]
    assert short_names(clash, 12) == clash


@pytest.mark.parametrize(("low", "high"), [(1, 1000), (3, 512), (0.21, 0.23), (5, 5), (1e-7, 3e8), (58e3, 9.2e6)])
@pytest.mark.parametrize("most", [2, 4, 7])
def test_log_ticks_are_few_and_inside(low, high, most):
    ticks = log_ticks(low, high, most)
    assert 1 <= len(ticks) <= most
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_thinned_keeps_both_ends():
    assert thinned(range(5), 9) == [0, 1, 2, 3, 4]
    assert thinned(range(101), 5) == [0, 25, 50, 75, 100]
