"""Every option of recipes, as a page."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from compressor import recipe
from compressor.cli.options_page import options_page
from compressor.cli.root import main

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_page_of_docs_is_what_the_command_prints():
    printed = CliRunner().invoke(main, ["schema", "--markdown"]).stdout
    if set(recipe.methods()) - {part[1] for part in re.finditer(r"^## search: (\w+)$", PAGE.read_text(), re.MULTILINE)}:
        pytest.skip("search methods of plug-ins are installed here")
    assert printed == PAGE.read_text(encoding="utf-8"), "compressor schema --markdown > docs/options.md"


def test_every_key_of_a_recipe_is_there():
    text, schema = options_page(recipe.schema()), recipe.schema()
    for name, part in schema["$defs"].items():
        for key in part.get("properties", {}):
            if key != "method":
                assert re.search(rf"^\| `(\w+\.)?{key}` \|", text, re.MULTILINE), (name, key)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)
    assert not [row for row in rows if re.match(r"\| `[\w.]+` \|  \|", row)]  # what each may be is said


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ({"type": "integer", "exclusiveMinimum": 0, "ge": 2, "maximum": 2147483647}, "whole number ≥ 2"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "number > 0, < 1"),
        ({"anyOf": [{"enum": [1, 3], "type": "integer"}, {"type": "null"}]}, "`1`, `3`, or null"),
        ({"enum": [True, False, "auto"]}, "`true`, `false`, `auto`"),
        ({"type": "array", "items": {"type": "string"}}, "list of: text"),
    ],
)
def test_values_in_words(of, words):
    part = {"properties": {"key": {**of, "default": None, "description": "a | b {c: d}"}}}
    page = options_page({"$defs": {"Part": part}, "properties": {"part": {"$ref": "#/$defs/Part"}}})
    row = f"| `key` | {words} | `null` | a \\| b `{{c: d}}` |\n"
    assert f"## part\n\n| key | values | default | |\n|---|---|---|---|\n{row}" in page
