"""The form of what a run leaves, which users' scripts read: files, keys of report.json and of the file's metadata.

Values are not held here, only what is where and of which type; where the golden file has an empty list or object, a
machine may have filled it. `python tests/test_golden.py` writes the form anew, for
a change that users shall see.
"""

import json
import sys
import tempfile
from pathlib import Path

import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))
from quick import exporting_by_tracing, leaving_out_figures
from small import small_recipe

from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe

FORMS = Path(__file__).parent / "golden"
PRUNED = {"pretrain_epochs": 1, "batch_size": 32, "prune_every": 1, "prune_channels": 1}
RECIPES = {
    "uniform": {"baselines": ["uniform", "reference"], "export": {"softmax": True, "preprocess": "uint8"}},
    "neuralscale": {"search": {"method": "neuralscale", "iterations": 2, **PRUNED}},
    "morphnet": {"search": {"method": "morphnet", **PRUNED}, "budget": {"params": "0.5x", "macs": "0.6x"}},
    "l1": {"search": {"method": "l1", "finetune_epochs": 1}, "budget": {"onnx_bytes": "0.6x"}},
    "growing": {"search": {"method": "growing", "steps_per_round": 1}},
    "tissuenet": {"search": {"method": "tissuenet", "k": 4, "mix": "single", "trials": 2, "trial_epochs": 1}},
    "latency": {"budget": {"latency": "0.9x", "batch": 8}, "model": {"name": "mlp", "width": 0.5}},
    "int8": {"export": {"precision": "int8"}, "model": {"name": "mlp", "width": 0.3}},
}
OF_THE_MACHINE = {"machine", "versions", "slow", "layer_model"}  # which differ from one to another
NAMED_BY_DATA = {"schemes"}  # a runtime may refuse some
TYPES = {bool: "bool", int: "number", float: "number", str: "text", type(None): "null"}


def paths(value, path=""):
    """{path: types found there} of a JSON value; the entries of a list count as one."""
    if isinstance(value, dict) and value and path.rpartition(".")[2] in NAMED_BY_DATA:
        parts = [paths(part, f"{path}.*") for part in value.values()]
    elif isinstance(value, dict) and value:
        parts = [paths(None if key in OF_THE_MACHINE else part, f"{path}.{key}") for key, part in value.items()]
    elif isinstance(value, list) and value:
        parts = [paths(part, f"{path}[]") for part in value]
    else:
        return {path: {TYPES.get(type(value), "empty")}}
    found = {}
    for part in parts:
        for name, types in part.items():
            found.setdefault(name, set()).update(types)
    return found


def within(path, roots):
    return any(path == root or path.startswith((f"{root}.", f"{root}[")) for root in roots)


def form(folder):
    """What a finished run left: its files, and keys and types of its report and of the metadata of its ONNX file."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    metadata = onnx.load(folder / "model.onnx").metadata_props
    return {
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
        "metadata": sorted(entry.key for entry in metadata),
        "report": {path.lstrip("."): " ".join(sorted(types)) for path, types in sorted(paths(report).items())},
    }


def finished(name, folder):
    out = folder / name
    run(parse_recipe(small_recipe(**RECIPES[name])), out)
    return form(out)


@pytest.mark.usefixtures("quick_export", "no_figures")
@pytest.mark.parametrize("name", RECIPES)
def test_the_form_of_a_run_is_as_it_was(name, tmp_path):
    expected, found = json.loads((FORMS / f"{name}.json").read_text(encoding="utf-8")), finished(name, tmp_path)
    assert found["files"] == expected["files"]
    assert found["metadata"] == expected["metadata"]
    open_ended = {path for path, types in expected["report"].items() if types in ("empty", "null")}
    report = {path: types for path, types in found["report"].items() if not within(path, open_ended)}
    held = {path: types for path, types in expected["report"].items() if path not in open_ended}
    assert list(report) == list(held)
    assert all(set(types.split()) <= set(held[path].split()) for path, types in report.items())
    assert all(any(within(path, {root}) for path in found["report"]) for root in open_ended)


if __name__ == "__main__":
    exporting_by_tracing(setattr)
    leaving_out_figures(setattr)
    FORMS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for each in RECIPES:
            text = json.dumps(finished(each, Path(temporary)), indent=1)
            (FORMS / f"{each}.json").write_text(text + "\n", encoding="utf-8")
