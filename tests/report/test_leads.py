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
            "With 990 parameters, 10.00 % of the unscaled network's but more than the 900 that are allowed, the",
        ),
        ({"budget": {}}, "The result reaches 90.00 % accuracy: "),
        ({"baseline": {}}, "With 990 parameters of 1,000 allowed the result reaches 90.00 % accuracy."),
        (
            {"latency_ms": {"median": 10.0, "batch": 8}},
            "it takes 2.00 times as long as the unscaled network (10.0 against",
        ),
        ({"accuracy": {"onnx": 0.95}}, "as much as the unscaled network, 10.00 points more than uniform"),
        (
            {"budget": {"limits": {"latency_ms": 3.0, "params": 900}, "costs": {"latency_ms": 2.5, "params": 990}}},
            "With 990 parameters, 10.00 % of the unscaled network's but more than the 900",
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
            "With 2.5 ms of latency (upper end of its interval) of 3 allowed the",
        ),
    ],
)
def test_it_says_what_else_there_is(changed, told):
    assert told in run_lead(run(**changed))


def test_of_nothing_it_says_nothing():
    assert run_lead({}) == ""


def test_speeds_that_were_not_measured_alike_are_not_compared():
    assert "unscaled network (" not in run_lead(run(latency_ms={"median": 2.0, "batch": 64}))


def test_speeds_within_their_noise_are_about_the_same():
    timed = {"latency_ms": {"median": 2.0, "batch": 8, "interval": [1.9, 2.3]}}
    other = {"latency_ms": {"median": 2.2, "batch": 8, "interval": [2.1, 2.4]}}
    told = run_lead(run(**timed, baseline={"reference": network(0.95, 9900) | other}))
    assert told.endswith("it is about as fast as the unscaled network (2.00 against 2.20 ms for a batch of 8).")


def test_uniform_scaling_that_misses_the_budget_is_not_at_the_same():
    told = run_lead(run(baseline={"uniform": network(0.85, 1001)}))
    assert told.endswith("5.00 points more than uniform scaling, which misses the budget.")


def test_without_a_score_there_is_no_comma_too_many():
    told = run_lead(run(accuracy=None, latency_ms=None))
    assert told == "The result has 990 parameters of 1,000 allowed, 10.00 % of the unscaled network's."


@pytest.mark.parametrize(
    ("own", "its", "told"),
    [
        (0.5, 0.0, "0.5000 more than"),
        (-1.0, -2.0, "1.000 more than"),
        (-3.0, -2.0, "1.000 less than"),
        (-0.5, 0.5, "1.000 less than"),
    ],
)
def test_a_metric_that_is_no_base_for_per_cent_is_compared_by_its_difference(own, its, told):
    metric = {"name": "r2", "better": "higher"}
    given = run(
        metric={**metric, "onnx": own}, baseline={"reference": network(0, 9900, metric={**metric, "onnx": its})}
    )
    assert f"{told} the unscaled network" in run_lead(given)


def comparison(groups, seeds=(0, 1, 2)):
    found = [
        {
            "method": m,
            "budget": b,
            "accuracy": None if mean is None else {"mean": mean, "std": 0.01 if len(seeds) > 1 else None},
            "best": best,
            "seeds": list(seeds),
            "met": met,
        }
        for m, b, mean, best, met in groups
    ]
    return {"groups": found, "budgets": list(dict.fromkeys(b for _, b, _, _, _ in groups if b)), "seeds": list(seeds)}


ROWS = [("a", "0.5x", 0.9, True, True), ("b", "0.5x", 0.8, False, True), ("c", "0.5x", 0.7, False, True)]
UNSCALED = ("unscaled", "", 0.95, False, None)


def test_a_comparison_names_who_is_ahead_and_of_whom():
    assert comparison_lead(comparison([*ROWS, UNSCALED])) == (
        "At 0.5x a is ahead of every other method, 90.00 ± 1.00 % (5.00 points less than the unscaled "
        "network) against 80.00 ± 1.00 % of b; the unscaled network has 95.00 ± 1.00 %."
    )


def test_a_comparison_says_where_nobody_is_ahead():
    level = [("a", "0.2x", 0.5, False, True), ("b", "0.2x", 0.6, False, True)]
    told = comparison_lead(comparison([*ROWS, *level]))
    assert told.endswith(
        "; at 0.2x b has 60.00 ± 1.00 % against 50.00 ± 1.00 % of a, but no method is ahead of all others by more than "
        "the noise of 3 seeds."
    )
    assert comparison_lead(comparison(level, seeds=[0])) == (
        "At 0.2x b has 60.00 % against 50.00 % of a, but one seed says nothing about noise."
    )


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [("a", "0.5x", 0.9, False, True), ("a", "0.2x", 0.8, False, True)],
            "At 0.5x a has 90.00 %; at 0.2x a has 80.00 %.",
        ),
        (
            [("a", "0.5x", 0.9, True, True), ("b", "0.5x", None, False, None)],
            "At 0.5x a has 90.00 %, and no other method a result.",
        ),
        (
            [("a", "0.5x", None, False, None), ("a", "0.2x", 0.8, False, True)],
            "At 0.5x no run has a result; at 0.2x a has 80.00 %.",
        ),
        ([("a", "0.5x", 0.9, False, False)], "At 0.5x a has 90.00 %; a misses the budget there."),
    ],
)
def test_a_comparison_says_no_more_than_there_is(rows, told):
    assert comparison_lead(comparison(rows, seeds=[0])) == told
