"""Scaled networks that begin with the weights of the unscaled one."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from small import small_recipe
from torch import nn

from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.data import normalised
from compressor.errors import DataError, ModelError, RunError
from compressor.exporters import export_onnx
from compressor.models import build, reference_architecture
from compressor.models.architecture import Architecture
from compressor.pipeline.inherit import given_weights
from compressor.pipeline.runner import run
from compressor.recipe import L1Config, TaylorConfig, parse_recipe
from compressor.search import Problem, search
from compressor.search import inherited as kept
from compressor.training.trainer import Settings, Trainer

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")  # which have tests of their own


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(self.body(images))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    """A network of someone else, trained on digits, as an ONNX file."""
    torch.manual_seed(0)
    data, model = digits(1000), Net()
    indices = torch.arange(len(data.train))
    images, labels = data.train.samples(indices)
    images = data.normalise(images)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    for _ in range(60):
        chosen = torch.randperm(len(images))[:128]
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("theirs") / "net.onnx"
    export_onnx(model.eval(), path, [images[:1], images[:9]])
    return path, data


def reference_of(path):
    return reference_architecture(f"onnx:{path}", {}, 10, (1, 8, 8))


def problem_of(data, reference, given=None):
    return Problem(reference, Budget({"params": 1}), params_macs.COSTS, Trainer(data, torch.device("cpu")), given=given)


def inherited(reference, given, architecture, data=None, ranking="l1"):
    problem = problem_of(data, reference, given)
    return kept.inherited(problem, architecture, kept.channel_importance(problem, ranking))


def accuracy(architecture, weights, data):
    model = build(architecture)
    model.load_state_dict(weights)
    images, labels = data.test.samples(torch.arange(len(data.test)))
    with torch.no_grad():
        return float((model.eval()(data.normalise(images)).argmax(1) == labels).float().mean())


def test_at_its_own_widths_it_is_the_given_network(trained):
    path, data = trained
    reference = reference_of(path)
    given = given_weights(reference, data)
    same = inherited(reference, given, reference)
    assert given.keys() == same.keys()
    assert all(torch.equal(given[name], same[name]) for name in given)
    assert accuracy(reference, given, data) > 0.8


def test_narrower_it_keeps_much_of_what_was_learnt(trained):
    path, data = trained
    reference = reference_of(path)
    given = given_weights(reference, data)
    narrow = reference.with_widths({name: width - 3 for name, width in reference.widths.items()})
    least = accuracy(narrow, build(narrow, 0).state_dict(), data) + 0.2
    for ranking in ("taylor", "l1", "l2"):
        assert accuracy(narrow, inherited(reference, given, narrow, data, ranking), data) > least, ranking


def settings(epochs, lr):
    return Settings(epochs, batch_size=64, lr_at=lambda step, per_epoch: lr, momentum=0.9, weight_decay=0.0)


@pytest.mark.parametrize("method", ["inherited", "taylor", "l1"])
def test_batch_norms_take_their_statistics_from_the_network_that_is_left(trained, method):
    path, data = trained
    reference = reference_of(path)
    given = given_weights(reference, data)
    narrow = reference.with_widths({name: width // 2 for name, width in reference.widths.items()})
    if method == "inherited":
        weights = inherited(reference, given, narrow, data)
    else:  # channels leave all at once, in steps too short to change anything
        config = L1Config() if method == "l1" else TaylorConfig(prune_epochs=1, prune_every=100, lr=1e-30)
        budget = Budget({"params": params_macs.params(narrow)})
        found = search(replace(problem_of(data, reference, given), budget=budget, final=settings(1, 0.1)), config)
        narrow, weights = found.architecture, found.weights
        assert all(width < reference.widths[name] for name, width in narrow.widths.items())
    model = build(narrow)
    model.load_state_dict(weights)
    inputs = {}
    norms = [one for one in model.named_modules() if isinstance(one[1], nn.BatchNorm2d)]
    for name, norm in norms:
        norm.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
        norm.momentum = None
        norm.num_batches_tracked.zero_()
    images, _ = data.train.samples(torch.arange(len(data.train)))
    with torch.no_grad():
        model.train()(data.normalise(images))
    assert len(norms) == 2
    for name, _ in norms:
        mean, spread = inputs[name].mean((0, 2, 3)), inputs[name].std((0, 2, 3))
        assert ((weights[f"{name}.running_mean"] - mean).abs() < 0.2 * spread).all()
        assert (weights[f"{name}.running_var"].sqrt() / spread - 1).abs().max() < 0.2


def test_all_that_is_taken_anew_are_statistics(trained):
    path, data = trained
    reference = reference_of(path)
    given = given_weights(reference, data)
    model = build(reference)
    model.load_state_dict(given)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean += 1  # of other images
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept.take_statistics_(model.eval(), problem_of(data, reference))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "running_" in name}
    assert accuracy(reference, model.state_dict(), data) > 0.8
    assert all(norm.momentum == 0.1 for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))


class OwnNorm(nn.BatchNorm2d):
    """A batch-norm as users write them: it reads its momentum as a number."""

    def forward(self, x):
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )


class WantsTargets(nn.Module):
    """A network that cannot go forward in training without targets, as detectors."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), OwnNorm(4)

    def forward(self, images):
        assert not self.training, "targets needed in training"
        return self.norm(self.conv(images))


def test_statistics_need_neither_torchs_own_batch_norm_nor_the_training_mode_of_the_network(trained):
    path, data = trained
    network, state = WantsTargets(), torch.get_rng_state()
    kept.take_statistics_(network.eval(), problem_of(data, reference_of(path)))
    images, _ = data.train.samples(torch.arange(len(data.train)))
    wanted = network.conv(data.normalise(images)).mean((0, 2, 3))
    assert torch.allclose(network.norm.running_mean, wanted, atol=0.01)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.norm.momentum == 0.1


def test_a_small_last_batch_counts_as_little_as_it_is(trained):
    """Of 34 images the last two have a batch of their own."""
    path, data = trained
    few = replace(data, train=data.train.subset(torch.arange(34)))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16)).eval()
    kept.take_statistics_(network, problem_of(few, reference_of(path)))
    images, _ = few.train.samples(torch.arange(34))
    with torch.no_grad():
        inputs = network[:2](data.normalise(images))
    torch.testing.assert_close(network[2].running_mean, inputs.mean(0))
    assert (network[2].running_var.sqrt() / inputs.std(0) - 1).abs().max() < 0.2


def test_a_single_sample_leaves_statistics_as_they_are(trained):
    path, data = trained
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4)).eval()
    alone = replace(data, train=data.train.subset(torch.tensor([0])))
    kept.take_statistics_(network, problem_of(alone, reference_of(path)))
    assert torch.equal(network[2].running_mean, torch.zeros(4))


def test_data_that_only_the_user_can_read_leaves_statistics_as_they_are(trained):
    path, data = trained
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4)).eval()
    kept.take_statistics_(network, problem_of(replace(data, task="own"), reference_of(path)))
    assert torch.equal(network[2].running_mean, torch.zeros(4))


def test_wider_it_keeps_its_own_filters(trained):
    path, data = trained
    reference = reference_of(path)
    given = given_weights(reference, data)
    wide = reference.with_widths({name: width + 5 for name, width in reference.widths.items()})
    weights = inherited(reference, given, wide, data)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    for name, tensor in given.items():
        corner = weights[name][tuple(slice(0, size) for size in tensor.shape)]
        assert corner.shape == tensor.shape
    first = next(name for name, tensor in given.items() if tensor.dim() == 4)
    assert torch.equal(weights[first][: len(given[first])], given[first])


def test_a_network_of_the_zoo_has_no_weights(digits):
    with pytest.raises(ModelError, match=r"model\.weights"):
        given_weights(reference_architecture("mlp", {}, 10, (1, 8, 8)), digits())


def recipe(path, **sections):
    given = {
        "model": {"onnx": str(path)},
        "data": {"name": "digits", "image_size": 8, "limit": 320},
        "train": {"epochs": 1, "lr": 0.01},
        "baselines": None,
        "device": None,
    }
    return parse_recipe(small_recipe(**(given | sections)))


def test_from_onnx_to_onnx_within_the_budget(trained, tmp_path):
    path, data = trained
    report = run(recipe(path, search={"method": "uniform", "ranking": "l1"}), tmp_path / "run")
    assert report["budget"]["met"]
    assert report["baseline"]["reference"]["accuracy"]["onnx"] > 0.8
    reference = reference_of(path)
    began = load_file(tmp_path / "run" / "start.safetensors")
    found = Architecture.from_json((tmp_path / "run" / "architecture.json").read_text())
    assert accuracy(found, began, data) > 0.2
    assert report["params"] <= 0.5 * report["baseline"]["reference"]["params"]
    assert found.model == reference.model
    assert json.loads((tmp_path / "run" / "export.json").read_text())["parity"]["max_rel_error"] <= 1e-4


def test_another_file_of_the_same_name_is_another_run(trained, tmp_path):
    path, _ = trained
    mine = tmp_path / "net.onnx"
    mine.write_bytes(path.read_bytes())
    run(recipe(mine), tmp_path / "run", until="search")
    torch.manual_seed(1)
    export_onnx(Net().eval(), mine, [torch.rand(1, 1, 8, 8)])
    with pytest.raises(RunError, match=r"model\.sha256 differs"):
        run(recipe(mine), tmp_path / "run", resume=True)


def test_other_weights_beside_the_file_are_another_run(trained, tmp_path):
    path, _ = trained
    mine, weights = tmp_path / "net.onnx", tmp_path / "net.data"
    proto = onnx.load(path)
    onnx.save(proto, mine, save_as_external_data=True, location=weights.name, size_threshold=0)
    whole = weights.read_bytes()
    run(recipe(mine), tmp_path / "run", until="search")
    weights.write_bytes(whole[:-4] + bytes(4))
    with pytest.raises(RunError, match=r"model\.external_sha256 differs"):
        run(recipe(mine), tmp_path / "run", resume=True)
    weights.write_bytes(whole)
    run(recipe(mine), tmp_path / "run", resume=True, until="search")
    weights.rename(tmp_path / "away")  # what is gone was not changed
    run(recipe(mine), tmp_path / "run", resume=True, until="search")
    weights.write_bytes(whole)
    stages = json.loads((tmp_path / "run" / "stages.json").read_text())
    assert stages["search"]["model"].pop("external_sha256")
    (tmp_path / "run" / "stages.json").write_text(json.dumps(stages))  # as earlier versions wrote it
    run(recipe(mine), tmp_path / "run", resume=True, until="search")


def test_mean_and_std_of_the_recipe(digits):
    data = normalised(digits(), (0.5,), (0.25,))
    images = data.test.samples(torch.arange(4))[0]
    assert np.allclose(data.normalise(images), (images.float() / 255 - 0.5) / 0.25, atol=1e-6)
    with pytest.raises(DataError, match=r"data\.mean: \[0.1, 0.2\] has 2 values; the data has 1 channels"):
        normalised(digits(), (0.1, 0.2), None)
