"""The example of every extension point, installed and used as a newcomer would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin"
SUPPORT = Path(__file__).parent / "support"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    target = tmp_path_factory.mktemp("plugin")
    source = target / "source"
    source.mkdir()
    for path in EXAMPLE.rglob("*"):  # building writes beside the source
        if path.suffix in (".py", ".toml", ".md", ".yaml"):
            copied = source / path.relative_to(EXAMPLE)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(path.read_bytes())
    site = target / "site"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return site


def compressor(site, where, *arguments, module="compressor"):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(SUPPORT)])}
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_its_recipe_runs(installed, tmp_path):
    done = compressor(installed, tmp_path, "run", EXAMPLE / "recipe.yaml", "-o", "out", module="quick_compressor")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["params"] <= 0.3 * report["baseline"]["reference"]["params"]
    assert report["method"] == "pyramid"
    assert report["dataset"]["classes"] == 6
    assert report["accuracy"]["onnx"] > 0.5
    assert report["parity"]["max_rel_error"] <= 1e-4
    weights = load_file(tmp_path / "out" / "weights.safetensors")
    exported = np.load(tmp_path / "out" / "exports" / "npz" / "weights.npz")
    assert all(np.array_equal(exported[name], array) for name, array in weights.items())
    assert json.loads((tmp_path / "out" / "export.json").read_text())["also"]["npz"]["bytes"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("search.slope=0", "search.slope"),
        ("model.options={activation: tanh}", "tanh"),
        ("data.options={directions: 1}", "data.options.directions: 1 is not a whole number"),
        ("export.also=[npy]", "did you mean npz"),
    ],
)
def test_wrong_values_for_it_get_one_sentence(installed, tmp_path, override, told):
    done = compressor(installed, tmp_path, "run", EXAMPLE / "recipe.yaml", "-o", "out", "--set", override)
    assert done.returncode == 2
    assert told in done.stderr
    assert len([line for line in done.stderr.splitlines() if not line.startswith(" search")]) == 1


@pytest.mark.slow
def test_without_it_its_names_are_unknown(tmp_path):
    done = compressor(tmp_path, tmp_path, "run", EXAMPLE / "recipe.yaml", "-o", "out")
    assert done.returncode == 2
    assert "pyramid" in done.stderr
