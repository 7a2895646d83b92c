"""Training by a function of the user's: methods that prune while a network trains take part in it."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.data.torch_data import _Hidden
from compressor.errors import RecipeError, RunError, TrainingError
from compressor.models import build, graph_of, reference_architecture
from compressor.pipeline import run_folder
from compressor.pipeline.runner import run
from compressor.recipe import NeuralScaleConfig, TaylorConfig, UniformConfig, parse_recipe
from compressor.report.values import Metric
from compressor.search import Problem
from compressor.search import search as run_search
from compressor.search.importance import importance_of
from compressor.training.own_metric import SHARES, OwnMetric
from compressor.training.own_trainer import OwnTrainer
from compressor.training.trainer import Paused, Settings
from compressor.user_functions import call
from tests.support.small import refusal, small_recipe

CPU = torch.device("cpu")
REFERENCE = reference_architecture("mlp", {}, 10, (1, 8, 8), 0.1)


class Theirs:
    """A training loop of someone else's: AdamW, clipping, a validation pass in between."""

    def __init__(self, lr=0.01):
        self.lr, self.calls, self.seen = lr, [], []

    def __call__(self, model, data, epochs, device, on_step):
        self.calls.append(epochs)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.lr)
        images, labels = data.train.samples(torch.arange(128))
        images = data.normalise(images)
        for _ in range(epochs):
            model.train()
            for chosen in torch.randperm(128).split(16):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                on_step(loss)
            model.eval()
            self.seen.append(float(nn.functional.cross_entropy(model(images), labels).detach()))


def trainer_of(function, digits, **more):
    data = digits()
    return OwnTrainer(data, CPU, function=function, given=data, source="train.function: theirs", **more)


def settings(epochs):
    return Settings(epochs=epochs, batch_size=8, lr_at=lambda step, per_epoch: 0.1, momentum=0.9, weight_decay=0.0)


def test_it_trains_for_so_many_epochs_and_is_judged_as_any_network(digits):
    theirs = Theirs()
    trainer = trainer_of(theirs, digits)
    model = build(REFERENCE)
    (record,) = trainer.fit(model, settings(3), seed=1)
    assert theirs.calls == [3]
    assert theirs.seen[-1] < theirs.seen[0]
    assert record.loss > 0
    assert record.lr == 0.01
    measured = trainer.evaluate(model, trainer.data.validation)
    assert record.validation_accuracy == measured.accuracy > 0.2
    again = build(REFERENCE)
    trainer_of(Theirs(), digits).fit(again, settings(3), seed=1)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    "config",
    [
        UniformConfig(),
        TaylorConfig(prune_epochs=3, prune_every=4),
        NeuralScaleConfig(iterations=1, pretrain_epochs=1, prune_every=1, prune_channels=8),
    ],
    ids=lambda config: config.method,
)
def test_methods_take_part_in_it(digits, tmp_path, config):
    limits = {"params": 0.3 * params_macs.params(REFERENCE)}
    given = {name: tensor.clone() for name, tensor in build(REFERENCE, 3).state_dict().items()}
    theirs = Theirs()
    problem = Problem(
        REFERENCE,
        Budget(limits),
        params_macs.COSTS,
        trainer_of(theirs, digits),
        0,
        tmp_path,
        final=settings(1),
        given=given,
    )
    found = run_search(problem, config)
    assert params_macs.params(found.architecture) <= limits["params"]
    if config.method == "taylor":  # 8 steps an epoch
        assert len(found.trace["events"]) == 3 * 8 // 4 - 1
        build(found.architecture).load_state_dict(found.weights)
        calls = len(theirs.calls)
        again = run_search(problem, config)
        assert len(theirs.calls) == calls  # what has ended is not repeated
        assert all(torch.equal(again.weights[name], value) for name, value in found.weights.items())


@pytest.mark.parametrize("kind", ["Adafactor", "NAdam", "RMSprop", "Adagrad"])
def test_optimizers_of_any_kind_follow_what_is_pruned(digits, kind):
    def theirs(model, data, epochs, device, on_step):
        optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01)
        images, labels = data.train.samples(torch.arange(64))
        for _ in range(6 * epochs):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.normalise(images)), labels).backward()
            optimizer.step()

    limits = {"params": 0.3 * params_macs.params(REFERENCE)}
    problem = Problem(REFERENCE, Budget(limits), params_macs.COSTS, trainer_of(theirs, digits), final=settings(1))
    found = run_search(problem, TaylorConfig(prune_epochs=2, prune_every=2))
    assert params_macs.params(found.architecture) <= limits["params"]


def test_channels_are_ranked_on_its_gradients(digits):
    model, graph = build(REFERENCE, 3), graph_of(REFERENCE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    problem = Problem(REFERENCE, Budget({"params": 1}), params_macs.COSTS, trainer_of(Theirs(), digits))
    found = importance_of("taylor", model, graph, list(graph.groups), problem)
    assert all(bool((values >= 0).all()) and float(values.sum()) > 0 for values in found.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_pausing_ends_it_within_a_step(digits):
    theirs = Theirs()
    with pytest.raises(Paused):
        trainer_of(theirs, digits, pause=lambda epochs: True).fit(build(REFERENCE), settings(2), seed=0)
    assert theirs.seen == []


def two_optimizers(model, data, epochs, device, on_step):
    for parameters in (list(model.parameters())[:2], list(model.parameters())[2:]):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        model(torch.rand(4, 1, 8, 8)).sum().backward()
        optimizer.step()


def diverging(model, data, epochs, device, on_step):
    optimizer = torch.optim.SGD(model.parameters(), lr=float("inf"))
    model(torch.rand(4, 1, 8, 8)).sum().backward()
    optimizer.step()


def failing(model, data, epochs, device, on_step):
    raise ValueError("no\ncamera")


def with_closure(model, data, epochs, device, on_step):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure():
        loss = model(torch.rand(4, 1, 8, 8)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (with_closure, "a step with a closure computes gradients inside"),
        (failing, r"^train\.function: theirs fails: ValueError: no camera$"),
        (
            lambda model, data, epochs, device, on_step: None,
            "it has taken no optimizer step on the network's parameters",
        ),
        (diverging, "holds values that are not finite"),
        (two_optimizers, "two optimizers step on the network's parameters"),
    ],
)
def test_what_goes_wrong_is_said_in_one_sentence(digits, function, message):
    graph = graph_of(REFERENCE)
    problem = Problem(REFERENCE, Budget({"params": 1}), params_macs.COSTS, trainer_of(function, digits))
    with pytest.raises(TrainingError, match=message):
        importance_of("taylor", build(REFERENCE), graph, list(graph.groups), problem)


def test_a_function_gets_what_it_takes():
    given = {"model": 1, "data": 2, "epochs": 3}
    assert call(lambda model, epochs: (model, epochs), given) == (1, 3)
    assert call(lambda net, loader: (net, loader), given) == (1, 2)
    assert call(lambda model, rate=0.1: (model, rate), given) == (1, 0.1)
    assert call(lambda net, rate=0.1: (net, rate), given) == (1, 0.1)
    assert call(lambda net, **more: (net, more), given) == (1, {})
    assert call(lambda **all_of_it: sorted(all_of_it), given) == ["data", "epochs", "model"]


def test_a_metric_is_told_the_split_if_it_asks():
    model = nn.Linear(2, 2)
    seen = []

    def judge(model, data, split):
        seen.append((split, model.training, torch.is_grad_enabled()))
        return torch.tensor(3.5)

    metric = OwnMetric(judge, None, CPU, "mAP")
    assert metric.by_split
    found = metric(model, "validation", 7)
    assert (found.metric, found.value, found.accuracy, found.samples) == ("mAP", 3.5, None, 7)
    assert seen == [("validation", False, False)]
    assert model.training
    for value, message in (("much", "gives a str, not a number"), (float("nan"), "gives nan, not a finite number")):
        with pytest.raises(TrainingError, match=message):
            OwnMetric(lambda model, value=value: value, None, CPU, "mAP")(model, "test", 1)


def test_validation_data_that_only_the_users_functions_know_are_judged(digits):
    seen = []

    def judge(model, data, split):
        seen.append(split)
        return 0.5

    data = replace(digits(), task="own", train=_Hidden(CPU), validation=_Hidden(CPU), test=_Hidden(CPU))
    metric = OwnMetric(judge, None, CPU, "mAP")
    for function, said in ((judge, ["validation"]), (lambda model, data: 0.5, [])):
        seen.clear()
        trainer = OwnTrainer(data, CPU, function=step_once, metric=replace(metric, function=function))
        (record,) = trainer.fit(nn.Linear(3, 2), Settings(1, 8, lambda step, per_epoch: 0.1, 0.9, 0.0), seed=0)
        assert seen == said
        assert record.validation_metric == (0.5 if said else None)


def step_once(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", SHARES)
def test_what_is_shown_in_per_cent_is_a_share(name):
    assert Metric(name, lower=False).is_share
    with pytest.raises(TrainingError, match=rf"it gives 93\.1 as {name}, which is a share from 0 to 1"):
        OwnMetric(lambda model: 93.1, None, CPU, name)(nn.Linear(2, 2), "test", 1)
    assert OwnMetric(lambda model: 0.931, None, CPU, name)(nn.Linear(2, 2), "test", 1).value == 0.931
    mean = torch.full((10,), 0.1).sum()
    assert float(mean) > 1  # in float32
    assert OwnMetric(lambda model: mean, None, CPU, name)(nn.Linear(2, 2), "test", 1).value == 1


CODE = """
import torch

def train(model, data, epochs, device):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = data.train.samples(torch.arange(64))
    for _ in range(8 * epochs):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(data.normalise(images)), labels).backward()
        optimizer.step()

def share_of_evens(model, data):
    images, labels = data.test.samples(torch.arange(50))
    return float((model(data.normalise(images)).argmax(1) % 2 == labels % 2).float().mean())

def inside(model):
    return float(next(model.parameters()).abs().mean())
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "loops_of_mine.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "loops_of_mine"
    sys.modules.pop("loops_of_mine", None)


@pytest.mark.usefixtures("quick_export", "no_figures")
def test_a_run_with_training_and_a_metric_of_ones_own(module, tmp_path, monkeypatch):
    judge = {"function": f"{module}:share_of_evens", "name": "evens", "better": "higher"}
    recipe = parse_recipe(
        small_recipe(
            train=f"{module}:train", evaluate=judge, baselines=["uniform", "reference"], search={"method": "taylor"}
        )
    )
    report = run(recipe, tmp_path / "out")
    assert report["budget"]["met"]
    assert report["metric"]["name"] == "evens"
    assert 0 <= report["metric"]["onnx"] <= 1
    assert report["metric"]["onnx"] == pytest.approx(report["metric"]["torch"], abs=0.021)
    assert report["accuracy"]["onnx"] is None
    assert "evens" in (tmp_path / "out" / "report.html").read_text()
    begins = json.loads((tmp_path / "out" / "search.json").read_text())["begins"]
    assert begins == {"result": "found", "uniform": "fresh", "reference": "fresh"}
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "another"))
    with pytest.raises(RunError, match=r"train\.function: loops_of_mine:train is code that this user has not begun"):
        run_folder.load(tmp_path / "out")


def test_the_best_epoch_needs_a_metric_of_validation_data(module, tmp_path):
    recipe = small_recipe(train={"epochs": 1, "keep": "best"}, evaluate=f"{module}:inside")
    with pytest.raises(RecipeError, match=r"train\.keep: best, but loops_of_mine:inside has no argument split"):
        run(parse_recipe(recipe), tmp_path / "out")


@pytest.mark.usefixtures("quick_export", "no_figures")
def test_a_metric_that_looks_into_the_network_is_taken_in_pytorch_and_the_report_says_so(module, tmp_path):
    recipe = parse_recipe(small_recipe(evaluate=f"{module}:inside"))
    report = run(recipe, tmp_path / "out")
    assert report["metric"]["onnx"] == report["metric"]["torch"]
    assert any("the metric is of the network in PyTorch" in remark for remark in report["remarks"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_function_trains_and_prunes_on_a_gpu(digits):
    device = torch.device("cuda")
    data = replace(digits(), mean=(0.5,), std=(0.5,))

    def theirs(model, data, epochs, device):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        images, labels = data.train.samples(torch.arange(64))
        images, labels = data.normalise(images).to(device), labels.to(device)
        for _ in range(4 * epochs):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    limits = {"params": 0.3 * params_macs.params(REFERENCE)}
    trainer = OwnTrainer(data, device, function=theirs, given=data)
    problem = Problem(REFERENCE, Budget(limits), params_macs.COSTS, trainer, final=settings(1))
    found = run_search(problem, TaylorConfig(prune_epochs=3, prune_every=2))
    assert params_macs.params(found.architecture) <= limits["params"]


def test_what_does_not_go_with_a_training_function_is_refused():
    train = {"function": "mine:train"}
    assert "train.function is not for search.method: growing; valid: auto, l1, " in refusal(
        small_recipe(train=train, search={"method": "growing"})
    )
    assert "train.distill is for our own training" in refusal(small_recipe(train=train | {"distill": {}}))
    assert "train.function: 'mine' is not valid: must be package.module:function" in refusal(small_recipe(train="mine"))
