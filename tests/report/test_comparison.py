"""The page, the table and the numbers of a comparison, from made-up runs."""

import base64
import copy
import csv
import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from own_script import assert_only_its_own_script_runs

from compressor.report import comparison_lines, render_methods, runs_csv, summarise, write_comparison
from compressor.report.aggregate import ahead

METHODS = ("neuralscale", "morphnet", "uniform", "uniform:shortcut=convcut")
BUDGETS = ("0.25x", "0.5x", "params=37k")
# Accuracy of each method at the smallest budget; it rises by 3 points from budget to budget.
HEIGHTS = dict(zip(METHODS, (0.887, 0.871, 0.853, 0.849), strict=True))
SIZES = dict(zip(BUDGETS, (144_947, 289_897, 37_003), strict=True))


class Page(HTMLParser):
    """The tags, attributes, headings, table rows and text of a page; unbalanced tags fail at once."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.headings, self.rows, self.text = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        {"tr": self.rows, "h2": self.headings}.get(tag, []).append([] if tag == "tr" else "")
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += [data] * (not {"style", "script"} & set(self.open))
        if "h2" in self.open:
            self.headings[-1] += data
        if {"td", "th"} & set(self.open) and "small" not in self.open:
            self.rows[-1][-1] += data

    def row(self, title):
        """The cells of the first row of that name."""
        return next(row[1:] for row in self.rows if row[0] == title)


def one_run(method, budget, seed, accuracy, params):
    return {
        "method": method,
        "budget": budget,
        "seed": seed,
        "folder": f"runs/{method.replace(':', '-')}/{budget}/{seed}" if budget else f"runs/unscaled/{seed}",
        "error": None,
        "params": params,
        "macs": 27 * params + 7 * len(method) * 1000,
        "onnx_bytes": 4 * params + 8_999,
        "accuracy": accuracy,
        "samples": 10_000,
        "latency_mean_ms": params / 50_000 + len(method) / 7 + 0.01 * seed,
        "latency_median_ms": params / 50_000 + len(method) / 7,
        "limits": {"params": params + 10} if budget else None,
        "met": True if budget else None,
        "binding": "params" if budget else None,
        "fallback": None,
        "same_network_as": None,
    }


def make_runs(seeds=3):
    runs = []
    for seed in range(seeds):
        runs.append(one_run("unscaled", "", seed, 0.9327 + 0.001 * seed, 579_786))
        for method in METHODS:
            for rank, budget in enumerate(sorted(BUDGETS, key=SIZES.get)):
                accuracy = HEIGHTS[method] + 0.03 * rank + 0.002 * ((seed * 7 + len(method)) % 3 - 1)
                runs.append(one_run(method, budget, seed, accuracy, SIZES[budget] - 13 * len(method) - seed))
    return runs


def make_comparison(runs=None):
    """Make the record of a comparison; three seeds unless told."""
    runs = make_runs() if runs is None else runs
    return {
        "name": "vgg11_bn",
        "recipe": {"model": {"name": "vgg11_bn"}, "train": {"epochs": 12}, "search": {}, "budget": {}},
        "methods": {name: {"method": name.split(":")[0]} for name in METHODS},
        "budgets": list(BUDGETS),
        "seeds": sorted({run["seed"] for run in runs}),
        "dataset": {"name": "digits", "classes": 10, "train": 1149, "test": 359, "input_shape": [1, 8, 8]},
        "runs": runs,
        "groups": summarise(runs),
        "met": all(run["error"] is None and run["met"] is not False for run in runs),
        "measured": {"batch": 100, "provider": "cpu", "threads": 1, "interleaved": len(runs)},
        "machine": {"cpu": "AMD EPYC 9354", "cores": 2},
        "versions": {"torch": "2.14.1"},
        "seconds": {"search": 169.25, "train": 400.5, "export": 61.0, "bench": 12.5},
    }


@pytest.fixture(scope="module")
def record():
    return make_comparison()


@pytest.fixture(scope="module")
def html(record):
    return render_methods(record)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def group(record, method, budget):
    (found,) = [g for g in record["groups"] if (g["method"], g["budget"]) == (method, budget)]
    return found


def test_means_and_deviations_are_those_of_the_seeds(record):
    found = group(record, "morphnet", "0.25x")
    values = [run["accuracy"] for run in record["runs"] if (run["method"], run["budget"]) == ("morphnet", "0.25x")]
    assert len(values) == 3
    mean = sum(values) / 3
    assert found["accuracy"]["mean"] == pytest.approx(mean, abs=1e-12)
    by_hand = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
    assert found["accuracy"]["std"] == pytest.approx(by_hand, abs=1e-12)
    assert found["params"]["mean"] == pytest.approx(SIZES["0.25x"] - 13 * 8 - 1)
    assert found["seeds"] == [0, 1, 2]
    assert found["met"] is True
    assert group(record, "unscaled", "")["met"] is None


def test_one_seed_has_no_spread_and_no_best():
    groups = summarise(make_runs(seeds=1))
    assert all(found["accuracy"]["std"] is None for found in groups)
    assert not any(found["best"] for found in groups)


def test_the_verdict_says_when_nothing_can_be_said():
    assert "but one seed says nothing about noise" in " ".join(Page(render_methods(make_comparison(make_runs(1)))).text)
    level = [{**run, "accuracy": 0.9 + 0.01 * run["seed"]} for run in make_runs()]
    text = " ".join(Page(render_methods(make_comparison(level))).text)
    assert "by more than the noise of 3 seeds" in text


def front(*points):
    """Whether networks of these (params, accuracy) are on the front."""
    runs = [one_run("m", str(i), 0, accuracy, params) for i, (params, accuracy) in enumerate(points)]
    return [found["front"]["params"] for found in summarise(runs)]


def test_the_front_is_what_nothing_beats():
    assert front((100, 0.8), (200, 0.9), (300, 0.85), (400, 0.9)) == [True, True, False, False]
    assert front((100, 0.8)) == [True]
    assert front((100, 0.8), (100, 0.8)) == [True, True]


def test_leftovers_of_a_budget_put_nobody_on_the_front():
    assert front((1000, 0.8), (1009, 0.9)) == [False, True]
    assert front((1000, 0.8), (1011, 0.9)) == [True, True]


def test_ahead_is_welchs_test():
    ours, theirs = [0.90, 0.91, 0.92], [0.88, 0.89, 0.90]
    # t = 0.02 / sqrt(2 · 0.01² / 3) = 2.449 with 4 degrees of freedom: below 2.776.
    assert not ahead(ours, theirs)
    # A third of a point more: t = 2.857.
    assert ahead([value + 0.0034 for value in ours], theirs)
    assert not ahead(theirs, ours)


def test_ahead_needs_two_seeds_and_more_than_one_image():
    assert not ahead([0.9], [0.1, 0.1])
    assert ahead([0.9], [])
    assert not ahead([], [0.9])
    assert not ahead([0.900, 0.900], [0.899, 0.899], samples=359)
    assert ahead([0.900, 0.900], [0.899, 0.899], samples=100_000)


def test_data_that_only_the_users_functions_count_is_not_rounded():
    runs = [{**one, "samples": 0} for one in make_runs()]
    found = make_comparison(runs)
    assert [group["accuracy"]["mean"] for group in found["groups"]] == [
        group["accuracy"]["mean"] for group in make_comparison()["groups"]
    ]


def test_the_degrees_of_freedom_are_welchs():
    scipy = pytest.importorskip("scipy.stats")
    ours, theirs = [0.905, 0.911, 0.916, 0.909], [0.85, 0.905, 0.88]
    for shift in [step / 1000 for step in range(-30, 60, 3)]:
        moved = [value + shift for value in ours]
        assert ahead(moved, theirs) <= (scipy.ttest_ind(moved, theirs, equal_var=False).pvalue < 0.05)
    assert ahead([value + 0.06 for value in ours], theirs)


def test_only_the_clear_winner_is_marked(record):
    assert {g["method"] for g in record["groups"] if g["best"]} == {"neuralscale"}
    runs = copy.deepcopy(record["runs"])
    for run in runs:
        if run["method"] == "morphnet":
            run["accuracy"] += HEIGHTS["neuralscale"] - HEIGHTS["morphnet"]
    assert not any(g["best"] for g in summarise(runs))


def test_the_page_is_whole_and_fetches_nothing(html, page):
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert_only_its_own_script_runs(html)
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    links = {value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "action")}
    assert all(re.match(r"#|runs/|data:text/csv;base64,", value) for value in links)
    assert re.findall(r"\w+://", html) == []
    assert "@import" not in html
    assert page.tags.count("svg") == 3
    assert {value for _, name, value in page.attributes if name == "viewbox"} == {"0 0 344 310"}


def test_every_colour_of_the_charts_knows_light_and_dark(html):
    used = set(re.findall(r"var\(--([a-z-]+)\)", html))
    light, dark = (set(re.findall(r"--([a-z-]+):", part)) for part in html.split("prefers-color-scheme: dark", 1))
    assert used <= light
    assert light <= dark
    assert "#1f2933" not in html.split("</style>")[1]


def test_the_page_tells_every_run_and_every_mean(record, page):
    for run in record["runs"]:
        title = f"{run['method']} {run['budget']}" if run["budget"] else "unscaled network"
        cells = page.row(f"{title}, seed {run['seed']}")
        assert cells[:3] == [f"{100 * run['accuracy']:.2f} %", f"{run['params']:,}", f"{run['macs']:,}"]
    shown = [row for row in page.rows if row[0] == "morphnet"]
    means = [group(record, "morphnet", budget)["accuracy"] for budget in BUDGETS]
    assert shown == [["morphnet", *(f"{100 * m['mean']:.2f} ± {100 * m['std']:.2f}" for m in means)]]
    assert page.row("neuralscale")[0].endswith(" best")
    assert set(page.headings) == {
        "All budgets met",
        "Accuracy against cost",
        "Accuracy by method and budget",
        "Pareto fronts",
        "Runs",
        "Time",
        "Configuration",
        "Environment",
    }


def test_the_pareto_table_says_what_the_groups_say(record, page):
    for found in record["groups"]:
        title = f"{found['method']} {found['budget']}" if found["budget"] else "unscaled network"
        cells = [row for row in page.rows if row[0] == title][-1][1:]
        assert [cell.endswith("front") for cell in cells[1:]] == list(found["front"].values())


def test_the_download_is_the_table_of_the_runs(record, html):
    packed = re.search(r"data:text/csv;base64,([^\"]+)\" download=\"comparison.csv", html)[1]
    text = base64.b64decode(packed).decode()
    assert text == runs_csv(record)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["method"] for row in rows] == [run["method"] for run in record["runs"]]
    assert [float(row["accuracy"]) for row in rows] == [run["accuracy"] for run in record["runs"]]
    assert rows[0]["binding"] == rows[0]["error"] == ""


def failing(record):
    """The record with every run of morphnet at 0.5x failed, and one of uniform at 0.25x over its budget."""
    runs = copy.deepcopy(record["runs"])
    for run in runs:
        if (run["method"], run["budget"]) == ("morphnet", "0.5x"):
            kept = {key: run[key] for key in ("method", "budget", "seed", "folder")}
            run.update({**dict.fromkeys(run), **kept, "error": "budget.params: 9 cannot be met: too small"})
    next(r for r in runs if (r["method"], r["budget"]) == ("uniform", "0.25x"))["met"] = False
    return make_comparison(runs)


def test_a_page_from_the_file_is_the_same(record, html, tmp_path):
    write_comparison(record, tmp_path)
    assert (tmp_path / "comparison.html").read_text() == html
    again = json.loads((tmp_path / "comparison.json").read_text())
    shown, wanted = Page(render_methods(again)), Page(html)
    assert [row for row in shown.rows if row[0] in METHODS] == [row for row in wanted.rows if row[0] in METHODS]
    assert shown.text[:20] == wanted.text[:20]


def test_failures_are_shown_and_not_averaged(record):
    failed = failing(record)
    found = group(failed, "morphnet", "0.5x")
    assert (found["accuracy"], found["seeds"], found["failed"]) == (None, [], [0, 1, 2])
    assert found["front"] == {"params": False, "macs": False, "latency_median_ms": False}
    page = Page(render_methods(failed))
    assert page.headings[0] == "32 of 36 runs met their budget"
    assert page.row("morphnet")[1] == "–"
    assert page.row("uniform")[0].endswith(" missed")
    text = " ".join(page.text)
    assert text.count("budget.params: 9 cannot be met: too small") == 1
    assert page.row("morphnet 0.5x, seed 2")[-1] == "cannot be met"


def test_the_terminal_lists_means_and_failures(record):
    lines = comparison_lines(failing(record))
    found = group(record, "neuralscale", "0.25x")
    assert lines[0].split() == ["accuracy,", "%", "parameters", "MACs", "ms"]
    (line,) = [line for line in lines if line.startswith("neuralscale 0.25x ")]
    assert line.split()[2:5] == [f"{100 * found['accuracy']['mean']:.2f}", "±", f"{100 * found['accuracy']['std']:.2f}"]
    assert line.endswith("best")
    assert any(line.startswith("uniform 0.25x") and line.endswith("MISSED") for line in lines)
    assert lines[-1] == "morphnet 0.5x: budget.params: 9 cannot be met: too small"


def test_the_files_are_written(record, tmp_path):
    write_comparison(record, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"comparison.json", "comparison.csv", "comparison.html"}


def test_a_single_run_that_met_nothing_still_makes_a_page():
    runs = [one_run("unscaled", "", 0, 0.9, 1000)]
    for budget in BUDGETS:
        for method in METHODS:
            run = one_run(method, budget, 0, 0.8, 100)
            run.update(dict.fromkeys(set(run) - {"method", "budget", "seed", "folder"}), error="no")
            runs.append(run)
    page = Page(render_methods(make_comparison(runs)))
    assert page.headings[0] == "0 of 12 runs met their budget"
