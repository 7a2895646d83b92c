"""CONTRIBUTING's worked examples are run as they stand, in the place that it says they have."""

import sys
from pathlib import Path

import pytest
from small import small_recipe

import compressor.search.methods
from compressor.pipeline import run
from compressor.recipe import parse_recipe

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(heading):
    """The first Python block of a section."""
    return TEXT.split(f"## {heading}\n")[1].split("```python\n")[1].split("```")[0]


@pytest.fixture
def last(tmp_path, monkeypatch):
    """The search method of the example, as a file beside the built-in ones."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "last.py").write_text(example("To add a search method"))
    package = compressor.search.methods
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "methods")])
    yield "last"
    sys.modules.pop("compressor.search.methods.last", None)
    vars(package).pop("last", None)


@pytest.mark.usefixtures("no_figures", "quick_export")
def test_a_search_method_is_one_file(last, tmp_path):
    recipe = parse_recipe(small_recipe(search={"method": last, "steepness": 3.0}))
    report = run(recipe, tmp_path / "out")
    assert report["budget"]["met"]
    assert report["trace"]["powers"] == [1.0, 3.0]
    unscaled = report["reference_widths"]
    first, second = (report["widths"][name] / unscaled[name] for name in unscaled)
    assert first > second
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1.00, 3.00" in page
    assert "<h2>Powers</h2>" in page
