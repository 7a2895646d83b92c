import json

import numpy as np
import pytest
import torch

from compressor.costs import params_macs
from compressor.costs.solver import Bounds
from compressor.errors import BudgetError, ModelError, RunError
from compressor.models import build, follows, graph_of, reference_architecture
from compressor.recipe import L1Config, UniformConfig
from compressor.search import Finetuning, search
from compressor.search.importance import filter_norms, surplus

CONFIG = L1Config()
SMALL = {"params": 2_000}


def trained(architecture, problem):
    """The network that the search trains, after the same steps."""
    model = build(architecture, 0)
    given = problem(architecture, {"params": 1})
    given.trainer.fit(model, given.final, seed=0)
    return model


@pytest.mark.parametrize("limits", [SMALL, {"macs": 100_000}, {"params": 3_000, "macs": 150_000}])
def test_the_result_meets_every_budget_and_is_full(tiny, problem, assert_full, limits):
    found = search(problem(tiny, limits), CONFIG)
    assert_full(found.architecture, limits)
    assert found.finetuning == Finetuning(40, 0.001)
    json.dumps(found.trace)


def test_norms_of_layers_that_make_the_same_channels_are_added_up(tiny):
    model = build(tiny, 3)
    graph = graph_of(tiny)
    for name, makers in {"stem": (model.stem, model.outer), "inner": (model.inner,)}.items():
        expected = sum(layer.weight.detach().double().abs().sum((1, 2, 3)) for layer in makers)
        torch.testing.assert_close(filter_norms(model, graph, name), expected)


def test_the_filters_of_largest_norm_stay_with_their_trained_weights(tiny, problem):
    found = search(problem(tiny, SMALL), CONFIG)
    model = trained(tiny, problem)
    stream = model.stem.weight.abs().sum((1, 2, 3)) + model.outer.weight.abs().sum((1, 2, 3))
    inner = model.inner.weight.abs().sum((1, 2, 3))
    widths = found.architecture.widths
    kept = stream.topk(widths["stem"]).indices.sort().values
    kept_inner = inner.topk(widths["inner"]).indices.sort().values
    assert 1 < len(kept) < 13
    assert 1 < len(kept_inner) < 23
    torch.testing.assert_close(found.weights["inner.weight"], model.inner.weight[kept_inner][:, kept])
    torch.testing.assert_close(found.weights["outer.weight"], model.outer.weight[kept][:, kept_inner])
    torch.testing.assert_close(found.weights["bn3.running_var"], model.bn3.running_var[kept])
    torch.testing.assert_close(found.weights["fc.weight"], model.fc.weight.view(10, 13, 4)[:, kept].flatten(1))
    build(found.architecture).load_state_dict(found.weights)


def test_every_width_loses_the_same_share(problem):
    reference = reference_architecture("vgg11_bn", {}, 10, (1, 32, 32), 0.1)
    given = problem(reference, {"params": 30_000}, final=problem(reference, {"params": 1}).final)
    found = search(given, UniformConfig())
    share = found.trace["multiplier"]

    class Still:
        def prepare(self, model):
            return model

        def fit(self, model, settings, **more):
            return []

    pruned = search(problem(reference, {"params": 30_000}, Still()), CONFIG)
    assert pruned.trace["multiplier"] == pytest.approx(share)
    assert pruned.architecture == found.architecture


def test_equal_norms_lose_the_first_filters(tiny):
    model = build(tiny)
    graph = graph_of(tiny)
    torch.nn.init.ones_(model.inner.weight)
    assert surplus(graph, "inner", filter_norms(model, graph, "inner"), 20) == [0, 1, 2]
    assert surplus(graph, "inner", filter_norms(model, graph, "inner"), 23) == []


@pytest.mark.parametrize("limits", [{"params": 10**6}, {"params": 10**6, "macs": 10**9}])
def test_a_budget_above_the_network_is_refused_before_any_training(tiny, problem, quick_trainer, limits):
    trainer = quick_trainer()
    with pytest.raises(BudgetError, match=r"l1 only removes filters, and the network is below the budget as it is"):
        search(problem(tiny, limits, trainer), CONFIG)
    assert trainer.steps == 0


def test_no_group_is_ever_wider_than_it_was(tiny, problem):
    full = params_macs.params(tiny)
    for limit in range(full - 60, full + 1, 12):
        found = search(problem(tiny, {"params": limit}), CONFIG).architecture
        assert params_macs.params(found) <= limit
        assert all(found.widths[name] <= tiny.widths[name] for name in tiny.widths)
    assert found == tiny  # nothing to remove: the trained network itself is fine-tuned


def test_several_budgets_train_once_and_find_what_each_finds_alone(tiny, problem, quick_trainer, tmp_path):
    trainer = quick_trainer()
    for limit in (2_000, 3_500):
        alone = search(problem(tiny, {"params": limit}), CONFIG)
        shared = search(problem(tiny, {"params": limit}, trainer, tmp_path), CONFIG)
        assert shared.architecture == alone.architecture
        assert shared.trace == alone.trace
        assert all(torch.equal(shared.weights[name], tensor) for name, tensor in alone.weights.items())
    assert trainer.phases == ["search training"]
    assert {path.name for path in tmp_path.iterdir()} == {"l1-reference.safetensors"}


def test_an_interruption_changes_nothing(tiny, problem, quick_trainer, tmp_path):
    expected = search(problem(tiny, SMALL), CONFIG)
    with pytest.raises(KeyboardInterrupt):
        search(problem(tiny, SMALL, quick_trainer(kill_after=4), tmp_path), CONFIG)
    found = search(problem(tiny, SMALL, None, tmp_path), CONFIG)
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())


def test_without_a_way_to_train_it_says_so(tiny, problem):
    with pytest.raises(RunError, match="does not say how"):
        search(problem(tiny, SMALL, final=None), CONFIG)


@pytest.mark.parametrize(
    ("name", "width", "shortcut"),
    [
        *[("preact_resnet18", 0.07, shortcut) for shortcut in ("identity", "conv", "convcut")],
        ("resnet20", 0.3, "conv"),
        pytest.param("mobilenetv2", 0.12, "conv", marks=pytest.mark.slow),
    ],
)
def test_a_trained_residual_network_loses_channels_of_whole_streams(problem, name, width, shortcut):
    reference = reference_architecture(name, {"shortcut": shortcut}, 10, (1, 8, 8), width)
    limit = 0.6 * params_macs.params(reference)
    found = search(problem(reference, {"params": limit}), CONFIG)
    widths = found.architecture.widths
    assert found.architecture.options == reference.options
    assert params_macs.params(found.architecture) <= limit
    assert all(widths[name] <= reference.widths[name] for name in widths)
    model = build(found.architecture)
    model.load_state_dict(found.weights)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    if shortcut == "conv":  # identities where the trained network has equal widths
        tied = search(
            problem(reference_architecture(name, {"shortcut": "identity"}, 10, (1, 8, 8), width), {"params": limit}),
            CONFIG,
        )
        assert tied.architecture.widths == {name: widths[name] for name in tied.architecture.widths}
        assert all(torch.equal(found.weights[name], tensor) for name, tensor in tied.weights.items())
    expanded = {name: factor * widths[source] for name, (source, factor) in follows(found.architecture).items()}
    assert {name: found.weights[f"{name}.weight"].shape[0] for name in expanded} == expanded


def test_bounds_hold_and_a_frozen_group_loses_nothing(tiny, problem):
    bounds = Bounds(np.array([13, 4]), np.array([13, 10**6]), np.array([1, 4]))
    found = search(problem(tiny, {"params": 4_000}, bounds=bounds), CONFIG).architecture
    assert found.widths["stem"] == 13
    assert found.widths["inner"] % 4 == 0
    narrow = Bounds(np.array([40, 1]))  # fewer channels than the least allowed: they stay
    assert search(problem(tiny, {"params": 4_000}, bounds=narrow), CONFIG).architecture.widths["stem"] == 13


def test_channels_that_are_shuffled_cannot_keep_their_weights(problem):
    reference = reference_architecture("torchvision:shufflenet_v2_x0_5", {}, 10, (3, 32, 32))
    with pytest.raises(ModelError, match="are shuffled"):
        search(problem(reference, {"params": 100_000}), CONFIG)
