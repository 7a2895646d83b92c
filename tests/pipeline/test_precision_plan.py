"""What `export.precision: auto` becomes: the smallest, or under a latency budget the smallest that is faster."""

import json

import pytest
from small import refusal, small_recipe

from compressor.bench import Ratio
from compressor.errors import BudgetError, RunError
from compressor.pipeline import precision_gate, precision_plan
from compressor.pipeline.context import RunContext
from compressor.pipeline.precision_gate import Weighed
from compressor.pipeline.precision_plan import resolved
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")

LATENCY = {"latency": "0.8x", "batch": 2}


def recipe(**sections):
    return parse_recipe(small_recipe(**{"export": {"precision": "auto"}} | sections))


def settled(asked, out):
    return resolved(RunContext(asked, out, lambda stage, text, share: None)).export


@pytest.fixture
def times(monkeypatch):
    """Say how many times as long as float32 the unscaled network takes, by precision."""
    asked = []

    def setting(**found):
        def measured(plain, path, recipe, width):
            asked.append(path.stem)
            low, high = found[path.stem]
            return Ratio((low + high) / 2, low, high, 0.99)

        monkeypatch.setattr(precision_plan, "compared", measured)
        return asked

    return setting


def test_without_milliseconds_it_is_the_smallest(tmp_path):
    found = settled(recipe(), tmp_path)
    assert (found.precision, found.tolerance_points) == ("int8", 0.5)
    found = settled(recipe(export={"precision": "auto", "tolerance_points": 2, "qat_epochs": 1}), tmp_path)
    assert (found.precision, found.tolerance_points, found.qat_epochs) == ("int8", 2, 1)


@pytest.mark.parametrize(("int8", "fp16", "taken"), [
    ((0.4, 0.5), (0.4, 0.5), "int8"),
    ((0.9, 1.1), (0.4, 0.5), "fp16"),  # it is not known to be faster
    ((1.2, 1.3), (0.99, 1.01), "fp32"),
])  # fmt: skip
def test_with_milliseconds_it_is_what_is_fast_here(tmp_path, times, int8, fp16, taken):
    asked = times(int8=int8, fp16=fp16)
    own = recipe(budget=LATENCY, export={"precision": "auto", "tolerance_points": 1, "qat_epochs": 2})
    found = settled(own, tmp_path)
    assert found.precision == taken
    assert found.tolerance_points == (None if taken == "fp32" else 1)
    assert found.qat_epochs == (2 if taken == "int8" else 0)
    share = resolved(RunContext(own, tmp_path, lambda stage, text, share: None)).budget.latency_share
    assert share == pytest.approx(0.8 / {"int8": int8[1], "fp16": fp16[1], "fp32": 1}[taken], rel=1e-5)
    once = len(asked)
    assert settled(own, tmp_path) == found
    assert len(asked) == once  # what was found is kept


def test_a_run_ships_what_it_stands_for(tmp_path, monkeypatch):
    weighed = Weighed(0.1, (0.5, 0.4, 0.6))
    monkeypatch.setattr(precision_gate, "weigh", lambda plain, path, recipe, data, before: weighed)
    report = run(recipe(baselines=["reference"]), tmp_path / "run")
    assert report["precision"]["name"] == "int8"
    assert report["precision"]["gate"]["tolerance_points"] == 0.5
    again = run(recipe(baselines=["reference"]), tmp_path / "run", resume=True)
    assert again["precision"] == report["precision"]
    with pytest.raises(RunError, match=r"export\.precision differs"):
        run(recipe(baselines=["reference"], export={"precision": "int8"}), tmp_path / "run", resume=True)


def test_a_budget_that_cannot_be_met_leaves_nothing_behind_it(tmp_path, times):
    times(int8=(0.4, 0.5), fp16=(1, 1))
    with pytest.raises(BudgetError):
        run(recipe(budget=LATENCY | {"params": 3}), tmp_path / "run")
    times(int8=(1.4, 1.5), fp16=(1.0, 1.1))
    run(recipe(budget={"params": "0.5x"}), tmp_path / "run", until="search")
    assert json.loads((tmp_path / "run" / "precision.json").read_text())["name"] == "int8"


def test_a_damaged_plan_says_so(tmp_path):
    run(recipe(), tmp_path / "run", until="search")
    (tmp_path / "run" / "precision.json").write_text('{"name": "int3"}')
    with pytest.raises(RunError, match=r"precision\.json: was damaged or changed"):
        run(recipe(), tmp_path / "run", resume=True)


def test_a_plan_that_is_gone_is_not_made_anew(tmp_path):
    asked = recipe(budget={"onnx_bytes": "0.7x"}, model={"name": "mlp", "width": 0.5})
    run(asked, tmp_path / "run", until="search")
    (tmp_path / "run" / "precision.json").unlink()
    with pytest.raises(RunError, match=r"precision\.json: file not found"):
        run(asked, tmp_path / "run", resume=True)


def test_a_search_that_does_not_depend_on_it_may_come_first(tmp_path, monkeypatch):
    weighed = Weighed(0.1, (0.5, 0.4, 0.6))
    monkeypatch.setattr(precision_gate, "weigh", lambda plain, path, recipe, data, before: weighed)
    run(recipe(export={"precision": "fp32"}), tmp_path / "run", until="search")
    report = run(recipe(), tmp_path / "run", resume=True)
    assert report["precision"]["name"] == "int8"


def test_other_words_are_refused():
    assert "export.precision" in refusal(small_recipe(export={"precision": "automatic"}))
