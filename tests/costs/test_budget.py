import json

import numpy as np
import pytest
from small import small_recipe

from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.errors import RecipeError
from compressor.models import reference_architecture
from compressor.models.architecture import Architecture
from compressor.pipeline.runner import run
from compressor.recipe import WidthsConfig, parse_recipe
from compressor.report import render_html, summary_lines
from compressor.search.bounds import bounds_of

BUDGET = Budget({"params": 1000.0, "macs": 500.0})


@pytest.mark.parametrize(
    ("params", "macs", "missed"),
    [(999, 499, {}), (1000, 500, {}), (1001, 500, {"params": 1}), (1300, 507, {"params": 300, "macs": 7})],
)
def test_misses_by_how_much_each_limit_is_exceeded(params, macs, missed):
    costs = {"params": params, "macs": macs, "bytes": 10**9}
    assert BUDGET.misses(costs) == missed
    assert BUDGET.verdict(costs) == {
        "limits": {"params": 1000.0, "macs": 500.0},
        "costs": {"params": params, "macs": macs},
        "met": not missed,
        "slack": {"params": 1000 - params, "macs": 500 - macs},
    }


@pytest.mark.parametrize(("params", "macs"), [(1001, 1), (1, 501), (1300, 507)])
def test_compression_is_needed_if_one_limit_is_exceeded(params, macs):
    assert BUDGET.needless({"params": params, "macs": macs}) is None


def test_a_budget_that_needs_no_compression_is_said_so():
    small = {"params": 900, "macs": 500}
    both = BUDGET.needless(small)
    assert both.startswith("budget.params: 1,000 needs no compression: the unscaled network has 900, widths may be")
    assert "; budget.macs: 500 needs no compression: the unscaled network has 500" in both
    after = Budget({"params": 1000}).needless(small, {"params": 998})
    assert after.endswith("the unscaled network has 900; widths are scaled up to 998")
    assert Budget({"params": 1000}).needless(small, {"params": 900}).endswith("the unscaled network has 900")


def test_a_limit_whose_cost_is_not_known_is_not_met_in_silence():
    with pytest.raises(KeyError, match="macs"):
        BUDGET.misses({"params": 1})


MLP = reference_architecture("mlp", {}, 10, (1, 8, 8), 0.1)


def searched(folder, **sections):
    """What the search stage of a run leaves: its record, and the architecture."""
    run(parse_recipe(small_recipe(**sections)), folder, until="search")
    found = Architecture.from_json((folder / "architecture.json").read_text())
    return json.loads((folder / "search.json").read_text()), found


def test_shares_of_the_unscaled_network_become_limits(tmp_path):
    record, found = searched(tmp_path / "run", budget={"params": "0.5x", "macs": "0.25x"})
    assert record["limits"] == {"params": params_macs.params(MLP) // 2, "macs": params_macs.macs(MLP) // 4}
    assert params_macs.params(found) <= record["limits"]["params"]
    assert params_macs.macs(found) <= record["limits"]["macs"]
    assert record["binding"] == "macs"
    assert record["note"] is None


def test_a_budget_that_needs_no_compression_is_said_at_once_and_reported(tmp_path):
    limit, own = 3 * params_macs.params(MLP), params_macs.params(MLP)
    said = []
    recipe = parse_recipe(small_recipe(budget={"params": limit}))
    report = run(recipe, tmp_path / "run", progress=lambda stage, text, share: said.append((stage, text)))
    sentence = f"budget.params: {limit:,} needs no compression: the unscaled network has {own:,}"
    assert [(stage, text) for stage, text in said if "compression" in text] == [
        ("search", sentence + ", widths may be scaled up")
    ]
    assert report["budget"]["note"] == f"{sentence}; widths are scaled up to {report['params']:,}"
    assert own < report["params"] <= limit
    assert report["budget"]["binding"] == "params"
    assert report["budget"]["limits"] == {"params": limit}


@pytest.mark.parametrize("method", ["uniform", "random"])
def test_the_widths_section_holds(method, tmp_path):
    widths = {"round_to": 4, "minimum": {"fc2": 27}, "frozen": ["fc1"]}
    record, found = searched(tmp_path / "run", widths=widths, budget={"params": "1.2x"}, search={"method": method})
    assert found.widths["fc1"] == MLP.widths["fc1"] == 50
    assert found.widths["fc2"] % 4 == 0
    assert found.widths["fc2"] >= 27
    assert params_macs.params(found) <= record["limits"]["params"]
    assert (
        params_macs.params(found.with_widths({**found.widths, "fc2": found.widths["fc2"] + 4}))
        > record["limits"]["params"]
    )


def test_bounds_follow_the_references_order():
    bounds = bounds_of(WidthsConfig(round_to=8, minimum={"fc2": 9}, frozen=("fc1",)), MLP)
    np.testing.assert_array_equal(bounds.frozen, [True, False])
    np.testing.assert_array_equal(bounds.least, [50, 16])
    assert (bounds_of(WidthsConfig(minimum=3), MLP).least == 3).all()


@pytest.mark.parametrize("given", [{"minimum": {"fc3": 4}}, {"frozen": ("fc3",)}])
def test_unknown_groups_are_told_the_valid_ones(given):
    with pytest.raises(RecipeError, match=rf"widths\.{next(iter(given))}: 'fc3' is not one of .*fc1, fc2"):
        bounds_of(WidthsConfig(**given), MLP)


def test_the_summary_and_the_page_name_the_binding_limit_and_the_note():
    record = {"budget": BUDGET.verdict({"params": 900, "macs": 499}) | {"binding": "macs", "note": "nothing to do"}}
    lines = summary_lines(record)
    assert lines[-2:] == ["of these limits MACs is the one that stops growth", "nothing to do"]
    page = render_html(record)
    assert "Of these limits MACs is the one that stops growth." in page
    assert "nothing to do" in page
