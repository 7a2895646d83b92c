"""Which room may import which: the rooms of DESIGN from top to bottom, read off the syntax trees.

Imports inside functions count as well; those under `if TYPE_CHECKING` do not: they are never run.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (  # each imports only rooms below it, and the package itself for its version
    *("__main__", "cli", "olive", "integrations", "pipeline"),
    *("cost", "solve", "widths", "architecture", "search", "costs", "exporters", "training"),
    *("models", "dependency", "data"),
    *("report", "recipe", "bench"),
    *("failures", "files", "plugins", "user_functions", "lazy", "errors"),
)
TORCH = {"torch", "torchvision", "torch_pruning", "safetensors"}
NO_TORCH = {  # rooms, and modules of others
    *("compressor", "report", "recipe", "recipes", "bench", "failures", "files", "plugins", "lazy", "errors"),
    *(
        "user_functions",
        "pipeline.run_folder",
        "pipeline.run_log",
        "pipeline.sweep_jobs",
        "pipeline.lock",
        "pipeline.executors",
    ),
    *("costs.budget", "costs.solver", "models.architecture", "models.stacked.spec"),
}
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
    """`compressor.search.taylor_pruner` lies in `search`; the package's own file in `compressor`."""
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
    assert found["compressor.dependency.surgery"].found >= {"torch", "compressor.errors", "compressor.dependency.graph"}
    assert "compressor.bench.session" in found["compressor.bench.turns"].found
    assert "compressor.pipeline.runner" in found["compressor.cli.root"].found - found["compressor.cli.root"].at_top
    assert "compressor.models.zoo.resnet" in found["compressor.models.zoo.wideresnet"].found
    assert "compressor.pipeline.runner" not in found["compressor"].found  # under TYPE_CHECKING only


def test_every_room_is_in_the_list():
    assert {room(name) for name in IDS} == {"compressor", *ROOMS}


@pytest.mark.parametrize(("name", "visitor"), ALL, ids=IDS)
def test_a_module_imports_rooms_below_its_own(name, visitor):
    if (own := room(name)) not in ("compressor", "bench"):
        allowed = {"compressor", *ROOMS[ROOMS.index(own) :]}
        assert rooms_of(visitor) <= allowed
    if own == "bench":  # of use without the rest
        assert rooms_of(visitor) <= {"bench", "files", "errors"}


@pytest.mark.parametrize(("name", "visitor"), ALL, ids=IDS)
def test_only_some_rooms_import_torch(name, visitor):
    top = {module.split(".")[0] for module in visitor.found}
    if NO_TORCH & {room(name), name.removeprefix("compressor.")}:
        assert not top & TORCH
    assert "torch_pruning" not in top or name == "compressor.dependency.torch_pruning_engine"  # imported on first use
    if room(name) != "bench" and not name.startswith(
        "compressor.exporters.precisions."
    ):  # its converters come with the runtime
        assert not top & ORT


def test_only_the_command_line_and_other_tools_know_the_pipeline():
    knowing = {room(name) for name, visitor in ALL if "pipeline" in rooms_of(visitor)}
    assert knowing == {"cli", "integrations", "pipeline"}
    assert {room(name) for name, visitor in ALL if "cli" in rooms_of(visitor)} == {"cli", "__main__"}


def test_the_command_line_is_light_until_a_command_runs():
    found, light = dict(ALL), {"compressor.cli.root"}
    while more := {module for name in light for module in found[name].at_top if module in found} - light:
        light |= more
    assert {room(name) for name in light} <= {"compressor", "cli", "errors", "failures", "lazy"}
    packages = {module.split(".")[0] for name in light for module in found[name].at_top}
    assert not packages & (TORCH | ORT | {"numpy", "onnx", "rich", "pydantic"})
