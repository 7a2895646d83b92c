"""The size of the ONNX file as a budget: the shipped file keeps within it."""

import json

import numpy as np
import pytest
from small import small_recipe

from compressor.pipeline import runner as pipeline
from compressor.recipe import parse_recipe


@pytest.mark.usefixtures("traced_export")
@pytest.mark.parametrize(
    ("model", "budget"),
    [
        ({"name": "resnet20", "width": 0.25}, {"onnx_bytes": "70k"}),
        ({"name": "mlp", "width": 0.1}, {"onnx_bytes": "0.6x", "macs": "0.9x"}),
    ],
)
def test_the_shipped_file_is_within_the_budget(model, budget, tmp_path):
    recipe = parse_recipe(small_recipe(model=model, budget=budget))
    report = pipeline.run(recipe, tmp_path / "run")
    size = (tmp_path / "run" / "model.onnx").stat().st_size
    assert size == report["onnx_bytes"] == report["budget"]["costs"]["onnx_bytes"]
    assert report["budget"]["met"]
    assert report["budget"]["binding"] == "onnx_bytes"
    assert report["budget"]["note"] is None
    spare = report["budget"]["slack"]["onnx_bytes"]
    assert 0 <= spare < report["budget"]["one_channel"]["onnx_bytes"] + 200
    kept = json.loads((tmp_path / "run" / "search.json").read_text())
    assert kept["limits"] == report["budget"]["limits"]
    assert np.isfinite(list(kept["limits"].values())).all()
