"""Which module may import which: DESIGN's table, read off the syntax trees.

Imports inside functions count as well; those under `if TYPE_CHECKING` do not: they are never run.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = {"errors", "files", "plugins"}
MAY = {
    "compressor": {"architecture", "budget", "errors", "pipeline", "recipe"},  # the names it loads on first use
    "errors": set(),
    "files": {"errors"},
    "plugins": {"errors"},
    "runlog": {"errors", "files"},
    "recipe": {"recipe", "errors", "plugins"},
    "plan": {"errors", "recipe"},
    "budget": {"errors"},
    "units": {"errors"},
    "architecture": {"errors", "units"},
    "widths": {"widths", "errors"},
    "initialise": set(),
    "solve": {"errors", "budget"},
    "checkpoint": {"errors", "files"},
    "console": set(),
    "inspection": {"errors"},
    "interrupts": set(),
    "provenance": {"compressor", "bench"},
    "doctor": {"bench", "errors"},
    "listing": {"compressor", "cost", "errors", "files", "models", "plugins"},
    "runfolder": {"errors", "files", "recipe"},
    "inherit": {"architecture", "data", "errors", "initialise", "models", "search", "widths"},
    "stacking": {"stacking", "errors", "units", "widths"},
    "models": BASE | {"models", "architecture", "bench", "initialise", "stacking", "widths"},
    "contender": {"architecture", "budget", "files", "recipe", "search"},
    "distributed": {"errors", "train"},
    "executors": {"errors"},
    "lock": {"errors"},
    "cost": {"models", "widths", "architecture", "units"},
    "data": {"data", "errors"},
    "tasks": {"data", "errors"},
    "train": {"data", "errors", "checkpoint", "tasks"},
    "search": BASE
    | {
        "search",
        "architecture",
        "budget",
        "checkpoint",
        "cost",
        "data",
        "initialise",
        "models",
        "recipe",
        "solve",
        "stacking",
        "train",
        "units",
        "widths",
    },
    "arrangement": {"architecture", "bench", "recipe", "stacking"},
    "filesize": {"architecture", "cost", "exporters", "initialise", "models"},
    "latency": {"architecture", "cost"},
    "calibration": {"architecture", "search"},
    "precision": {"bench", "data", "errors", "exporters", "recipe", "tasks"},
    "runtime": {
        "compressor",
        "architecture",
        "arrangement",
        "bench",
        "errors",
        "exporters",
        "files",
        "initialise",
        "models",
        "precision",
        "recipe",
    },
    "limits": {"architecture", "budget", "cost", "filesize", "latency", "recipe", "runtime", "search", "solve"},
    "settings": {"recipe", "search", "train"},
    "shipping": {
        "architecture",
        "arrangement",
        "bench",
        "checkpoint",
        "cost",
        "data",
        "errors",
        "exporters",
        "files",
        "filesize",
        "models",
        "precision",
        "provenance",
        "recipe",
        "tasks",
        "train",
    },
    "report": {"report", "files"},
    "exporters": {"exporters", "bench", "errors", "files", "plugins"},
    "bench": {"bench"},
    "olive": {
        "architecture",
        "commands",
        "data",
        "errors",
        "files",
        "models",
        "olive",
        "pipeline",
        "plan",
        "recipe",
        "train",
    },
}
FREE = {"__main__", "cli", "commands", "comparison", "pipeline"}
TORCH = {"torch", "torchvision", "torch_pruning", "safetensors"}
NO_TORCH = {
    "compressor",
    "errors",
    "files",
    "plugins",
    "runfolder",
    "runlog",
    "recipe",
    "plan",
    "budget",
    "architecture",
    "solve",
    "console",
    "inspection",
    "executors",
    "lock",
}
NO_TORCH |= {"report", "bench", "recipes"}
ORT = {"onnxruntime"}


def modules():
    """{dotted name as installed: file} of the whole package."""
    found = {}
    for folder in ("compressor", "exporters", "bench"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "compressor" else ("compressor", *parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def room(name):
    """`compressor.search.taylor` lies in `search`; the package's own file in `compressor`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


class Imports(ast.NodeVisitor):
    """Collects the modules that a file imports; `from a import b` gives a.b if that is a module, else a."""

    def __init__(self, name, is_package, known):
        self.package = name if is_package else name.rpartition(".")[0]
        self.known, self.found, self.at_top, self.depth = known, set(), set(), 0

    def _add(self, name):
        self.found.add(name)
        if not self.depth:
            self.at_top.add(name)

    def visit_Import(self, node):
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node):
        parents = self.package.split(".")
        base = ".".join(parents[: len(parents) - node.level + 1]) + "." * bool(node.module) if node.level else ""
        source = base + (node.module or "")
        for alias in node.names:
            whole = f"{source}.{alias.name}"
            self._add(whole if whole in self.known else source)

    def visit_If(self, node):
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_FunctionDef(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1


def imports():
    known = modules()
    for name, path in known.items():
        visitor = Imports(name, path.name == "__init__.py", known)
        visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
        yield name, visitor


def rooms_of(visitor):
    return {room(name) for name in visitor.found if name.split(".")[0] == "compressor"}


ALL = list(imports())
IDS = [name for name, _ in ALL]


def test_the_walk_sees_the_package():
    found = dict(ALL)
    assert len(ALL) > 40
    assert found["compressor.widths.slicing"].found >= {"torch", "compressor.errors", "compressor.widths.plan"}
    assert "compressor.bench.session" in found["compressor.bench.turns"].found
    assert "compressor.pipeline" in found["compressor.cli"].found - found["compressor.cli"].at_top
    assert "compressor.models.vgg" in found["compressor.models"].found
    assert "compressor.pipeline" not in found["compressor"].found  # under TYPE_CHECKING only


def test_every_room_is_in_the_table():
    assert {room(name) for name in IDS} - FREE == set(MAY)


@pytest.mark.parametrize(("name", "visitor"), ALL, ids=IDS)
def test_a_module_imports_what_its_room_may(name, visitor):
    if room(name) not in FREE:
        assert rooms_of(visitor) <= MAY[room(name)]


@pytest.mark.parametrize(("name", "visitor"), ALL, ids=IDS)
def test_only_some_rooms_import_torch(name, visitor):
    top = {module.split(".")[0] for module in visitor.found}
    if room(name) in NO_TORCH:
        assert not top & TORCH
    assert "torch_pruning" not in top or name == "compressor.widths.torch_pruning_graph"  # imported on first use
    if room(name) != "bench" and name != "compressor.exporters.precision":  # its converters come with the runtime
        assert not top & ORT


def test_nothing_but_the_command_line_and_comparisons_know_the_pipeline():
    knowing = {name for name, visitor in ALL if "pipeline" in rooms_of(visitor)}
    assert knowing == {"compressor.cli", "compressor.comparison", "compressor.olive.compress_to_budget"}
    assert {name for name, visitor in ALL if "comparison" in rooms_of(visitor)} == {"compressor.cli"}
    assert {name for name, visitor in ALL if "cli" in rooms_of(visitor)} == {"compressor.__main__"}


def test_the_command_line_is_light_until_a_command_runs():
    for name in ("compressor.cli", *(name for name in dict(ALL) if room(name) == "commands")):
        light = dict(ALL)[name].at_top
        rooms = {room(module) for module in light if module.startswith("compressor")}
        assert rooms <= {"compressor", "commands", "errors"}
        assert not {module.split(".")[0] for module in light} & (TORCH | ORT | {"numpy", "onnx", "rich", "pydantic"})
