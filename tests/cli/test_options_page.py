"""Every option of recipes, as a page."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from compressor import recipe
from compressor.cli.options_page import options_page
from compressor.cli.root import main
from compressor.plugins import built_in

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_page_of_docs_is_what_the_command_prints():
    printed = CliRunner().invoke(main, ["schema", "--markdown"]).stdout
    if set(recipe.methods()) != {method.name for method in built_in("compressor.search.methods", "METHOD")}:
        pytest.skip("search methods of plug-ins are installed here")
    assert printed == PAGE.read_text(encoding="utf-8"), "compressor schema --markdown > docs/options.md"


def properties(schema, name):
    return schema["$defs"][name].get("properties", {})


def test_every_key_of_a_recipe_is_there():
    text, schema = options_page(recipe.schema()), recipe.schema()
    sections = {part.splitlines()[0]: part for part in text.split("\n## ")[1:]}
    assert re.findall(r"^\| `distill\.(\w+)`", sections["train"], re.MULTILINE) == list(
        properties(schema, "DistillConfig")
    )
    for name in schema["$defs"]:
        title = name.removesuffix("Config").lower()
        section = sections.get(title) or sections.get(f"search: {title}") or ""
        keys = [key for key in properties(schema, name) if key != "method"]
        assert name in ("JsonValue", "DistillConfig") or [
            key for key in re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) if key != "distill"
        ] == [key for key in keys if key != "distill"]
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
