"""The parameters of the Olive pass become recipes; needs no olive."""

import pytest

from compressor.errors import RecipeError
from compressor.integrations.olive.parameters import check_points, inputs_of, recipe_of

GOOD = {"budget": {"params": "0.5x"}, "method": "uniform", "data": "digits"}


def test_parameters_win_over_the_recipe_they_are_given_with():
    recipe = {
        "budget": {"macs": "0.1x"},
        "search": {"method": "l1"},
        "data": "cifar10",
        "train": {"epochs": 9, "lr": 1},
    }
    made = recipe_of(GOOD | {"recipe": recipe, "epochs": 2}, "given:net")
    assert made.budget.names == ("params",)
    assert (made.search.method, made.data.name, made.train.epochs, made.train.lr) == ("uniform", "digits", 2, 1)
    assert made.model.name == "given:net"
    assert made.model.weights == "given"
    assert made.baselines == ()


@pytest.mark.parametrize(
    ("budget", "limits"),
    [("0.25x", {"params": "0.25x"}), ("params=15k+macs=0.5x", {"params": 15_000, "macs": "0.5x"})],
)
def test_a_budget_may_be_one_word(budget, limits):
    made = recipe_of(GOOD | {"budget": budget}, "given:net")
    assert {name: getattr(made.budget, name) for name in made.budget.names} == limits


def test_a_method_may_have_options():
    assert recipe_of(GOOD | {"method": "neuralscale:iterations=3"}, "given:net").search.iterations == 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"budgt": 3}, "unknown parameter: 'budgt' .*did you mean budget"),
        ({"budget": "half"}, "'half' is not valid"),
        ({"budget": {"parms": 3}}, "budget.parms: unknown key"),
        ({"budget": None}, "budget: missing"),
        ({"method": "unifrm"}, "did you mean uniform"),
        ({"missed": "warn"}, "missed: 'warn' is not one of fail, prune"),
        ({"weights": "some"}, "model.weights"),
    ],
)
def test_what_is_wrong_is_said(wrong, told):
    with pytest.raises(RecipeError, match=told):
        recipe_of(GOOD | wrong, "given:net")


def test_every_point_of_a_search_is_checked():
    check_points(GOOD, {"budget": ["0.25x", "0.5x"], "method": ["uniform", "l1"]})
    with pytest.raises(RecipeError, match="did you mean uniform"):
        check_points(GOOD, {"budget": ["0.25x", "0.5x"], "method": ["l1", "unifrm"]})


@pytest.mark.parametrize("change", ["recipe", "image", "new image", "linked image", "code", "helper", "teacher"])
def test_what_is_only_named_counts_for_the_cache_of_olive(tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    images, recipe, code = tmp_path / "images" / "train" / "cat", tmp_path / "some.yaml", tmp_path / "judge.py"
    images.mkdir(parents=True)
    (images / "one.png").write_bytes(b"an image")
    recipe.write_text(
        "{model: {name: lenet5}, budget: {params: 0.5x}, data: digits, search: {method: uniform}, train: {epochs: 2}}"
    )
    code.write_text("def score(model, data, device): return 1.0\n")
    helper, teacher, linked = tmp_path / "helper.py", tmp_path / "teacher.onnx", tmp_path / "elsewhere" / "three.png"
    helper.write_text("WEIGHT = 1.0\n")
    teacher.write_bytes(b"a file")
    linked.parent.mkdir()
    linked.write_bytes(b"an image")
    (images.parent / "dog").symlink_to(linked.parent)
    (images / ".#one.png").symlink_to("nowhere")
    data = {"name": "imagefolder", "path": "images"}
    overrides = ["evaluate=judge:score", "train.distill={teacher: onnx:teacher.onnx}"]
    given = GOOD | {"data": data, "recipe": str(recipe), "overrides": overrides}
    before = inputs_of(given)
    assert inputs_of(given) == before
    if change == "recipe":
        recipe.write_text(recipe.read_text().replace("epochs: 2", "epochs: 3"))
    elif change == "image":
        (images / "one.png").write_bytes(b"another image")
    elif change == "new image":
        (images / "two.png").write_bytes(b"an image")
    elif change == "linked image":
        linked.write_bytes(b"another image")
    elif change == "helper":
        helper.write_text("WEIGHT = 2.0\n")
    elif change == "teacher":
        teacher.write_bytes(b"another file")
    else:
        code.write_text("def score(model, data, device): return 2.0\n")
    assert inputs_of(given) != before
