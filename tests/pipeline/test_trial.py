"""Whether a network can ship is known before it is trained."""

import dataclasses
import json

import pytest
import torch
from small import small_recipe
from torch import nn

from compressor.bench import BenchError
from compressor.errors import BudgetError, ExportError
from compressor.models import offer
from compressor.pipeline import trial
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe
from compressor.recipe.precision import precisions


class Net(nn.Module):
    def __init__(self, forward=lambda x: x):
        super().__init__()
        self.change = forward
        self.a, self.b, self.fc = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.b(self.a(self.change(x)).relu()).relu().mean((2, 3)))


class Deciding(Net):
    """Its forward depends on a value, which the exporter refuses."""

    def forward(self, x):
        logits = super().forward(x)
        return logits * 2 if logits.is_meta or logits.mean() > 100 else logits


def recipe_of(network, **sections):
    return parse_recipe(small_recipe(model={"name": offer("tried", network), "weights": "fresh"}, **sections))


@pytest.mark.parametrize("method", ["uniform", "neuralscale"])
def test_what_cannot_ship_is_refused_before_it_is_trained(tmp_path, method):
    with pytest.raises(ExportError, match=r"^model\.name: given:tried cannot ship, tried with the unscaled network: "):
        run(recipe_of(Deciding(), search={"method": method}), tmp_path / "out")
    assert not (tmp_path / "out" / "weights.safetensors").exists()
    assert not (tmp_path / "out" / "search.json").exists()


def test_a_form_that_the_file_cannot_have_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    def refuse(source, target, scheme, samples):
        raise ExportError("export.precision: fp16: cannot convert")

    monkeypatch.setitem(precisions(), "fp16", dataclasses.replace(precisions()["fp16"], convert=refuse))
    with pytest.raises(ExportError, match=r"cannot ship, .* cannot convert"):
        run(recipe_of(Net(), export={"precision": "fp16"}), tmp_path / "out")
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_a_form_that_is_changed_after_the_search_is_tried_before_training(tmp_path, monkeypatch):
    network = Net()
    run(recipe_of(network), tmp_path / "out", until="search")

    def refuse(source, target, scheme, samples):
        raise ExportError("export.precision: fp16: cannot convert")

    monkeypatch.setitem(precisions(), "fp16", dataclasses.replace(precisions()["fp16"], convert=refuse))
    with pytest.raises(ExportError, match=r"tried with the found network: .* cannot convert"):
        run(recipe_of(network, export={"precision": "fp16"}), tmp_path / "out", resume=True)
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_schemes_whose_files_do_not_open_are_passed_over(tmp_path, monkeypatch):
    opened = []

    def refuse_first(path, **given):
        opened.append(path)
        if len(opened) < 3:
            raise BenchError("cannot be opened")

    monkeypatch.setattr(trial, "open_session", refuse_first)
    run(recipe_of(Net(), export={"precision": "int8"}), tmp_path / "out", until="search")
    assert len(opened) == 4  # three of the unscaled network, one of the least


class Squeezing(Net):
    """Of one image it forgets that it is a batch."""

    def forward(self, x):
        return super().forward(x)[:, :, None].squeeze()


class Doubling(Net):
    """It computes something else of one image."""

    def forward(self, x):
        logits = super().forward(x)
        return logits * 2 if len(x) == 1 else logits


@pytest.mark.parametrize(
    ("network", "cause"),
    [(Squeezing, "for a batch of 1 ONNX Runtime gives shape"), (Doubling, "a batch of 2 and no other|differ by")],
)
def test_a_network_that_takes_one_image_for_something_else_is_refused_before_it_is_trained(tmp_path, network, cause):
    with pytest.raises(ExportError, match=f"cannot ship, .*({cause})"):
        run(recipe_of(network()), tmp_path / "out")
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_a_network_that_changes_its_input_ships_as_it_computes(tmp_path):
    found = run(recipe_of(Net(lambda x: x.sub_(0.5).div_(2.0))), tmp_path / "out")
    assert found["parity"]["max_rel_error"] < 1e-4


def test_a_trial_is_made_once_a_run(tmp_path, monkeypatch, traced_export):
    tried = []
    monkeypatch.setattr(trial, "_tried", lambda *given: tried.append(given[0]))
    recipe = recipe_of(Net())
    run(recipe, tmp_path / "out", until="search")
    assert [json.loads(architecture)["widths"] for architecture in tried] == [{"a": 8, "b": 8}, {"a": 1, "b": 1}]
    run(recipe, tmp_path / "out", until="train", resume=True)
    assert len(tried) == 2


def test_remarks_are_in_the_record_the_page_and_the_terminal(tmp_path, traced_export, no_figures):
    from compressor.report import summary_lines

    found = run(recipe_of(nn.DataParallel(Net())), tmp_path / "out")
    (taken,) = found["remarks"]
    assert taken == "given:tried is taken out of DataParallel"
    assert taken in (tmp_path / "out" / "report.html").read_text()
    assert taken in summary_lines(found)
    assert torch.isfinite(torch.tensor(found["accuracy"]["onnx"]))


def test_another_network_in_the_folder_is_tried_again(tmp_path):
    """A run that failed before it left anything may be begun anew with another recipe."""
    with pytest.raises(BudgetError):
        run(recipe_of(Net(), budget={"params": 3}), tmp_path / "out")
    with pytest.raises(ExportError, match="cannot ship"):
        run(recipe_of(Deciding()), tmp_path / "out")
