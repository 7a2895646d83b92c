"""Reports of networks that are not compared by accuracy: mIoU, and perplexity, of which less is better."""

import copy
import csv
import html
import io
import re

import pytest

from compressor.report import (
    comparison_lines,
    efficiency_of,
    metric_of,
    render_html,
    render_methods,
    runs_csv,
    score_of,
    summarise,
    summary_lines,
)

VALUES = {"mIoU": (0.6113, 0.6541), "perplexity": (98.43, 91.07)}  # of the result and of the unscaled network


def metric(name, value):
    better = "lower" if name == "perplexity" else "higher"
    return {"name": name, "better": better, "onnx": value, "torch": value * 1.001}


def network(name, value, params):
    epochs = [{"epoch": e, "loss": 3 / e, "validation_accuracy": 0.5, "validation_metric": value / e} for e in (1, 2)]
    return {
        "params": params,
        "macs": 13 * params,
        "accuracy": {"onnx": 0.2311, "torch": 0.2313, "samples": 359, "weights": "last"},
        "metric": metric(name, value),
        "training": epochs,
        "widths": {"lstm1": params // 1000},
    }


@pytest.fixture(params=["mIoU", "perplexity"])
def record(request):
    own, reference = VALUES[request.param]
    shape = [3, 32, 32] if request.param == "mIoU" else [35]
    return {
        **network(request.param, own, 29_000),
        "name": "a_network",
        "budget": {"limits": {"params": 30_000}, "costs": {"params": 29_000}, "met": True},
        "dataset": {"name": "some", "classes": 23, "input_shape": shape, "train": 1, "validation": 1, "test": 359},
        "baseline": {"reference": network(request.param, reference, 58_000)},
    }


def text_of(page):
    bare = re.sub(r"<(style|svg|script).*?</\1>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", bare)))


def test_the_headline_is_the_metric_and_the_difference_is_of_its_kind(record):
    text = text_of(render_html(record))
    if metric_of(record).name == "mIoU":
        assert "the result reaches 61.13 % mIoU: 4.28 points less than the unscaled network." in text
    else:
        told = "the result reaches perplexity 98.43: 8.08 % more than the unscaled network (less is better)."
        assert told in text
        assert "points" not in text


def test_the_table_has_the_metric_and_calls_the_accuracy_by_its_name(record):
    text = text_of(render_html(record))
    if metric_of(record).name == "mIoU":
        assert "mIoU, ONNX file 61.13 % 65.41 % mIoU, PyTorch 61.19 % 65.48 %" in text
        assert "pixel accuracy, ONNX file 23.11 % 23.11 %" in text
    else:
        assert "perplexity, ONNX file 98.43 91.07 perplexity, PyTorch 98.53 91.16" in text
        assert "next-token accuracy, ONNX file 23.11 % 23.11 %" in text
    assert "Wilson" not in text  # neither pixels nor tokens are independent samples


def test_the_training_figure_is_of_the_metric(record):
    page = render_html(record)
    assert f"validation {metric_of(record).title} by epoch; at the end: result " in page


def test_the_terminal_says_the_same(record):
    lines = summary_lines(record)
    if metric_of(record).name == "mIoU":
        assert lines[1].startswith("mIoU: 61.13 % on the ONNX file (PyTorch 61.19 %, pixel accuracy 23.11 %, 359 ")
        assert lines[2].startswith("against unscaled network: -4.28 points of mIoU, 50.00 % of its parameters")
    else:
        assert lines[1].startswith("perplexity: 98.43 on the ONNX file (PyTorch 98.53, next-token accuracy 23.11 %, ")
        assert lines[2].startswith("against unscaled network: perplexity +8.08 % (less is better), 50.00 % of its ")


def test_efficiency_rewards_the_better_metric(record):
    found = efficiency_of(record, record["baseline"]["reference"])
    own, reference = VALUES[metric_of(record).name]
    kept = reference / own if metric_of(record).lower else own / reference
    assert found == pytest.approx({"ce": 2 * kept, "se": 2 * kept})
    assert kept < 1


@pytest.mark.parametrize(
    ("better", "own", "base"),
    [("higher", -1.5, -1.25), ("higher", -0.5, 0.5), ("higher", 0.5, 0.0), ("lower", 0.0, 0.5), ("lower", -1.0, 2.0)],
)
def test_a_metric_that_has_no_shares_has_no_efficiency(better, own, base):
    def of(value):
        return {"metric": {"name": "mine", "better": better, "onnx": value}, "macs": 10, "params": 10}

    assert efficiency_of(of(own), of(base)) is None


def test_a_metric_that_is_missing_is_left_out(record):
    record["metric"] |= {"onnx": None, "torch": None}
    assert score_of(record) is None
    text = text_of(render_html(record))
    assert "reaches" not in text
    assert "than the unscaled network" not in text
    assert not any("(less" in line or "points" in line for line in summary_lines(record))


def comparison(name, values):
    """A comparison of one seed or more: {(method, budget): (params, values of the seeds)}."""
    runs = [
        {
            "method": method,
            "budget": budget,
            "seed": seed,
            "folder": f"runs/{method}/{budget}/{seed}",
            "error": None,
            "params": params,
            "macs": 13 * params,
            "onnx_bytes": 4 * params,
            "accuracy": 0.5,
            "value": value,
            "samples": 359,
            "latency_mean_ms": params / 1000,
            "latency_median_ms": params / 1000,
            "met": True,
            "binding": "params",
            "fallback": None,
            "same_network_as": None,
        }
        for (method, budget), (params, found) in values.items()
        for seed, value in enumerate(found)
    ]
    record = {
        "name": "a_network",
        "recipe": {},
        "methods": {method: {} for method, _ in values},
        "budgets": list(dict.fromkeys(budget for _, budget in values)),
        "seeds": [0, 1, 2],
        "dataset": {"name": "some"},
        "metric": metric(name, 0.0),
        "runs": runs,
        "met": True,
        "measured": {"batch": 1, "provider": "cpu", "threads": 1, "interleaved": 4},
        "machine": {},
        "versions": {},
        "seconds": {},
    }
    return record | {"groups": summarise(runs, metric_of(record))}


RUNS = {
    ("m", "0.5x"): (29_000, [80.1, 80.2, 80.3]),
    ("n", "0.5x"): (29_000, [90.2, 90.1, 90.3]),
    ("m", "0.9x"): (58_000, [85.0, 85.1, 85.2]),
    ("n", "0.9x"): (58_000, [70.2, 70.1, 70.3]),
}


@pytest.mark.parametrize(
    ("name", "best", "front"),
    [
        ("perplexity", {("m", "0.5x"), ("n", "0.9x")}, {("m", "0.5x"), ("n", "0.9x")}),
        ("mIoU", {("n", "0.5x"), ("m", "0.9x")}, {("n", "0.5x")}),
    ],
)
def test_fronts_and_the_best_follow_the_metrics_direction(name, best, front):
    groups = comparison(name, RUNS)["groups"]
    assert {(g["method"], g["budget"]) for g in groups if g["best"]} == best
    assert {(g["method"], g["budget"]) for g in groups if g["front"]["params"]} == front
    assert groups[0]["value"]["mean"] == pytest.approx(80.2)


def test_the_page_of_a_comparison_is_about_the_metric():
    record = comparison("perplexity", RUNS)
    text = text_of(render_methods(record))
    for told in (
        "Perplexity against cost",
        "Perplexity by method and budget",
        "At 0.5x m is ahead of every other method, 80.20 ± 0.10 perplexity against",
        "“best”: below every other method",
        "another one has a lower mean perplexity",
        "80.10",
    ):
        assert told in text
    assert "accuracy" not in text
    assert "ccuracy" not in render_methods(record).split("<svg")[1].split("</svg>")[0]
    lines = comparison_lines(record)
    assert lines[0].split()[0] == "perplexity"
    assert lines[1].split()[:5] == ["m", "0.5x", "80.20", "±", "0.10"]


def test_the_table_of_runs_has_the_metric_beside_the_accuracy():
    rows = list(csv.DictReader(io.StringIO(runs_csv(comparison("mIoU", RUNS)))))
    assert {row["metric"] for row in rows} == {"mIoU"}
    assert [float(row["value"]) for row in rows] == [value for _, found in RUNS.values() for value in found]
    assert {row["accuracy"] for row in rows} == {"0.5"}


def test_a_comparison_by_accuracy_has_no_such_columns():
    record = copy.deepcopy(comparison("mIoU", RUNS))
    del record["metric"]
    assert not {"metric", "value"} & set(runs_csv(record).splitlines()[0].split(","))
