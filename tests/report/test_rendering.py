"""Templates: what they are given is text unless it says that it is HTML, and nothing that they need may be missing."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

import compressor.report
from compressor.errors import RunError
from compressor.report import page
from compressor.report.format import Cell
from compressor.report.rendering import render
from compressor.report.sections import note, section, table

HOSTILE = "<script>alert('1')</script>&"
ESCAPED = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;"


@pytest.mark.parametrize(
    "make",
    [
        lambda text: section(text, "x"),
        lambda text: section("x", text),
        lambda text: note("x", text),
        lambda text: table([text], []),
        lambda text: table(["x"], [[text]]),
        lambda text: table(["x"], [["x", text]]),
        lambda text: table(["x"], [["x", Cell(text)]]),
        lambda text: table(["x"], [["x", Cell("x", [text])]]),
        lambda text: table(["x"], [["x", Cell("x", title=text)]]),
        lambda text: table(["x"], [["x", Cell("x", badges=[(text, "met")])]]),
        lambda text: render("figure.svg.j2", body="", width="1", height="1", label=text),
    ],
)
def test_text_is_escaped(make):
    assert ESCAPED in make(HOSTILE)
    assert "<script" not in make(HOSTILE)


def test_html_that_says_so_is_taken_as_it_is():
    assert section("a", note(Markup("<b>1</b>"))).count("<b>1</b>") == 1


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="by_tracer"):
        render("removal.html.j2", sentence="x")


def test_no_template_turns_the_escaping_off():
    folder = Path(compressor.report.__file__).parent / "templates"
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.j2")}
    assert "run.html.j2" in texts
    for text in texts.values():
        assert not any(word in text for word in ("| safe", "|safe", "autoescape"))


def test_rows_of_a_table_may_be_empty_and_begin_with_a_cell():
    made = table(["a"], [[], [Cell("first", ["under"]), "x"]])
    assert made.count("<tr>") == 2
    assert '<th scope="row">first</th>' in made


def test_children_that_are_none_are_left_out():
    assert "None" not in section("a", None, note("b", None))


@pytest.mark.parametrize("given", [None, Markup()])
def test_a_section_that_has_nothing_to_show_is_left_out(monkeypatch, given):
    monkeypatch.setattr(page, "sections_of", lambda record: [lambda record: given])
    assert "None" not in page.render_html({"name": "x"})


@pytest.mark.parametrize("given", ["text", [Markup("<b>1</b>")], 3])
def test_a_section_of_another_type_is_named(monkeypatch, given):
    def mine(record):
        return given

    monkeypatch.setattr(page, "sections_of", lambda record: [mine])
    with pytest.raises(RunError, match=rf"mine: a section of the report must be .*, not a {type(given).__name__}$"):
        page.render_html({"name": "x"})
