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


@pytest.fixture
def refused(start_command, tmp_path):
    """Run the example's recipe where a package may be installed: what a run that is refused prints."""

    def work(site, *arguments):
        log = tmp_path / "log"
        command = ["run", EXAMPLE / "recipe.yaml", "-o", tmp_path / "out", *arguments]
        assert start_command(command, log, folder=site).wait() == 2
        return log.read_text()

    return work


@pytest.mark.slow
def test_its_recipe_runs(installed, tmp_path):
    command = [sys.executable, "-m", "quick_compressor", "run", str(EXAMPLE / "recipe.yaml"), "-o", "out"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), str(SUPPORT)])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["params"] <= 0.3 * report["baseline"]["reference"]["params"]
    assert report["method"] == "pyramid"
    assert report["widest"] == max(report["widths"].values()) == report["budget"]["costs"]["widest"] <= 15
    assert "channels of the widest layer" in done.stdout
    assert report["dataset"]["classes"] == 6
    assert report["accuracy"]["onnx"] > 0.5
    assert report["parity"]["max_rel_error"] <= 1e-4
    weights = load_file(tmp_path / "out" / "weights.safetensors")
    exported = np.load(tmp_path / "out" / "exports" / "npz" / "weights.npz")
    assert all(np.array_equal(exported[name], array) for name, array in weights.items())
    assert json.loads((tmp_path / "out" / "export.json").read_text())["also"]["npz"]["bytes"] > 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Board</h2>" in page
    assert f"{0.12 * report['onnx_bytes'] / 1e6 + 0.03 * report['macs'] / 1e6:.3f}" in page


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("search.slope=0", "search.slope"),
        ("budget.widest=many", "budget.widest: 'many' is not valid"),
        ("model.options={activation: tanh}", "tanh"),
        ("data.options={directions: 1}", "data.options.directions: 1 is not a whole number"),
        ("export.also=[npy]", "did you mean npz"),
    ],
)
def test_wrong_values_for_it_get_one_sentence(installed, refused, override, told):
    printed = refused(installed, "--set", override)
    assert told in printed
    assert len([line for line in printed.splitlines() if not line.startswith("  ")]) == 1


def test_without_it_its_names_are_unknown(refused, tmp_path):
    assert "pyramid" in refused(tmp_path)
