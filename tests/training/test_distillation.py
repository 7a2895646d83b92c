"""Distillation: the loss is that of the paper, for every task, and a run trains with the teacher that it names."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compressor.data import IGNORED
from compressor.errors import ModelError, RecipeError, RunError, TrainingError
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe
from compressor.training.distillation import Teacher
from compressor.training.tasks import TASKS
from compressor.training.trainer import Settings, Trainer
from tests.support.small import refusal, small_recipe

SHAPES = {"classification": ((6, 5), (6,)), "segmentation": ((2, 5, 3, 4), (2, 3, 4)), "language": ((2, 7, 5), (2, 7))}


def drawn(task):
    generator = torch.Generator().manual_seed(3)
    shape, targets = SHAPES[task]
    student, taught = (torch.randn(shape, generator=generator) for _ in range(2))
    return student, taught, torch.randint(5, targets, generator=generator)


@pytest.mark.parametrize("name", SHAPES)
def test_the_loss_is_that_of_the_paper(name):
    task, (student, taught, y) = TASKS[name], drawn(name)
    y.view(-1)[0] = IGNORED
    rows = [one if name == "language" else one.movedim(1, -1) for one in (student, taught)]
    rows = [one.reshape(-1, 5)[1:] for one in rows]  # the first target does not count
    p, q = (torch.softmax(one / 3.0, 1) for one in (rows[1], rows[0]))
    soft = (p * (p.log() - q.log())).sum(1).mean()
    expected = 0.25 * task.loss(student, y, 0.1) + 0.75 * 9.0 * soft
    teacher = Teacher(nn.Identity(), temperature=3.0, weight=0.75)
    torch.testing.assert_close(teacher.loss(task, student, teacher.outputs(taught), y, 0.1), expected)


def test_a_network_that_agrees_with_its_teacher_has_nothing_to_learn_from_it():
    student, _, y = drawn("classification")
    student.requires_grad_()
    teacher = Teacher(nn.Identity(), temperature=4.0, weight=1.0)
    loss = teacher.loss(TASKS["classification"], student, student.detach(), y)
    loss.backward()
    assert abs(float(loss.detach())) < 1e-6
    assert float(student.grad.abs().max()) < 1e-6


def test_auxiliary_heads_learn_from_the_labels():
    student, taught, y = drawn("segmentation")
    task, teacher = TASKS["segmentation"], Teacher(nn.Identity(), 2.0, 0.5)
    alone, both = teacher.loss(task, student, taught, y), teacher.loss(task, (student, taught), taught, y)
    torch.testing.assert_close(both - alone, 0.5 * 0.3 * task.loss(taught, y))


def convolutions(channels, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


def test_attention_compares_where_networks_of_any_width_look():
    student, teacher = convolutions(5), convolutions(13, 1)
    watched = Teacher(teacher, 1.0, 0.5, layers=("1",), attention=2.0).watching(student)
    x = torch.rand(3, 1, 6, 6)
    with torch.inference_mode():
        student(x)  # as it is evaluated in between
    maps = [student[:2](x)]
    watched._seen.clear()
    student(x)
    with torch.no_grad():
        teacher(x)
        maps.append(torch.relu(teacher[0](x)))
    q = [one.square().sum(1).flatten(1) for one in maps]
    q = [one / one.norm(dim=1, keepdim=True) for one in q]
    loss = watched.loss()
    torch.testing.assert_close(loss, (q[0] - q[1]).square().sum(1).mean())
    loss.backward()
    assert float(student[0].weight.grad.abs().sum()) > 0
    watched.close()
    assert not student[1]._forward_hooks


@pytest.mark.parametrize(
    ("layers", "message"),
    [(("9",), "the student has no layer '9'"), (("3",), r"3 gives \(2, 20\) and \(2, 52\).*not maps of one size")],
)
def test_layers_that_give_no_maps_are_refused(layers, message):
    student, teacher = convolutions(5), convolutions(13)

    def compared():
        watched = Teacher(teacher, 1.0, 0.5, layers=layers).watching(student)
        student(torch.rand(2, 1, 6, 6))
        with torch.no_grad():
            teacher(torch.rand(2, 1, 6, 6))
        return watched.loss()

    with pytest.raises(TrainingError, match=message):
        compared()


def test_training_with_attention_differs_and_leaves_no_hooks(digits):
    data, found = digits(), []
    how = Settings(1, 32, lambda step, per_epoch: 0.1, momentum=0.9, weight_decay=0.0)
    for layers in ((), ("0.1",)):
        model = nn.Sequential(convolutions(5), nn.Linear(20, 10))
        teacher = nn.Sequential(convolutions(13, 1), nn.Linear(52, 10)).eval()
        trainer = Trainer(data, torch.device("cpu"), teacher=Teacher(teacher, 4.0, 0.5, layers, 100.0))
        trainer.fit(model, how, seed=0)
        assert not any(module._forward_hooks for module in (*model.modules(), *teacher.modules()))
        found.append(model[0][0].weight.detach().clone())
    assert not torch.equal(*found)


def recipe(distill, **sections):
    train = {"epochs": 2, "batch_size": 16, "distill": distill}
    return parse_recipe(small_recipe(**({"train": train, "baselines": ["reference", "undistilled"]} | sections)))


@pytest.mark.usefixtures("quick_export", "no_figures")
def test_a_run_distils_what_it_found_from_the_network_it_came_with(tmp_path):
    report = run(recipe({}), tmp_path / "run")
    folders = {name: tmp_path / "run" / "baselines" / name for name in ("reference", "undistilled")}
    taught, plain = (load_file(path / "weights.safetensors") for path in (tmp_path / "run", folders["undistilled"]))
    assert taught.keys() == plain.keys()
    assert not all(torch.equal(taught[name], plain[name]) for name in taught)
    assert set(report["baseline"]) == {"reference", "undistilled"}
    assert report["baseline"]["undistilled"]["params"] == report["params"]
    # without distillation the same network and the same reference come out
    run(recipe(None, baselines=["reference"]), tmp_path / "plain", until="train")
    for other, own in (("weights.safetensors", plain), ("baselines/reference/weights.safetensors", None)):
        own = own or load_file(folders["reference"] / "weights.safetensors")
        found = load_file(tmp_path / "plain" / other)
        assert all(torch.equal(found[name], value) for name, value in own.items())
    # a file of the same weights teaches the same
    weights = str(folders["reference"] / "weights.safetensors")
    run(recipe({"teacher": weights}, baselines=[]), tmp_path / "file", until="train")
    found = load_file(tmp_path / "file" / "weights.safetensors")
    assert all(torch.equal(found[name], value) for name, value in taught.items())
    # another one may not take its place in the middle
    save_file(plain, weights)
    with pytest.raises(RunError, match=r"train\.teacher_sha256 differs from what the train stage of this run used"):
        run(recipe({"teacher": weights}, baselines=[]), tmp_path / "file", resume=True)


@pytest.mark.usefixtures("quick_export", "no_figures")
def test_the_teacher_may_be_the_weights_that_are_given(tmp_path):
    run(recipe(None, baselines=[], budget={"params": "1x"}), tmp_path / "first", until="train")
    model = {"name": "mlp", "width": 0.1, "weights": str(tmp_path / "first" / "weights.safetensors")}
    report = run(recipe({"weight": 1.0}, model=model, baselines=["undistilled"]), tmp_path / "run")
    begins = json.loads((tmp_path / "run" / "search.json").read_text())["begins"]
    assert begins == {"result": "kept", "undistilled": "kept"}
    assert len(report["training"]) == 2


def test_what_cannot_teach_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"train\.distill\.teacher: reference, but the unscaled network has no"):
        run(recipe({}, baselines=["uniform"]), tmp_path / "none")
    data = {"name": "digits", "image_size": 32, "channels": 3, "limit": 40}
    with pytest.raises(ModelError, match="comes without trained weights, so it cannot teach"):
        run(recipe({"teacher": "torchvision:squeezenet1_1"}, data=data, baselines=[]), tmp_path / "fresh")
    with pytest.raises(ModelError, match=r"absent\.pt: file not found"):
        run(recipe({"teacher": "absent.pt"}, baselines=[]), tmp_path / "absent")
    grown = small_recipe(search={"method": "growing"}, train={"epochs": 2, "distill": {}})
    assert "train.distill is not for search.method: growing, which trains while it searches" in refusal(grown)
    assert "baselines: undistilled, but train.distill is null" in refusal(small_recipe(baselines=["undistilled"]))
