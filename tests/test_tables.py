"""Tables of README and docs show the numbers that experiments left."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

import table_cells  # noqa: E402
import tables  # noqa: E402

PAGES = {path: path.read_text(encoding="utf-8") for path in tables.pages()}


@pytest.mark.parametrize(
    "path", [path for path, text in PAGES.items() if "<!-- table:" in text], ids=lambda path: path.name
)
def test_pages_show_what_was_measured(path):
    assert tables.rewritten(PAGES[path]) == PAGES[path]


def test_every_table_stands_on_one_page():
    found = Counter(name for text in PAGES.values() for name in tables.names(text))
    assert found == Counter(list(tables.TABLES))
    assert sum(text.count("<!-- table:") for text in PAGES.values()) == len(tables.TABLES)  # each is read as one


@pytest.mark.parametrize("name", list(tables.TABLES))
def test_rows_are_as_wide_as_the_head(name):
    (text,) = [text for text in PAGES.values() if name in tables.names(text)]
    head = re.search(rf"^<!-- table: {name} -->\n(.*)\n", text, re.MULTILINE)[1]
    rows = tables.TABLES[name]()
    assert rows
    assert {len(row) for row in rows} == {head.count("|") - 1}


def test_other_numbers_make_another_table(monkeypatch):
    page = "before\n\n<!-- table: growing_time -->\n| a | b | c | d |\n|---|---|---|---|\n| old |\n\nbehind\n"
    arm = {"time_ratio": 0.123, "flops_ratio": 0.4567, "ratio_by_epoch": [0.1, 0.9]}
    monkeypatch.setattr(sys.modules["table_rows_pages"], "numbers", lambda name: {"0.05x": arm, "0.1x": arm})
    assert tables.rewritten(page).splitlines()[5:] == [
        "| 5 % of the parameters | 0.12 | 0.457 | 0.90 |",
        "| 10 % of the parameters | 0.12 | 0.457 | 0.90 |",
        "",
        "behind",
    ]


def test_a_table_that_cannot_be_made_is_one_sentence(monkeypatch):
    with pytest.raises(tables.TableError, match="no_such -->: there is no such table; valid: along, "):
        tables.rewritten("<!-- table: no_such -->\n| a |\n|---|\n")
    monkeypatch.setattr(sys.modules["table_rows_pages"], "numbers", lambda name: {"0.05x": {"time_ratio": None}})
    with pytest.raises(tables.TableError, match="table growing_time: its numbers are not whole"):
        tables.rewritten("<!-- table: growing_time -->\n| a |\n|---|\n")


def test_numbers_of_other_code_than_todays_have_a_sign(monkeypatch, tmp_path):
    (tmp_path / "docs").mkdir()
    rows = "| a | b | one.json | 1234567 | same | x |\n| a | b | two.json | 1234567 | changed | x |\n"
    (tmp_path / "docs" / "measured.md").write_text(rows)
    monkeypatch.setattr(table_cells, "ROOT", tmp_path)
    assert [table_cells.earlier(*names) for names in (["one"], ["two"], ["one", "two"], ["on"])] == [
        "",
        " †",
        " †",
        " †",
    ]


def test_cells():
    assert table_cells.spread([1, 2, 3]) == "2.00 ± 1.00 %"
    assert table_cells.spread([2.345], 1, "") == "2.3"
    assert table_cells.ends([1200, 900], ",d") == "900 – 1,200"
    assert table_cells.ends([1.01, 1.04], ".1f") == "1.0"
    assert table_cells.gain([1, 2], [2, 3]) == "−1.0"
    assert table_cells.gain([1.01, 2], [1, 2]) == "0.0"
    assert table_cells.p_of([1, 2], [1]) == "one seed"
    assert table_cells.p_of([1, 2, 3], [1, 2, 3]) == "p 1"
    assert table_cells.title("vgg11_bn x 0.25") == "VGG11 × 0.25"
