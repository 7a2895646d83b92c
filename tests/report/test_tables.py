"""Tables of a page as files: all of them, with numbers in full for programs and texts for people."""

import csv
import io

import pytest
import yaml
from click.testing import CliRunner
from small import small_recipe

from compressor.cli import root as cli
from compressor.report.format import Cell
from compressor.report.sections import note, section, table
from compressor.report.tables import tables_of, write_tables

PAGE = str(
    section(
        "Sizes & times",
        table(["network", "parameters"], [["a|b", Cell("1,234", title="1234")], ["c", Cell("5", under=("of 6",))]]),
        note("no table"),
    )
) + str(section("Empty", table(["nothing"], [])))


def test_every_table_is_read_with_its_heading():
    found = tables_of(PAGE)
    assert [one.title for one in found] == ["Sizes & times", "Empty"]
    rows = list(csv.reader(io.StringIO(found[0].csv())))
    assert rows == [["network", "parameters"], ["a|b", "1234"], ["c", "5; of 6"]]
    assert found[0].markdown().splitlines() == [
        "| network | parameters |",
        "| --- | --- |",
        "| a\\|b | 1,234 |",
        "| c | 5; of 6 |",
    ]


def test_files_are_numbered_and_named_by_their_headings(tmp_path):
    written = write_tables(PAGE, tmp_path / "tables")
    names = ["01-sizes-times.csv", "01-sizes-times.md", "02-empty.csv", "02-empty.md"]
    assert [path.name for path in written] == names == sorted(path.name for path in (tmp_path / "tables").iterdir())


@pytest.mark.parametrize("page", ["", "<p>no table</p>", "<table></table>", "<h2>x</h2><table><tr></tr></table><td>y"])
def test_pages_without_tables_give_none(page, tmp_path):
    assert write_tables(page, tmp_path / "tables") == []


def test_explanations_of_cells_are_not_numbers():
    (found,) = tables_of(str(table(["a"], [["b", Cell("met", title="what met means")]])))
    assert found.csv() == "a\nb,met\n"


@pytest.mark.usefixtures("quick_export", "no_figures")
def test_the_command_writes_those_of_a_run(tmp_path):
    runner, recipe = CliRunner(), tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe(baselines=None)))
    assert runner.invoke(cli.main, ["run", str(recipe), "-o", str(tmp_path / "out")]).exit_code == 0
    done = runner.invoke(cli.main, ["report", str(tmp_path / "out"), "--tables"])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    files = sorted(path.name for path in (tmp_path / "out" / "tables").iterdir())
    assert len(files) == 2 * len(tables_of(page)) > 4
    assert any("networks" in name for name in files)
    text = next((tmp_path / "out" / "tables").glob("*networks.csv")).read_text(encoding="utf-8")
    assert "parameters" in text
