"""Further formats beside the ONNX file."""

import pytest
import torch
from small import small_recipe
from torch import nn

from compressor.errors import ExportError, RecipeError
from compressor.exporters import also, export_also
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4)).eval()


def test_torch_export_gives_the_same_outputs_for_any_batch(model, tmp_path):
    record = export_also(["torch_export"], model, torch.rand(2, 1, 8, 8), tmp_path, {"note": "x"})
    path = tmp_path / record["torch_export"]["file"]
    assert record["torch_export"]["bytes"] == path.stat().st_size
    loaded = torch.export.load(path).module()
    for count in (1, 2, 7):
        images = torch.rand(count, 1, 8, 8)
        assert torch.allclose(loaded(images), model(images), atol=1e-5)


def broken(model, example, folder, metadata):
    (folder / "half").write_text("x")
    raise RuntimeError("no\nspace")


def nowhere(model, example, folder, metadata):
    return folder.parent / "elsewhere"


@pytest.mark.parametrize(("exporter", "told"), [(broken, "failed: RuntimeError: no space"), (nowhere, "no file")])
def test_a_failing_exporter_is_named_and_leaves_nothing(model, tmp_path, monkeypatch, exporter, told):
    monkeypatch.setitem(also.BUILT_IN, "theirs", exporter)
    with pytest.raises(ExportError, match=rf"export\.also: theirs .*{told}"):
        export_also(["theirs"], model, torch.rand(2, 1, 8, 8), tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_refused_before_anything_runs(tmp_path):
    recipe = parse_recipe(
        {
            "model": "mlp",
            "data": "digits",
            "budget": {"params": "0.5x"},
            "search": {"method": "uniform"},
            "export": {"also": ["torch_exprt"]},
        }
    )
    with pytest.raises(RecipeError, match=r"export\.also: 'torch_exprt' is not one of .*did you mean torch_export"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "search.json").exists()


def test_a_run_has_it_in_its_folder(tmp_path):
    recipe = parse_recipe(small_recipe(export={"also": ["torch_export"]}, device=None))
    run(recipe, tmp_path / "run", until="export")
    images = torch.rand(3, 1, 8, 8)
    assert torch.export.load(tmp_path / "run" / "exports" / "torch_export" / "model.pt2").module()(images).shape == (
        3,
        10,
    )
