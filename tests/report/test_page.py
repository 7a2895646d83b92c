from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from own_script import assert_only_its_own_script_runs

from compressor.report import render_html, summary_lines, write_report
from compressor.report.format import significant
from compressor.report.values import interval

VOID = {"br", "meta"}
# Primes, so that no number on the page can be another one by accident.
SIZES = {"result": 57_991, "uniform": 57_107, "reference": 9_231_113}
MACS = {"result": 3_812_341, "uniform": 3_512_347, "reference": 153_293_821}
SECTIONS = {
    "Networks",
    "Accuracy against cost",
    "Channels per layer",
    "Width against parameters",
    "Architecture descent",
    "Training",
    "Latency",
    "Time",
    "Use the model",
    "Environment",
}


def layer_names(layers: int) -> list[str]:
    return [f"features.{i}.conv" for i in range(layers)]


def network(key: str, names: list[str], accuracy: float, median: float) -> dict:
    samples = [median * (1 + 0.003 * ((i * 37) % 80 - 40)) for i in range(80)]
    return {
        "params": SIZES[key],
        "macs": MACS[key],
        "onnx_bytes": 4 * SIZES[key] + 8_999,
        "accuracy": {"onnx": accuracy, "torch": accuracy + 0.0011, "samples": 359, "weights": "last"},
        "latency_ms": {
            "mean": median * 1.01,
            "median": median,
            "p90": median * 1.13,
            "p99": median * 1.19,
            "batch": 100,
            "provider": "cpu",
            "threads": 1,
            "throughput_per_s": 1e5 / median,
            "samples": samples,
        },
        "parity": {"max_abs_error": 3.17e-6, "max_rel_error": 2.23e-7, "batches": [1, 100], "tolerance": 1e-4},
        "efficiency": {
            "ce": accuracy / 0.9722 * MACS["reference"] / MACS[key],
            "se": accuracy / 0.9722 * SIZES["reference"] / SIZES[key],
        },
        "widths": {name: 5 + 3 * i for i, name in enumerate(names)},
        "training": [
            {
                "epoch": epoch,
                "loss": 2.3 * math.exp(-epoch / 3),
                "validation_loss": 1.0,
                "validation_accuracy": accuracy * (1 - math.exp(-epoch)),
                "lr": 0.1,
                "seconds": 1.0,
            }
            for epoch in range(1, 13)
        ],
    }


def iteration(names: list[str]) -> dict:
    sizes = [int(9e6 * 0.96**k) for k in range(60)]
    alpha = [0.05 * (i + 1) for i in range(len(names))]
    beta = [0.3 + 0.5 * i / len(names) for i in range(len(names))]
    return {
        "groups": names,
        "records": {
            "params": sizes,
            "widths": [[max(1, int(a * size**b)) for a, b in zip(alpha, beta, strict=True)] for size in sizes],
        },
        "alpha": alpha,
        "beta": beta,
        "r2": [0.9 + 0.09 * i / len(names) for i in range(len(names))],
        "fallback": None,
        "widths": [17 + i for i in range(len(names))],
        "params": 9_230_993,
        "seconds": {"pretrain": 30.25, "prune": 12.5},
    }


def make_record(names: list[str] | None = None) -> dict:
    """Make a complete record of a NeuralScale run, 8 layers unless told."""
    names = names or layer_names(8)
    return {
        **network("result", names, 0.9528, 1.934),
        "name": "vgg11-digits",
        "method": "neuralscale",
        "seed": 7,
        "dataset": {
            "name": "digits",
            "classes": 10,
            "train": 1149,
            "validation": 289,
            "test": 359,
            "input_shape": [1, 8, 8],
        },
        "budget": {
            "limits": {"params": 58_000},
            "costs": {"params": 57_991},
            "met": True,
            "slack": {"params": 9},
            "one_channel": {"params": 90},
        },
        "reference_widths": dict.fromkeys(names, 64),
        "baseline": {
            "uniform": network("uniform", names, 0.9389, 1.813),
            "reference": network("reference", names, 0.9722, 11.43),
        },
        "trace": {"iterations": [iteration(names), iteration(names)]},
        "machine": {"cpu": "AMD EPYC 9354", "cores": 2, "gpu": None},
        "versions": {"torch": "2.14.1", "onnxruntime": "1.31.1"},
        "seconds": {"search": 169.25, "train": 40.5},
    }


def uniform_record() -> dict:
    """Make a record of plain uniform scaling: no trace, no training, no baselines, parity not measured."""
    record = make_record()
    record.update(method="uniform", baseline={}, training=[], parity=None, efficiency=None, trace={"iterations": []})
    return record


class Page(HTMLParser):
    """Parses a page and keeps what the tests ask for; unbalanced tags fail at once."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.text: list[str] = []
        self.svg_text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"style", "script"} & set(self.open):
            return
        self.text.append(data)
        if "h2" in self.open:
            self.headings[-1] += data
        if {"td", "th"} & set(self.open) and "small" not in self.open:
            self.rows[-1][-1] += data
        if self.open and self.open[-1] == "text":
            self.svg_text.append(data)

    def row(self, title: str) -> list[str]:
        (found,) = [row[1:] for row in self.rows if row and row[0] == title]
        return found


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(make_record())


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


@pytest.mark.parametrize(
    "record",
    [make_record(), uniform_record(), make_record(layer_names(3)), {"name": "empty"}, {}],
    ids=["neuralscale", "uniform", "3 layers", "only a name", "nothing"],
)
def test_pages_are_balanced_and_their_ids_unique(record):
    page = Page(render_html(record))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_a_page_fetches_nothing_and_runs_its_own_script(html, page):
    assert_only_its_own_script_runs(html)
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    links = {value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "action")}
    assert all(value.startswith(("#", "data:text/csv;base64,")) for value in links)
    assert re.findall(r"url\((?!#)", html) == []
    assert "@import" not in html
    assert re.findall(r"\w+://", html) == []


def test_every_reference_inside_the_figures_has_its_target(html, page):
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html))
    assert {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)} <= ids


def test_all_sections_are_there(page):
    assert page.headings[0] == "Budget met"
    assert set(page.headings[1:]) == SECTIONS


def test_the_table_says_what_the_record_says(page):
    record = make_record()
    columns = [record, record["baseline"]["uniform"], record["baseline"]["reference"]]

    def expect(title, values):
        assert page.row(title) == values

    expect("accuracy, ONNX file", [f"{100 * c['accuracy']['onnx']:.2f} %" for c in columns])
    expect("accuracy, PyTorch", [f"{100 * c['accuracy']['torch']:.2f} %" for c in columns])
    expect("samples scored", ["359"] * 3)
    expect("MACs", [f"{c['macs']:,}" for c in columns])
    expect("ONNX file, bytes", [f"{c['onnx_bytes']:,}" for c in columns])
    expect("median", ["1.934", "1.813", "11.43"])
    expect("computational efficiency, CE", [f"{c['efficiency']['ce']:.2f}" for c in columns])
    expect("storage efficiency, SE", [f"{c['efficiency']['se']:.2f}" for c in columns])
    expect("largest absolute error", ["3.17e-06"] * 3)
    expect("measured with", ["batch 100, cpu, 1 thread"] * 3)


def test_cells_carry_the_exact_number_as_their_title(page):
    titles = {value for tag, name, value in page.attributes if (tag, name) == ("td", "title")}
    latency = make_record()["latency_ms"]
    wanted = [latency[key] for key in ("mean", "median", "p90", "p99", "throughput_per_s")]
    assert {repr(value) for value in [*wanted, *SIZES.values(), *MACS.values()]} <= titles


def test_the_weights_and_the_interval_stand_under_the_accuracy(page):
    text = " ".join(page.text)
    assert "weights of the last epoch" in text
    low, high = interval(0.9528, 359)
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in text


def test_fits_and_widths_are_listed_per_layer(page):
    record = make_record()
    last = record["trace"]["iterations"][-1]
    rows = [row[1:] for row in page.rows if row and row[0] == "features.2.conv"]
    fit = [significant(last[key][2]) for key in ("alpha", "beta", "r2")]
    assert rows == [["11", "11", "11", ""], fit, ["64", "19", "19", "11"]]


def test_the_missed_budget_is_said_in_words():
    record = make_record()
    record["budget"].update(costs={"params": 58_495}, met=False, slack={"params": -495})
    page = Page(render_html(record))
    assert page.headings[0] == "Budget missed"
    wanted = "over by 495 (5.5 channels of the cheapest layer)"
    assert ["parameters", "58,000", "58,495", wanted, "missed"] in page.rows
    assert summary_lines(record)[0] == f"budget MISSED: parameters 58,495 of 58,000, {wanted}"


def test_one_missed_limit_of_two_misses_the_budget():
    record = make_record()
    record["budget"] = {
        "limits": {"params": 58_000, "latency_ms": 1.5},
        "costs": {"params": 57_991, "latency_ms": 1.75},
    }
    page = Page(render_html(record))
    assert page.headings[0] == "Budget missed"
    assert ["parameters", "58,000", "57,991", "9 left", "met"] in page.rows
    assert ["latency, ms (upper end of its interval)", "1.5", "1.75", "over by 0.25", "missed"] in page.rows


def test_a_limit_that_was_not_measured_is_not_called_met():
    record = make_record()
    record["budget"] = {"limits": {"latency_ms": 2.5}, "costs": {"latency_ms": None}}
    page = Page(render_html(record))
    assert page.headings[0] == "Budget not checked"
    assert ["latency, ms (upper end of its interval)", "2.5", "–", "not measured", "not measured"] in page.rows
    assert summary_lines(record)[0].startswith("budget not checked")


def test_without_a_budget_none_is_claimed():
    record = make_record()
    record["budget"] = {"limits": {}, "costs": {}, "met": True, "slack": {}}
    assert Page(render_html(record)).headings[0] == "No budget was set"


def test_sections_without_data_are_left_out():
    page = Page(render_html(uniform_record()))
    assert set(page.headings[1:]) == SECTIONS - {
        "Accuracy against cost",
        "Width against parameters",
        "Architecture descent",
        "Training",
    }
    text = " ".join(page.text)
    for word in ("Parity", "efficiency", "CE", "uniform, same budget"):
        assert word not in text
    assert page.row("layer") == ["unscaled network", "result", ""]  # its widths are known without a baseline


def test_a_fallback_is_explained_instead_of_drawn():
    record = make_record()
    for iteration in record["trace"]["iterations"]:
        iteration.update(fallback="only 4 records", alpha=[], beta=[], r2=[], records={"params": [], "widths": []})
    page = Page(render_html(record))
    assert "Width against parameters" in page.headings
    assert "only 4 records" in " ".join(page.text)


def test_a_fit_without_records_is_left_out():
    record = make_record()
    record["trace"]["iterations"][-1]["records"] = {"params": [], "widths": []}
    assert not [title for title in Page(render_html(record)).headings if title.startswith("Width against")]


def test_null_values_are_dashes():
    record = make_record()
    record.update(onnx_bytes=None, accuracy={"onnx": None, "torch": None, "samples": None, "weights": "last"})
    record["latency_ms"].update(p99=None, samples=[])
    record["baseline"]["uniform"]["parity"] = None
    record["training"][3].update(loss=None, validation_accuracy=float("nan"))
    page = Page(render_html(record))
    assert page.row("ONNX file, bytes")[0] == "–"
    assert page.row("accuracy, ONNX file")[0] == "–"
    assert page.row("p99")[0] == "–"
    assert page.row("largest absolute error")[1] == "–"
    cells = {cell for row in page.rows for cell in row}
    assert not {"nan", "None", "nan %"} & cells
    assert not {"nan", "None"} & set(page.svg_text)


def test_scores_are_computed_where_the_record_has_none():
    record = make_record()
    wanted = f"{record['efficiency']['ce']:.2f}"
    for part in (record, *record["baseline"].values()):
        part["efficiency"] = None
    page = Page(render_html(record))
    assert page.row("computational efficiency, CE")[::2] == [wanted, "1.00"]


HOSTILE = [
    "<script>alert(1)</script>",
    'a"b\' onload=alert(1) id="x" ]]>&amp;<!--',
    "$\\frac{1}{$",
    "模型.卷积",
    "line\nbreak\ttab",
    "backbone." + "blocks.11.attention." * 6 + "projection.conv",
]


def test_names_are_text_whatever_they_hold():
    record = make_record(HOSTILE)
    record.update(name="<script>run()</script>", machine={"<b>": "<img src=x>"}, method="</title><h2>")
    page = Page(render_html(record))
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert set(page.headings[1:]) == SECTIONS
    named = {row[0] for row in page.rows if row}
    assert {"<script>alert(1)</script>", "$\\frac{1}{$", "模型.卷积"} <= named & set(page.svg_text)


def test_sixty_layers_with_long_names_are_all_named():
    names = [f"backbone.stages.{i // 12}.blocks.{i % 12}.attention.projection.conv{i}" for i in range(60)]
    text = render_html(make_record(names))
    page = Page(text)
    for i in range(60):
        assert [label for label in page.svg_text if label.endswith(f"conv{i}")]  # above its fit
        assert [row for row in page.rows if row and row[0].endswith(f"conv{i}") and row[1:3] == [str(5 + 3 * i)] * 2]
    assert len(text) < 1_500_000


def test_more_layers_than_panels_draws_the_worst_fits():
    names = layer_names(64)
    page = Page(render_html(make_record(names)))
    assert "Of 64 layers the 60 with the lowest R² are drawn." in " ".join(page.text)
    assert page.svg_text.count("features.63.conv") == 0  # its fit is among the best
    assert page.svg_text.count("features.0.conv") == 1


def test_the_same_record_gives_the_same_page(html):
    assert render_html(make_record()) == html


def test_rendering_leaves_the_record_and_matplotlib_alone():
    import matplotlib

    record, settings = make_record(), dict(matplotlib.rcParams)
    before = copy.deepcopy(record)
    render_html(record)
    assert record == before
    assert dict(matplotlib.rcParams) == settings


def test_an_unsteady_machine_is_pointed_out(page):
    record = make_record()
    record["latency_ms"]["p90"] = 2 * record["latency_ms"]["median"]
    assert "unsteady" in " ".join(Page(render_html(record)).text)
    assert "unsteady" not in " ".join(page.text)


def test_networks_measured_differently_are_pointed_out(page):
    record = make_record()
    record["baseline"]["reference"]["latency_ms"]["threads"] = 4
    assert "not measured alike" in " ".join(Page(render_html(record)).text)
    assert "not measured alike" not in " ".join(page.text)


def test_equal_samples_and_one_epoch_can_be_drawn():
    record = make_record()
    record["training"] = record["training"][:1]
    record["latency_ms"]["samples"] = [2.0] * 80
    record["baseline"] = {}
    assert {"Training", "Latency"} <= set(Page(render_html(record)).headings)


def test_the_usage_snippet_compiles(page):  # tests/pipeline/test_runner.py runs it
    start = page.text.index(next(text for text in page.text if text.startswith("import json")))
    code = page.text[start]
    compile(code, "snippet", "exec")
    assert "(1, 1, 8, 8)" in code
    assert "CPUExecutionProvider" in code


def test_a_fallback_is_told_on_the_terminal():
    lines = summary_lines({**make_record(), "fallback": "only 3 records"})
    assert "uniform scaling was used instead of neuralscale: only 3 records" in lines


def test_summary_lines():
    assert summary_lines(make_record()) == [
        "budget met: parameters 57,991 of 58,000, 9 left (0.10 of one channel of the cheapest layer)",
        "accuracy: 95.28 % on the ONNX file (PyTorch 95.39 %, 359 samples, weights of the last epoch)",
        "against uniform, same budget: +1.39 points of accuracy, 101.55 % of its parameters, 108.54 % of its MACs",
        "against unscaled network: -1.94 points of accuracy, 0.63 % of its parameters, 2.49 % of its MACs",
        "latency: result median 1.934 ms, p99 2.301 ms (batch 100, cpu, 1 thread); "
        "uniform, same budget median 1.813 ms, p99 2.157 ms; unscaled network median 11.43 ms, p99 13.60 ms",
    ]


def test_summary_lines_of_nothing():
    assert summary_lines({}) == []


def test_write_report_leaves_two_whole_files(tmp_path, html):
    record = make_record()
    record["training"][0]["loss"] = math.inf
    write_report(record, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["report.html", "report.json"]
    read = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    record["training"][0]["loss"] = None
    assert read == record
    Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))


def test_a_report_written_again_from_its_json_shows_the_same_networks(tmp_path, page):
    write_report(make_record(), tmp_path)
    again = Page(render_html(json.loads((tmp_path / "report.json").read_text())))
    assert [row for row in again.rows if row not in page.rows] == []


def test_importing_the_report_imports_neither_torch_nor_matplotlib():
    code = "import sys, compressor.report; assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
