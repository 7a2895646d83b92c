"""What a recipe will do is what it does."""

import pytest
from click.testing import CliRunner
from small import small_recipe

from compressor.cli.root import main
from compressor.errors import BudgetError
from compressor.pipeline import run
from compressor.pipeline.explain import explain, explanation_lines
from compressor.recipe import parse_recipe

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")


def quietly(stage, text, share):
    pass


def test_widths_and_numbers_are_those_of_the_run(tmp_path):
    recipe = parse_recipe(small_recipe(search={"method": "uniform"}, baselines=["reference"]))
    found, report = explain(recipe, quietly), run(recipe, tmp_path / "out")
    assert {name: new for name, (_, new) in found.widths.items()} == report["widths"]
    assert {name: old for name, (old, _) in found.widths.items()} == report["reference_widths"]
    assert found.limits == report["budget"]["limits"]
    assert found.scaled["params"] == report["params"]
    assert found.costs["params"] == report["baseline"]["reference"]["params"]
    assert found.samples["test"] == report["dataset"]["test"]
    assert [(one.network, one.epochs) for one in found.training] == [
        ("result", recipe.train.epochs),
        ("reference", recipe.train.epochs),
    ]
    assert all(one.seconds > 0 for one in found.training)


def test_what_is_evaluated_as_it_is_takes_no_epochs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = parse_recipe(small_recipe(search={"method": "uniform"}, baselines=["reference"]))
    run(first, tmp_path / "first", until="train")
    model = first.model.model_dump() | {"weights": str(tmp_path / "first" / "baselines/reference/weights.safetensors")}
    tuned = {"epochs": 7, "lr": 0.01}
    raw = small_recipe(search={"method": "uniform"}, model=model, finetune=tuned, baselines=["uniform", "reference"])
    found = explain(parse_recipe(raw), quietly)
    assert [(one.network, one.epochs) for one in found.training] == [("result", 7), ("uniform", 7), ("reference", 0)]
    assert "reference: as it is" in "\n".join(explanation_lines(found))


def test_what_the_search_trains_is_not_said_to_be_trained_afterwards():
    found = explain(parse_recipe(small_recipe(search={"method": "growing"}, baselines=["uniform"])), quietly)
    assert [one.network for one in found.training if one.epochs is None] == ["result"]
    assert "result: trained by the search" in "\n".join(explanation_lines(found))


def test_what_a_run_refuses_is_refused(tmp_path):
    with pytest.raises(BudgetError, match="cannot be met"):
        explain(parse_recipe(small_recipe(budget={"params": 3})), quietly)


def test_the_command_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(str(small_recipe()).replace("'", '"').replace("None", "null"))
    done = CliRunner().invoke(main, ["explain", "recipe.yaml", "--set", "budget.params=0.5x"])
    assert done.exit_code == 0, done.output
    assert "budget   params:" in done.output
    assert "0.5 of the unscaled network's" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
