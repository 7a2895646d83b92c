"""The example of a network, a training loop and a metric of one's own runs as it stands."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_network.py"


@pytest.mark.usefixtures("quick_export", "no_figures")
def test_the_detector_of_the_example_is_compressed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), '{"params": "0.3x"}', str(tmp_path / "out")])
    result = runpy.run_path(str(EXAMPLE), run_name="__main__")["result"]
    assert result.met
    assert result.report["metric"]["onnx"] > 0.85  # a box in the middle of every image would have 0.75
    assert result.report["metric"]["onnx"] == pytest.approx(result.report["metric"]["torch"], abs=1e-4)
    assert "closeness" in capsys.readouterr().out
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60
