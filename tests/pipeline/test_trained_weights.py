"""Runs that begin with trained weights: which networks keep them, and how they are trained on."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compressor.errors import ModelError, RecipeError, RunError
from compressor.models import build, reference_architecture
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe
from tests.support.small import refusal, small_recipe

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")

BOTH = ["uniform", "reference"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The mlp of the small recipe, trained, as a training script leaves it."""
    out = tmp_path_factory.mktemp("trained")
    train = {"epochs": 4, "batch_size": 16, "lr": 0.05}
    run(parse_recipe(small_recipe(budget={"params": "1x"}, train=train)), out / "run", until="train")
    model = build(reference_architecture("mlp", {}, 10, (1, 8, 8), 0.1))
    model.load_state_dict(load_file(out / "run" / "weights.safetensors"))
    torch.save({"model": nn.DataParallel(model).state_dict()}, out / "mine.pt")
    return out / "mine.pt"


def recipe(weights, **sections):
    model = {"name": "mlp", "width": 0.1, "weights": str(weights)}
    return parse_recipe(small_recipe(**({"model": model, "baselines": BOTH} | sections)))


def begins(out):
    return json.loads((out / "search.json").read_text())["begins"]


def test_the_reference_is_evaluated_as_given_and_the_result_keeps_its_best_channels(weights, tmp_path):
    report = run(recipe(weights, finetune={"epochs": 2, "lr": 0.01}), tmp_path / "run")
    assert begins(tmp_path / "run") == {"uniform": "kept", "reference": "given", "result": "kept"}
    reference = report["baseline"]["reference"]
    assert reference["training"] == []
    trained = torch.load(weights, weights_only=True)["model"]
    kept = load_file(tmp_path / "run" / "baselines" / "reference" / "weights.safetensors")
    assert all(torch.equal(kept[name], trained[f"module.{name}"]) for name in kept)
    assert [len(report["training"]), len(report["baseline"]["uniform"]["training"])] == [2, 2]
    assert report["training"][0]["lr"] < 0.011
    assert report["budget"]["met"]
    assert any("mine.pt" in remark and "taylor" in remark for remark in report["remarks"])


@pytest.mark.parametrize("ranking", ["taylor", "l1", "l2", "random"])
def test_channels_are_kept_whole(weights, tmp_path, ranking):
    run(
        recipe(weights, search={"method": "uniform", "ranking": ranking}, finetune={"epochs": 0}, baselines=[]),
        tmp_path / "run",
        until="train",
    )
    cut = load_file(tmp_path / "run" / "weights.safetensors")
    assert (tmp_path / "run" / "start.safetensors").read_bytes() == (
        tmp_path / "run" / "weights.safetensors"
    ).read_bytes()
    trained = {key.removeprefix("module."): value for key, value in torch.load(weights)["model"].items()}
    first = next(name for name in cut if cut[name].shape[1:] == (64,))  # which reads all pixels
    rows = [row for row in cut[first] if not any(torch.equal(row, own) for own in trained[first])]
    assert not rows
    assert len(cut[first]) < len(trained[first])


def test_fresh_weights_where_they_are_asked_for(weights, tmp_path):
    search = {"method": "uniform", "weights": "fresh"}
    run(recipe(weights, search=search, train={"epochs": 1, "reference": "fresh"}), tmp_path / "run", until="train")
    assert begins(tmp_path / "run") == dict.fromkeys((*BOTH, "result"), "fresh")
    report = run(recipe("fresh", search=search), tmp_path / "other")
    assert report["remarks"] == []


def test_methods_that_change_layers_begin_fresh_and_say_so(weights, tmp_path):
    search = {"method": "growing"}
    model = {"name": "vgg11_bn", "width": 0.05, "weights": "weights.pt"}
    assert "search.weights" in refusal(small_recipe(model=model, search={"method": "growing", "weights": "kept"}))
    said = refusal(small_recipe(model=model, search={"method": "tissuenet", "weights": "kept"}))
    assert "search.weights: kept, but search.method: tissuenet keeps no trained weights; valid: auto, fresh" in said
    report = run(recipe(weights, search=search), tmp_path / "run")
    assert begins(tmp_path / "run") == {"uniform": "fresh", "reference": "given", "result": "found"}
    assert report["baseline"]["uniform"]["training"]


def test_a_run_that_was_killed_goes_on_to_the_same_weights(weights, tmp_path):
    given = recipe(weights)
    run(given, tmp_path / "whole", until="train")
    run(given, tmp_path / "cut", until="search")
    for name in ("architecture.json", "baselines/uniform/start.safetensors"):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(tmp_path / "cut", folder)
        (folder / name).unlink()
        run(given, folder, resume=True, until="train")
        for place in ("", *(f"baselines/{name}/" for name in BOTH)):
            one, two = (root / f"{place}weights.safetensors" for root in (tmp_path / "whole", folder))
            assert one.read_bytes() == two.read_bytes(), place


def test_other_weights_of_the_same_name_are_another_run(weights, tmp_path):
    mine = tmp_path / "mine.pt"
    shutil.copy(weights, mine)
    run(recipe(mine, baselines=[]), tmp_path / "run", until="search")
    torch.save({key: value + 1 for key, value in torch.load(weights)["model"].items()}, mine)
    with pytest.raises(RunError, match=r"model\.weights_sha256 differs"):
        run(recipe(mine, baselines=[]), tmp_path / "run", resume=True)


def test_what_cannot_be_is_refused(weights, tmp_path):
    with pytest.raises(ModelError, match=r"model\.weights: absent\.pt: file not found"):
        run(recipe("absent.pt"), tmp_path / "absent")
    with pytest.raises(RecipeError, match=r"search\.weights: kept, but model\.weights: auto of mlp gives no trained"):
        run(recipe("auto", search={"method": "uniform", "weights": "kept"}), tmp_path / "none")
    for model, message in (
        ({"name": "mlp", "weights": "net.onnx"}, "must be auto, given, fresh, torchvision, or a file"),
        ({"name": "mlp", "weights": "given"}, "which comes without; valid: fresh, or a file"),
        ({"name": "mlp", "weights": "torchvision"}, "weights: torchvision is not for mlp"),
        ({"name": "torchvision:resnet18", "width": 0.5, "weights": "given"}, "valid: 1"),
    ):
        assert message in refusal(small_recipe(model=model))


def test_weights_of_torchvision_come_from_its_cache_only(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = {"name": "torchvision:squeezenet1_1", "weights": "torchvision"}
    data = {"name": "digits", "image_size": 32, "channels": 3, "limit": 40}
    given = parse_recipe(small_recipe(model=model, data=data))
    with pytest.raises(ModelError, match=r"checkpoints/squeezenet1_1-\w+\.pth: file not found; fetch https://"):
        run(given, tmp_path / "absent", until="search")
    with pytest.raises(ModelError, match="torchvision:'IMAGENET1K_V9' is not one of"):
        run(
            given.model_copy(update={"model": given.model.model_copy(update={"weights": "torchvision:IMAGENET1K_V9"})}),
            tmp_path / "unknown",
            until="search",
        )
    import torchvision

    torch.manual_seed(0)
    published = torchvision.models.squeezenet1_1(num_classes=1000)
    (tmp_path / "checkpoints").mkdir()
    torch.save(published.state_dict(), tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    run(given, tmp_path / "run", until="search")
    assert begins(tmp_path / "run")["result"] == "kept"
    remarks = json.loads((tmp_path / "run" / "search.json").read_text())["remarks"]
    assert any("classifier.1.weight" in remark and "is fine-tuned, too" in remark for remark in remarks)
