"""The sentence at the head of a page."""

import pytest

from compressor.report.leads import comparison_lead, run_lead


def network(accuracy, params, median=None, **more):
    latency = {"latency_ms": {"median": median, "batch": 8}} if median else {}
    return {"accuracy": {"onnx": accuracy, "samples": 1000}, "params": params, **latency, **more}


def run(**more):
    budget = {"limits": {"params": 1000}, "costs": {"params": 990}, "met": True}
    return {
        **network(0.9, 990, 2.0),
        "budget": budget,
        "baseline": {"reference": network(0.95, 9900, 5.0), "uniform": network(0.85, 980, 1.5)},
        **more,
    }


def test_it_says_what_the_result_costs_and_what_that_is_worth():
    assert run_lead(run()) == (
        "With 990 parameters of 1,000 allowed, 10.00 % of the unscaled network's, the result reaches 90.00 % accuracy: "
        "5.00 points less than the unscaled network, 5.00 points more than uniform scaling to the same budget; it is "
        "2.50 times as fast as the unscaled network (2.00 against 5.00 ms for a batch of 8)."
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"budget": {"limits": {"params": 900}, "costs": {"params": 990}}},
            "990 parameters, more than the 900 that are",
        ),
        ({"budget": {}}, "The result reaches 90.00 % accuracy: "),
        ({"baseline": {}}, "With 990 parameters of 1,000 allowed, the result reaches 90.00 % accuracy."),
        (
            {"latency_ms": {"median": 10.0, "batch": 1}},
            "it takes 2.00 times as long as the unscaled network (10.0 against",
        ),
        ({"accuracy": {"onnx": 0.95}}, "as much as the unscaled network, 10.00 points more than uniform"),
        (
            {"budget": {"limits": {"latency_ms": 3.0, "params": 900}, "costs": {"latency_ms": 2.5, "params": 990}}},
            "With 990 parameters, more than the 900",
        ),
        (
            {
                "budget": {
                    "limits": {"latency_ms": 3.0, "params": 1000},
                    "costs": {"latency_ms": 2.5, "params": 990},
                    "binding": "params",
                }
            },
            "With 990 parameters of 1,000 allowed",
        ),
        (
            {"budget": {"limits": {"latency_ms": 3.0}, "costs": {"latency_ms": 2.5}}},
            "With 2.5 ms of latency of 3 allowed, the",
        ),
    ],
)
def test_it_says_what_else_there_is(changed, told):
    assert told in run_lead(run(**changed))


def test_of_nothing_it_says_nothing():
    assert run_lead({}) == ""


def comparison(groups, seeds=(0, 1, 2)):
    found = [
        {"method": m, "budget": b, "accuracy": {"mean": mean, "std": 0.01 if len(seeds) > 1 else None}, "best": best}
        for m, b, mean, best in groups
    ]
    return {"groups": found, "budgets": list(dict.fromkeys(b for _, b, _, _ in groups if b)), "seeds": list(seeds)}


def test_a_comparison_names_who_is_ahead_and_of_whom():
    rows = [
        ("a", "0.5x", 0.9, True),
        ("b", "0.5x", 0.8, False),
        ("c", "0.5x", 0.7, False),
        ("unscaled", "", 0.95, False),
    ]
    assert comparison_lead(comparison(rows)) == (
        "At 0.5x a is ahead of every other method, 90.00 ± 1.00 % against 80.00 ± 1.00 % of b; "
        "the unscaled network has 95.00 ± 1.00 %."
    )


def test_a_comparison_says_where_nobody_is_ahead():
    rows = [("a", "0.5x", 0.9, True), ("b", "0.5x", 0.8, False), ("a", "0.2x", 0.5, False), ("b", "0.2x", 0.5, False)]
    told = comparison_lead(comparison(rows))
    assert told.endswith("; at 0.2x no method is ahead of all others by more than the noise of 3 seeds.")
    assert "One seed says nothing about noise" in comparison_lead(comparison(rows[2:], seeds=[0]))


def test_a_comparison_of_one_method_gives_its_scores():
    rows = [("a", "0.5x", 0.9, False), ("a", "0.2x", 0.8, False)]
    assert comparison_lead(comparison(rows, seeds=[0])) == "At 0.5x a has 90.00 %; at 0.2x a has 80.00 %."
