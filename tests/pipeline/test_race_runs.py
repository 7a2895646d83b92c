"""Whole runs of the race between methods, one of which trains while it searches."""

import json

import pytest
from run_pairs import after, same
from small import small_recipe

from compressor.errors import RecipeError, RunError
from compressor.pipeline.runner import Stopped, run
from compressor.recipe import parse_recipe

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")  # which have tests of their own


def recipe(*overrides):
    raw = small_recipe(
        model={"name": "resnet20", "width": 0.5},
        data={"name": "digits", "image_size": 8, "limit": 200},
        budget={"params": "0.3x"},
        search={"method": "auto", "candidates": ["uniform", "growing"]},
        train={"epochs": 3, "batch_size": 32},
        bench={"provider": "cpu", "batch": 2, "runs": 5, "warmup": 1, "threads": 1},
        baselines=["uniform"],
    )
    return parse_recipe(raw, overrides, "test")


def in_file(out, name):
    return json.loads((out / name).read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    run(recipe(), out, until="train")
    return out


def test_both_are_trained_in_full_once_and_the_better_ships(whole):
    race = in_file(whole, "search.json")["trace"]["race"]
    (only,) = race["rounds"]
    assert only["epochs"] == 3
    assert set(only["scores"]) == {"uniform", "growing"}
    assert only["scores"][race["chosen"]] == max(only["scores"].values())
    history = in_file(whole, "training.json")
    assert len(history) == 3
    assert history[-1]["validation_metric"] == only["scores"][race["chosen"]]


@pytest.mark.parametrize("model", ["resnet20", "preact_resnet18"])
def test_the_network_that_the_race_trained_is_not_trained_again(tmp_path, model):
    """Pre-activation networks train in another memory format where their widths may fall."""
    network, trained = f"model={{name: {model}, width: 0.125}}", []
    report = run(
        recipe(network, "search.candidates=[uniform,random]", "search.share=1.0"),
        tmp_path / "run",
        progress=lambda stage, text, share: trained.append(text) if stage == "train" else None,
    )
    searched = in_file(tmp_path / "run", "search.json")
    assert searched["begins"]["result"] == "trained"
    assert not [text for text in trained if "result" in text]
    assert len(report["training"]) == 3
    assert report["budget"]["met"]
    chosen = searched["trace"]["race"]["chosen"]
    run(recipe(network, f"search={{method: {chosen}}}"), tmp_path / "plain", until="train")
    assert same(tmp_path / "run", tmp_path / "plain")


def test_what_was_cut_and_fine_tuned_is_no_uniform_baseline(tmp_path):
    """`l1` cuts a trained network to the very widths of uniform scaling, which is trained from scratch."""
    out = tmp_path / "run"
    run(recipe("search.candidates=[l1]", "finetune.epochs=1"), out, until="train")
    assert in_file(out, "search.json")["begins"] == {"result": "found", "uniform": "fresh"}
    assert len(in_file(out, "training.json")) == 1
    assert not same(out, out / "baselines" / "uniform")


def test_a_race_is_not_resumed_with_another_judge(tmp_path):
    out = tmp_path / "run"
    run(recipe(), out, until="search")
    with pytest.raises(RunError, match="evaluate differs"):
        run(recipe("evaluate=math:sqrt"), out, until="search", resume=True)


@pytest.mark.parametrize("steps", [4, 13, 18, 27])
def test_paused_anywhere_and_resumed_it_ends_with_the_same_weights(whole, tmp_path, steps):
    with pytest.raises(Stopped):
        run(recipe(), tmp_path / "run", until="train", pause=after(steps))
    run(recipe(), tmp_path / "run", until="train", resume=True)
    assert same(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.distill={}"], "train.distill is not for search.candidates: growing, which trains while it searches"),
        (["train.keep=best"], "train.keep: best is not for search.candidates: growing"),
        (["train.optimizer=adamw", "train.lr=0.001"], "train.optimizer: adamw is not for search.candidates: growing"),
        (["search.weights=kept"], "search.weights: kept, but search.candidates: growing keeps no trained weights"),
        (["train.function=math:sqrt"], "train.function is not for search.candidates: growing; valid: auto, l1, "),
    ],
)
def test_a_recipe_that_one_candidate_cannot_follow_is_refused(overrides, told):
    with pytest.raises(RecipeError, match=told):
        recipe(*overrides)
