"""From YAML to a checked recipe; one sentence for each error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from compressor.errors import RecipeError, not_one_of, on_one_line
from compressor.recipe.method import methods
from compressor.recipe.sections import Recipe, recipe_type

_MOST_VALUES = 10_000  # of a recipe, aliases written out; a few lines of aliases of aliases can mean billions


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (YAML says so, PyYAML keeps the last), and more values than any recipe.

    Values are counted as they would be without aliases, before any is made.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._values = 0
        self._within: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        before = self._values
        node: yaml.Node | None = super().compose_node(parent, index)
        if node is not None:
            self._values += self._within.get(node, 1)  # known already: an alias
            self._within.setdefault(node, self._values - before)
            if self._values > _MOST_VALUES:
                message = f"more than {_MOST_VALUES:,} values, aliases written out"
                raise yaml.composer.ComposerError(None, None, message, node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


def load_recipe(path: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: YAML file
        overrides: "a.b=value" each, value in YAML, put into the recipe before it is checked

    Raises:
        RecipeError: file missing, not YAML, unknown key, bad value; names the file, the path in it and what is valid
    """
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{source}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{source}: not a text file in UTF-8") from error
    try:
        raw = _load_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{source}: not valid YAML: {error}") from error
    return parse_recipe(raw, overrides, str(source))


def parse_recipe(raw: Any, overrides: Iterable[str] = (), source: str = "recipe") -> Recipe:
    """Check a recipe given as nested dicts; see `load_recipe`."""
    if not isinstance(raw, dict):
        raise RecipeError(f"{source}: must be a mapping with the keys {', '.join(Recipe.model_fields)}")
    try:
        raw = json.loads(json.dumps(raw, default=str))  # a deep copy: overrides must not reach the caller's dict
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(f"{source}: not a recipe: {error}") from error
    said: set[str] = set()
    for override in overrides:
        _override(raw, override, said)
    try:
        return recipe_type().model_validate(raw)
    except ValidationError as error:
        lines = "\n".join(f"{source}: {on_one_line(line)}" for line in _explain(error, raw))
        raise RecipeError(lines) from error


def schema() -> dict[str, Any]:
    """JSON schema of recipes, for editors."""
    return recipe_type().model_json_schema()


def _load_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: not YAML; says why and where, on one line
    """
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{line}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except AttributeError as error:  # PyYAML looks for the parts of a date where there are none
        raise ValueError("a value does not fit the type that its tag names") from error
    except (ValueError, KeyError) as error:  # those of bad dates and numbers
        raise ValueError(f"a value does not fit its type: {error}") from error


def _override(raw: dict[str, Any], override: str, said: set[str]) -> None:
    """Set a value in a raw recipe; `said` has the paths that were set before it, and gets its own."""
    path, equals, text = override.partition("=")
    *parents, last = path.split(".")
    if not equals or not all((*parents, last)):
        raise RecipeError(f"--set {override!r}: must look like search.iterations=3")
    try:
        value = json.loads(json.dumps(_load_yaml(text), default=str))
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(f"--set {override!r}: {text!r} is not a YAML value: {error}") from error
    place = raw
    for depth, key in enumerate(parents):
        inner = place.setdefault(key, {})
        if isinstance(inner, str) and depth == 0 and key in ("model", "data"):
            inner = place[key] = {"name": inner}
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override!r}: {'.'.join(parents[: depth + 1])} is {inner!r}, not a mapping")
        place = inner
    if path == "search.method" and place.get("method") != value:
        for key in [key for key in place if not any(one == "search" or _within(f"search.{key}", one) for one in said)]:
            del place[key]  # the file's options of one method mean nothing to another
    place[last] = value
    said.add(path)


def _within(key: str, path: str) -> bool:
    return path == key or path.startswith(f"{key}.")


_MOST_PROBLEMS = 20  # that are said of one recipe


def _explain(error: ValidationError, raw: Mapping[str, Any]) -> list[str]:
    """One sentence per problem: path, bad value, what is valid."""
    lines: list[str] = []
    problems = error.errors(include_url=False)
    for item in problems[:_MOST_PROBLEMS]:
        location = [str(part) for part in item["loc"]]
        if location[:1] == ["search"] and location[1:2] and location[1] in methods():
            del location[1]  # pydantic names the member of the union; the recipe has no such level
        path = ".".join(location)
        if item["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key: {not_one_of(location[-1], _valid_keys(location[:-1], raw))}")
        elif item["type"] == "missing":
            lines.append(f"{path}: missing")
        elif item["type"] == "union_tag_invalid":
            lines.append(f"{path}.method: {not_one_of(item['input'].get('method'), methods())}")
        elif item["type"] == "union_tag_not_found":
            lines.append(f"{path}.method: missing; one of {', '.join(sorted(methods()))}")
        elif item["type"] in ("model_type", "model_attributes_type"):
            keys = _valid_keys(location, raw)
            lines.append(f"{path}: {item['input']!r} must be a mapping with keys among {', '.join(keys)}")
        else:
            message = item["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
            value = "" if isinstance(item["input"], dict) else f"{item['input']!r} is not valid: "
            lines.append(f"{path}: {value}{message}" if path else f"{value}{message}")
    if len(problems) > _MOST_PROBLEMS:
        lines.append(f"and {len(problems) - _MOST_PROBLEMS:,} more problems")
    return lines


def _valid_keys(parents: list[str], raw: Mapping[str, Any]) -> list[str]:
    fields = recipe_type().model_fields
    if not parents:
        return list(fields)
    if parents[0] == "search":
        section = raw["search"]
        return list(methods()[section["method"]].config.model_fields) if isinstance(section, dict) else ["method"]
    parts: list[Any] = [fields[parents[0]].annotation]
    for part in parts:
        parts += get_args(part)
    found = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
    return list(found[0].model_fields) if found else []
