"""Stacked layers from a recipe to the file: every form computes the same, and what is shipped is one of them."""

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small import small_recipe

from compressor.bench import Conditions, Pairs
from compressor.errors import RecipeError
from compressor.exporters import layouts
from compressor.exporters.layouts import allowed, fastest, forms, probed
from compressor.models import build, reference_architecture
from compressor.models.architecture import Architecture
from compressor.models.stacked.spec import BasicUnit, Kind, Stack, spread
from compressor.pipeline.runner import run
from compressor.recipe import BenchConfig, parse_recipe


def recipe(**changes):
    given = {
        "model": "mlp",
        "data": {"name": "digits", "limit": 200},
        "budget": {"params": "0.3x"},
        # What is measured differs from run to run, so candidates are not ordered by it.
        "search": {
            "method": "tissuenet",
            "k": 4,
            "mix": "single",
            "trials": 2,
            "trial_epochs": 1,
            "slowdown": None,
        },
        "train": {"epochs": 1, "batch_size": 64},
        "baselines": ["reference"],
    }
    return parse_recipe(small_recipe(**(given | changes)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return run(recipe(), out), out


def test_the_shipped_file_is_within_the_budget_and_equals_pytorch(finished):
    report, out = finished
    assert report["budget"]["met"]
    assert report["params"] <= report["budget"]["limits"]["params"]
    assert report["parity"]["max_rel_error"] <= report["parity"]["tolerance"]
    stored = onnx.load(out / "model.onnx")
    assert not {node.op_type for node in stored.graph.node} & {"Split", "Concat", "Slice"}
    assert {entry.key: entry.value for entry in stored.metadata_props}["compressor.architecture"] == (
        out / "architecture.json"
    ).read_text(encoding="utf-8")


def test_no_form_is_shipped_that_is_slower_than_what_searches_measure(finished):
    report, _ = finished
    measured = report["stacked"]["forms"]
    assert {"grouped", "blocks", "dense"} <= set(measured) <= {"grouped", "blocks", "dense", "per layer"}
    first, chosen = report["stacked"]["searched"], report["stacked"]["chosen"]
    assert chosen == first or measured[chosen]["median_ms"] < measured[first]["median_ms"]
    assert report["baseline"]["reference"]["stacked"] is None


def test_ce_and_se_are_against_the_unscaled_network(finished):
    report, _ = finished
    reference = report["baseline"]["reference"]
    kept = report["accuracy"]["onnx"] / reference["accuracy"]["onnx"]
    assert report["efficiency"]["ce"] == pytest.approx(kept * reference["macs"] / report["macs"])
    assert report["efficiency"]["se"] == pytest.approx(kept * reference["params"] / report["params"])
    assert reference["efficiency"] == {"ce": 1.0, "se": 1.0}


def test_the_page_shows_units_candidates_and_forms(finished):
    report, out = finished
    page = (out / "report.html").read_text(encoding="utf-8")
    for first, stack in report["stacks"].items():
        many, *unit = stack["units"][0]
        assert first in page
        assert f"{many:,} × ({unit[0]}, {unit[1]}, {unit[2]})" in page
    assert "(chosen)" in page
    assert page.count("<h2>Stacked layers</h2>") == 1


@pytest.mark.usefixtures("traced_export")
def test_a_finished_search_is_resumed_to_the_same_file(finished, tmp_path):
    _, out = finished
    run(recipe(), tmp_path / "again", until="search")
    assert (tmp_path / "again" / "architecture.json").read_text() == (out / "architecture.json").read_text()
    run(recipe(), tmp_path / "again", resume=True)
    record = json.loads((tmp_path / "again" / "report.json").read_text())
    assert record["accuracy"]["torch"] == json.loads((out / "report.json").read_text())["accuracy"]["torch"]


@pytest.mark.parametrize("stacked", ["grouped", "dense", "auto"])
def test_all_forms_allowed_compute_the_same(stacked):
    reference = reference_architecture("mlp", {}, 10, (1, 8, 8))
    stacks = {"fc1": Stack("fc2", spread(64, 100, 32, 32))}
    architecture = type(reference)("mlp", 10, (1, 8, 8), {"fc1": 100, "fc2": 32}, {}, stacks)
    assert isinstance(stacks["fc1"].kinds[0], Kind)
    model, images = build(architecture).eval(), torch.randn(3, 1, 8, 8)
    found = forms(model, architecture, recipe(export={"stacked": stacked}))
    throughout = {"grouped": {"grouped", "blocks"}, "dense": {"dense"}, "auto": {"grouped", "blocks", "dense"}}
    assert set(found) - {"per layer"} == throughout[stacked]
    with torch.no_grad():
        for form in found.values():
            assert torch.allclose(form(images), model(images), atol=1e-5)


@pytest.mark.usefixtures("traced_export")
def test_zeros_are_not_stored_under_a_limit_of_the_file(tmp_path):
    with pytest.raises(RecipeError, match=r"dense.*onnx_bytes"):
        recipe(budget={"onnx_bytes": 100_000}, export={"stacked": "dense"})
    report = run(recipe(budget={"onnx_bytes": 150_000}), tmp_path / "out")
    assert report["onnx_bytes"] <= 150_000
    assert set(report["stacked"]["forms"]) == {"grouped"}
    assert report["budget"]["slack"]["onnx_bytes"] < report["budget"]["one_channel"]["onnx_bytes"]


def test_a_search_measures_what_may_be_shipped(monkeypatch):
    stacks = {"fc1": Stack("fc2", spread(64, 96, 32, 32))}
    architecture = Architecture("mlp", 10, (1, 8, 8), {"fc1": 96, "fc2": 32}, {}, stacks)
    model, conditions = build(architecture).eval(), Conditions("cpu", 2, 1)
    for stacked, bytes_too in itertools.product(("grouped", "dense", "auto"), (False, True)):
        if stacked == "dense" and bytes_too:
            continue  # refused
        budget = {"params": "0.3x"} | ({"onnx_bytes": 100_000} if bytes_too else {})
        given = recipe(budget=budget, export={"stacked": stacked}, bench={"batch": 2, "threads": 1})
        probe = probed(model, architecture, allowed(given), conditions)
        assert repr(probe) == repr(next(iter(forms(model, architecture, given).values())))


def test_equal_layouts_are_one():
    stacks = {"fc1": Stack("fc2", (Kind(1, BasicUnit(64, 40, 32)),))}  # of one unit, all are alike
    architecture = Architecture("mlp", 10, (1, 8, 8), {"fc1": 40, "fc2": 32}, {}, stacks)
    assert len(forms(build(architecture).eval(), architecture, recipe())) == 1


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"a": 1.0, "b": 1.3, "c": 0.97}, "a"),  # no doubt about b, some about c
        ({"a": 1.0, "b": 0.8, "c": 0.7}, "c"),
        ({"a": 1.0, "b": 0.8, "c": 1.2}, "b"),
    ],
)
def test_another_form_than_the_first_has_to_be_faster_beyond_doubt(tmp_path, monkeypatch, times, chosen):
    def pairs(base, candidate, *given, **named):
        assert base.name == "a"
        values = np.ones((4, 2, 2))
        values[:, :, 1] = times[candidate.name]
        values[1, :, 1] *= 1.1
        zero = np.zeros_like(values)
        return Pairs(values, zero, "wall", "cpu", 1, 0.0, 0, np.zeros((4, 2)), ())

    monkeypatch.setattr(layouts, "measure_pairs", pairs)
    paths = {name: tmp_path / name for name in times}
    for path in paths.values():
        path.write_bytes(b"a file")
    found = fastest(paths, BenchConfig(provider="cpu"))
    assert found["chosen"] == chosen
    assert found["forms"]["b"]["median_ms"] == pytest.approx(times["b"])


def test_one_form_is_not_measured(tmp_path):
    path = Path(tmp_path / "only.onnx")
    path.write_bytes(np.zeros(10).tobytes())
    found = fastest({"dense": path}, BenchConfig(provider="cpu"))
    assert found["chosen"] == "dense"
    assert found["forms"]["dense"] == {"median_ms": None, "onnx_bytes": 80}
