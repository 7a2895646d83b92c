"""A latency budget through the whole pipeline: what is measured, what is verified, what is said of it."""

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small import small_recipe

from compressor.bench import pairs
from compressor.costs import latency_measurement as runtime
from compressor.errors import BudgetError, TrainingError
from compressor.files import read_json, sha256_of
from compressor.models.architecture import Architecture
from compressor.pipeline import context, mending, precision_gate
from compressor.pipeline.compare import compare_methods
from compressor.pipeline.precision_gate import Weighed
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe
from compressor.report import comparison_lines, render_html, summary_lines
from compressor.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")  # which have tests of their own

RAW = small_recipe(
    model={"name": "mlp", "width": 0.4},
    budget={"latency": "0.6x", "batch": 32, "threads": 1},
    search={"method": "random"},
    baselines=["uniform", "reference"],
    bench={"provider": "cpu", "batch": 4, "warmup": 1, "runs": 3},
)
UNIT = 5.0


class Fake:
    """A runtime on which latency is overhead and a power of the multiply-adds; files take what their size says."""

    block = 8

    def __init__(self, reference, conditions, *, opset, folder, progress, stacked, form):
        self.reference, self.conditions = reference, conditions
        assert stacked == "auto"  # as the recipe has it
        self.form = form
        self.asked = []

    def unscaled_ms(self, blocks=8):
        return UNIT, 1.01 * UNIT

    def model(self, share, unscaled_ms):
        return None

    def ratio(self, architecture, limit, exact):
        Fake.calls.append((architecture, exact))
        if len(Fake.calls) == Fake.stop_at:
            raise KeyboardInterrupt
        widths = [64, *architecture.widths.values(), 10]
        own = [64, *self.reference.widths.values(), 10]
        share = sum(map(math.prod, itertools.pairwise(widths)))
        share /= sum(map(math.prod, itertools.pairwise(own)))
        median = 0.1 + 0.9 * share**0.8
        return SimpleNamespace(median=median, low=0.99 * median, high=1.01 * median)

    def verify(self, path, limit_ms, share):
        found = Architecture.from_json((path.parent / "architecture.json").read_text())
        ratio = self.ratio(found, 1.0, True)
        high = ratio.high * UNIT * Fake.drift
        return {
            "verdict": "met" if high <= limit_ms else "missed",
            "cost_ms": high,
            "limit_ms": limit_ms,
            "share": share,
            "median_ms": ratio.median * UNIT,
            "interval_ms": [ratio.low * UNIT, high],
            "ratio": {"median": ratio.median, "low": ratio.low, "high": ratio.high, "level": 0.99},
            "unscaled_ms": UNIT,
            "clock": "cpu",
            "blocks": 8,
            "pairs": 80,
            "seconds": 0.1,
            "batch": self.conditions.batch,
            "provider": "cpu",
            "threads": 1,
        }


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(context, "Runtime", Fake)
    Fake.calls, Fake.stop_at, Fake.drift = [], None, 1.0
    return Fake


def recipe(**sections):
    return parse_recipe(RAW | sections)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    "budget",
    [
        {"latency": "0.6x"},
        {"latency": "0.3x", "params": 9000},
        {"latency_ms": 2.5, "batch": 8},
        {"latency_ms": 3, "macs": "0.9x"},
    ],
)
def test_result_and_uniform_baseline_are_within_the_limit_as_verified(tmp_path, budget):
    report = run(recipe(budget=budget), tmp_path / "out")
    limit = report["budget"]["limits"]["latency_ms"]
    assert limit == pytest.approx(0.6 * UNIT if budget.get("latency") == "0.6x" else limit)
    assert limit == budget.get("latency_ms", limit)
    for network in (report, report["baseline"]["uniform"]):
        assert network["budget"]["met"] is True
        assert network["budget"]["costs"]["latency_ms"] == network["verification"]["cost_ms"] <= limit
        assert network["verification"]["batch"] == budget.get("batch", 4)
    assert report["baseline"]["reference"]["budget"]["met"] is False
    assert report["latency_ms"]["batch"] == budget.get("batch", 4)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert set(read_json(tmp_path / "out" / "search.json")["round_to"]) <= {1, 2, 4, 8}


def widths_sum(folder):
    return sum(json.loads((folder / "architecture.json").read_text())["widths"].values())


def test_a_file_that_turns_out_slower_is_made_smaller(tmp_path, fake):
    plain = run(recipe(), tmp_path / "plain")
    fake.drift = 1.1
    out = tmp_path / "out"
    report = run(recipe(), out)
    assert plain["budget"]["met"] is report["budget"]["met"] is True
    assert widths_sum(out) < widths_sum(tmp_path / "plain")
    (entry,) = read_json(out / "mended.json")
    assert entry["measured"]["latency_ms"] > entry["limits"]["latency_ms"]
    for name, (before, after) in entry["widths"].items():
        assert (plain["widths"][name], report["widths"][name]) == (before, after)
    assert any("so it was made smaller" in line for line in summary_lines(report))
    epochs = [one["epoch"] for one in report["training"]]
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) > len(plain["training"])
    assert report["params"] < plain["params"]
    assert report["parity"]["max_abs_error"] < 1e-4
    assert not (out / "checkpoints").exists()
    again = run(recipe(), out, resume=True)
    assert again["widths"] == report["widths"]


@pytest.mark.parametrize("first", ["int8", "fp16"])
def test_it_stays_in_the_precision_of_the_networks_beside_it(tmp_path, fake, monkeypatch, first):
    good, bad = Weighed(0.1, (0.5, 0.4, 0.6)), Weighed(9.0, (0.5, 0.4, 0.6))
    found = {"int8": good if first == "int8" else bad, "fp16": good}

    def weigh(plain, path, recipe, data, before):
        one = found[path.stem]
        found["int8"] = bad if first == "int8" else good  # of the next network
        return one

    monkeypatch.setattr(precision_gate, "weigh", weigh)
    fake.drift = 1.1
    out = tmp_path / "out"
    report = run(recipe(export={"precision": "int8", "tolerance_points": 0.5}), out)
    assert (out / "mended.json").exists()
    shipped = [read_json(path)["precision"]["name"] for path in (out / "export.json", *out.rglob("*/export.json"))]
    assert len(set(shipped)) == 1
    assert report["precision"]["name"] == first
    assert report["precision"]["gate"]["asked"] == "int8"  # it still says why


@pytest.mark.parametrize("moment", ["training", "export", "copying", "measuring"])
def test_making_it_smaller_may_be_interrupted(tmp_path, fake, monkeypatch, moment):
    fake.drift = 1.1
    whole = run(recipe(), tmp_path / "whole")
    out, places = tmp_path / "broken", {"training": Trainer, "export": mending, "copying": mending, "measuring": Fake}
    name = {"training": "fit", "export": "ship", "copying": "copy_atomic", "measuring": "verify"}[moment]
    real = getattr(places[moment], name)
    killed = []

    def kill(*args, **options):
        done = real(*args, **options)
        if not killed and (out / "checkpoints" / "mend-1").exists():
            killed.append(moment)
            raise KeyboardInterrupt
        if not killed and moment == "measuring" and (out / "mended.json").exists():
            killed.append(moment)
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(places[moment], name, kill)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(), out)
    report = run(recipe(), out, resume=True)
    assert killed == [moment]
    assert report["widths"] == whole["widths"]
    assert len(read_json(out / "mended.json")) == 1
    one, other = (load_file(folder / "weights.safetensors") for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(one[key], other[key]) for key in other)
    assert report["accuracy"] == whole["accuracy"]


def test_what_cannot_be_made_smaller_is_told_once(tmp_path, fake, monkeypatch):
    fake.drift = 1.1
    out, frozen = tmp_path / "out", recipe(widths={"frozen": ["fc1"]})
    tried = []

    def refuse(*args, **options):
        tried.append(args)
        raise TrainingError("training diverged at step 3")

    monkeypatch.setattr(mending, "inherited", refuse)
    report = run(frozen, out)
    assert report["budget"]["met"] is False
    (entry,) = read_json(out / "mended.json")
    assert entry["refused"] == "training diverged at step 3"
    assert any("could not be made smaller: training diverged at step 3" in line for line in summary_lines(report))
    (out / "report.json").unlink()
    again = run(frozen, out, resume=True)
    assert again["widths"] == report["widths"]
    assert len(tried) == 1


def test_what_is_not_fine_tuned_is_not_trained(tmp_path, fake):
    fake.drift = 1.1
    out = tmp_path / "out"
    report = run(recipe(finetune={"epochs": 0}), out)
    (entry,) = read_json(out / "mended.json")
    assert entry["epochs"] == 0
    assert any("and not fine-tuned" in line for line in summary_lines(report))
    assert report["budget"]["met"] is True
    assert (report["budget"]["binding"], report["budget"]["one_channel"]) == (None, {})


def test_in_a_comparison_all_networks_are_measured_after_they_were_made_smaller(tmp_path, fake):
    fake.drift = 1.1
    out = tmp_path / "out"
    compare_methods(recipe(search={"method": "uniform"}), ["uniform"], ["latency=0.6x"], 1, out)
    (folder,) = [path.parent for path in out.rglob("mended.json")]
    joint = read_json(out / "latency.json")["networks"]
    own = read_json(folder / "report.json")
    assert own["budget"]["met"] is True
    (found,) = [one for name, one in joint.items() if (out / name) == folder]
    assert found["sha256"] == sha256_of(folder / "model.onnx")
    assert own["latency_ms"]["median"] == found["median_ms"]


def test_a_file_that_stays_too_slow_is_a_missed_budget(tmp_path, fake, monkeypatch):
    verify = fake.verify
    slow = {"verdict": "missed", "cost_ms": 3.06}  # of 3.0
    monkeypatch.setattr(fake, "verify", lambda *args: verify(*args) | slow)
    report = run(recipe(), tmp_path / "out")
    assert report["budget"]["met"] is False
    first, second = read_json(tmp_path / "out" / "mended.json")
    assert all(after < before for entry in (first, second) for before, after in entry["widths"].values())
    assert report["budget"]["slack"]["latency_ms"] < 0
    lines = summary_lines(report)
    assert lines[0].startswith("budget MISSED: latency, ms (upper end of its interval) 3.")
    assert any(line.startswith("latency verified: ") and "above the limit" in line for line in lines)


@pytest.mark.parametrize("stop_at", [1, 2, 4, 6])
def test_an_interrupted_search_finds_the_same_network(tmp_path, fake, stop_at):
    whole = run(recipe(), tmp_path / "whole", until="search")
    assert whole == {}
    fake.calls.clear()
    fake.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        run(recipe(), tmp_path / "broken", until="search")
    fake.stop_at = None
    run(recipe(), tmp_path / "broken", resume=True, until="search")
    for name in ("architecture.json", "baselines/uniform/architecture.json"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_finished_verification_is_not_repeated(tmp_path, fake):
    first = run(recipe(), tmp_path / "out")
    for name in ("report.json", "report.html"):
        (tmp_path / "out" / name).unlink()
    fake.calls.clear()
    again = run(recipe(), tmp_path / "out", resume=True)
    assert not fake.calls
    assert again["verification"] == first["verification"]


@pytest.mark.usefixtures("fake")
def test_what_no_network_can_be_is_refused_before_training(tmp_path):
    with pytest.raises(BudgetError, match=r"budget.latency_ms: 0.25 ms cannot be met: with 1 channel in every group"):
        run(recipe(budget={"latency": "0.05x"}), tmp_path / "out")
    assert not (tmp_path / "out" / "weights.safetensors").exists()
    run(recipe(budget={"latency": "0.6x"}), tmp_path / "out", until="search")  # corrected, in the same folder
    assert (tmp_path / "out" / "architecture.json").exists()


@pytest.mark.usefixtures("fake")
def test_the_report_tells_how_latency_was_found_and_verified(tmp_path):
    report = run(recipe(), tmp_path / "out")
    page = render_html(report)
    assert "Latency budget" in page
    assert page.count("as shipped") >= 2
    text = next(line for line in summary_lines(report) if line.startswith("latency verified"))
    assert "limit 0.6000" in text
    assert "80 pairs in 8 blocks, CPU time of the thread; batch 32, cpu, 1 thread" in text


@pytest.mark.usefixtures("fake")
def test_methods_are_compared_at_equal_latency(tmp_path):
    methods, budgets = ["uniform", "random"], ["0.5x", "latency=0.7x+params=9k"]
    record = compare_methods(recipe(), methods, budgets, 1, tmp_path / "out")
    runs = [one for one in record["runs"] if one["method"] != "unscaled"]
    assert len(runs) == 4
    assert all(one["met"] and one["error"] is None for one in runs)
    assert record["measured"]["batch"] == 32
    assert any("0.5x" in line for line in comparison_lines(record))


def test_on_the_real_runtime(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "_BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(runtime, "LOOKS", (2, 8))
    raw = recipe(model={"name": "mlp", "width": 4.0}, search={"method": "uniform"}, baselines=[])
    report = run(raw, tmp_path / "out")
    found = report["verification"]
    assert report["budget"]["met"] == (found["verdict"] == "met") == (found["cost_ms"] <= found["limit_ms"])
    assert found["share"] == 0.6
    assert (found["batch"], found["provider"], found["threads"], found["clock"]) == (32, "cpu", 1, "cpu")
    measured = report["latency_search"]["measured"]  # networks measured after it may have lost
    assert any(entry["exact"] and entry["widths"] == list(report["widths"].values()) for entry in measured)
    assert report["macs"] < 0.9 * 4 * 4 * (64 * 500 + 500 * 300 + 300 * 10)
    assert not (tmp_path / "out" / "checkpoints").exists()
