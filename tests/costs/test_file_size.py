"""The size of the ONNX file as a cost: what is found keeps within it, however rough the estimate is."""

import json

import numpy as np
import pytest
import torch
from small import small_recipe

from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.costs.file_size import FileSize, exported_bytes
from compressor.errors import BudgetError
from compressor.exporters import export_onnx, write_metadata
from compressor.models import build, example_input, reference_architecture
from compressor.pipeline import runner as pipeline
from compressor.pipeline.calibration import calibrated
from compressor.recipe import UniformConfig, parse_recipe
from compressor.search import Problem, search


@pytest.fixture(scope="module")
def mlp():
    return reference_architecture("mlp", {}, 10, (1, 8, 8))


def rough(architecture):
    """A file of 4.5 bytes a parameter with steps of 40 bytes, and an odd term."""
    widths = list(architecture.widths.values())
    return int(4.5 * params_macs.params(architecture)) // 40 * 40 + 1000 + 37 * (sum(widths) % 7)


def solve(mlp, limit, measure):
    """Uniform scaling within a file size: the result, and the networks that were measured."""
    measured = []

    def counting(architecture):
        measured.append(architecture)
        return measure(architecture)

    size = FileSize(counting)
    problem = Problem(mlp, Budget({"onnx_bytes": limit}), {**params_macs.COSTS, "onnx_bytes": size}, None)
    return calibrated(search, problem, UniformConfig()), measured


@pytest.mark.parametrize("limit", [5_000, 12_345, 99_999, 400_000, 2_000_000])
def test_the_result_is_within_the_limit_by_its_true_size(mlp, limit):
    found, measured = solve(mlp, limit, rough)
    assert rough(found.architecture) <= limit
    assert found.architecture in measured
    assert len(measured) == len(set(map(repr, measured))) <= 12
    assert limit - rough(found.architecture) < 2 * found.one_channel["onnx_bytes"] + 37 * 6 + 40


def test_a_true_estimate_is_found_at_once(mlp):
    found, measured = solve(mlp, 50_000, lambda architecture: 4 * params_macs.params(architecture) + 1234)
    assert len(measured) <= 3
    assert 0 <= 50_000 - 4 * params_macs.params(found.architecture) - 1234 < found.one_channel["onnx_bytes"]


def test_a_size_that_no_network_has_is_refused(mlp):
    least = rough(mlp.with_widths(dict.fromkeys(mlp.widths, 1)))
    with pytest.raises(
        BudgetError, match=rf"onnx_bytes: {least - 1:,} cannot be met: .* still costs {least:,}, the sm"
    ):
        solve(mlp, least - 1, rough)
    assert rough(solve(mlp, least, rough)[0].architecture) == least


@pytest.mark.parametrize(("name", "shape"), [("mlp", (1, 8, 8)), ("resnet20", (3, 8, 8))])
def test_an_untrained_file_is_as_large_as_a_trained_one(name, shape, tmp_path):
    architecture = reference_architecture(name, {}, 10, shape, 0.3)
    model = build(architecture, 3)
    with torch.no_grad():
        for number, tensor in enumerate((*model.parameters(), *model.buffers())):
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(number)))
    path = tmp_path / "trained.onnx"
    images = torch.randn(example_input(architecture, 3).shape, generator=torch.Generator().manual_seed(0))
    export_onnx(model, path, [images], tolerance=1.0)
    write_metadata(path, {"note": "x" * 300})
    assert exported_bytes(architecture, 20, {"note": "y" * 300}) == path.stat().st_size


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
