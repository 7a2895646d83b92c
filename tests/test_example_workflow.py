"""The workflow for GitHub Actions in examples/: its steps do here what they are to do there."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

WORKFLOW = Path(__file__).parents[1] / "examples" / "latency-workflow.yml"
TEST = """
import pytest

@pytest.mark.onnx_latency(batch=1, max_ms=60_000, provider="cpu")
def test_it_is_fast(onnx_latency):
    onnx_latency.check("model.onnx")

def test_something_else():
    raise AssertionError("the workflow runs tests of latency only")
"""


@pytest.fixture
def steps():
    return yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["latency"]["steps"]


def test_its_test_step_measures_and_leaves_what_it_uploads(steps, tmp_path):
    (command,) = [step["run"] for step in steps if step.get("run", "").startswith("pytest")]
    (uploaded,) = [step["with"]["path"] for step in steps if step.get("uses", "").startswith("actions/upload-artifact")]
    torch.onnx.export(torch.nn.Linear(3, 2).eval(), (torch.zeros(1, 3),), tmp_path / "model.onnx", verbose=False)
    (tmp_path / "test_latency.py").write_text(TEST, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    words = [sys.executable, "-m", *shlex.split(command)]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout
    assert json.loads((tmp_path / uploaded).read_text(encoding="utf-8"))


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not installed")
def test_actionlint_finds_nothing_wrong():
    ended = subprocess.run(["actionlint", str(WORKFLOW)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
