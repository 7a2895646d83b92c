import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from compressor import cost
from compressor.budget import Budget
from compressor.errors import BudgetError, ModelError
from compressor.models import reference_architecture
from compressor.recipe import NeuralScaleConfig, UniformConfig
from compressor.search import Problem, search
from compressor.search.neuralscale import fit_power_law, r_squared, widths_for


class QuickTrainer:
    """Takes steps on noise: enough for gradients, none for learning."""

    def __init__(self, kill_after=None):
        self.steps, self.kill_after, self.phases = 0, kill_after, []

    def prepare(self, model):
        return model

    def fit(self, model, settings, *, seed, label="", observer=None, checkpoint=None):
        self.phases.append(label)
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr_at(0, 10), momentum=settings.momentum)
        if observer is not None:
            observer.start(model, optimizer)
        for _ in range(3 if settings.epochs else 10_000):
            x, y = torch.randn(8, 1, 8, 8, generator=generator), torch.randint(10, (8,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            if observer is not None:
                observer.after_backward()
            optimizer.step()
            self.steps += 1
            if self.steps == self.kill_after:
                raise KeyboardInterrupt
            if observer is not None and observer.after_step():
                break
        return []


CONFIG = NeuralScaleConfig(iterations=3, pretrain_epochs=1, prune_every=2, prune_channels=1)


def problem(architecture, limits, trainer=None, work=None):
    return Problem(architecture, Budget(limits), cost.COSTS, trainer or QuickTrainer(), 0, work)


def test_the_fit_is_least_squares_of_logarithms():
    rng = np.random.default_rng(0)
    tau = np.exp(rng.uniform(8, 14, 40))
    widths = np.stack([3.0 * tau**0.3, 0.01 * tau**0.7, np.full(40, 7.0)], axis=1) * rng.uniform(0.9, 1.1, (40, 3))
    alpha, beta = fit_power_law(tau, widths)
    design = np.stack([np.ones(40), np.log(tau)], axis=1)
    expected = np.linalg.lstsq(design, np.log(widths), rcond=None)[0]
    np.testing.assert_allclose(np.log(alpha), expected[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(beta, expected[1], rtol=0, atol=1e-9)


def test_an_exact_power_law_is_found_again():
    tau = np.geomspace(1e4, 1e6, 9)
    widths = np.stack([0.5 * tau**0.4, 2 * tau**0.1], axis=1)
    alpha, beta = fit_power_law(tau, widths)
    np.testing.assert_allclose(alpha, [0.5, 2], rtol=1e-9)
    np.testing.assert_allclose(beta, [0.4, 0.1], rtol=1e-9)
    np.testing.assert_allclose(r_squared(tau, widths, alpha, beta), 1.0, rtol=1e-9)


def test_a_layer_that_never_changes_has_slope_zero_and_a_perfect_fit():
    alpha, beta = fit_power_law([10, 20, 40], [[5, 3], [5, 4], [5, 9]])
    assert beta[0] == pytest.approx(0, abs=1e-12)
    assert alpha[0] == pytest.approx(5)
    assert r_squared([10, 20, 40], [[5, 3], [5, 4], [5, 9]], alpha, beta)[0] == 1


@pytest.mark.parametrize(
    ("params", "widths", "message"),
    [
        ([1, 2, 3], [[1], [2]], "shape|must be"),
        ([1, 2], [1, 2], "must be"),
        ([5, 5], [[1], [2]], "two different"),
        ([0, 5], [[1], [2]], "above 0"),
        ([1, 5], [[1], [0]], "above 0"),
    ],
)
def test_records_that_fit_nothing_are_refused(params, widths, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(params, widths)


@pytest.mark.parametrize("limit", [300, 2_345, 65_432])
def test_widths_for_fills_the_limit_from_below(limit):
    def cost_of(widths):
        return 9 * widths[0] + 9 * widths[0] * widths[1] + 10 * widths[1]

    alpha, beta = np.array([0.7, 0.02]), np.array([0.25, 0.7])
    widths = widths_for(alpha, beta, cost_of, limit)
    assert widths.dtype == np.int64
    assert cost_of(widths) <= limit
    assert cost_of(widths + np.array([1, 0])) > limit
    assert cost_of(widths + np.array([0, 1])) > limit


@pytest.mark.parametrize("limits", [{"params": 2_000}, {"macs": 100_000}, {"params": 3_000, "macs": 150_000}])
@pytest.mark.parametrize("config", [CONFIG, UniformConfig()])
def test_the_result_meets_every_budget_and_is_full(tiny, limits, config):
    found = search(problem(tiny, limits), config)
    costs = {name: cost.COSTS[name](found.architecture) for name in limits}
    assert all(costs[name] <= limit for name, limit in limits.items())
    widths = dict(found.architecture.widths)
    for name in widths:
        wider = found.architecture.with_widths(widths | {name: widths[name] + 1})
        assert any(cost.COSTS[kind](wider) > limit for kind, limit in limits.items())
    assert any(limits[name] - costs[name] < found.one_channel[name] for name in limits)
    json.dumps(found.trace)


def test_descent_starts_every_iteration_at_the_original_size():
    mlp = reference_architecture("mlp", {}, 10, (1, 8, 8), 0.06)
    found = search(problem(mlp, {"params": 1_000}), CONFIG)
    original = cost.params(mlp)
    iterations = found.trace["iterations"]
    assert len(iterations) == 3
    for this, following in itertools.pairwise(iterations):
        assert following["start"] == this["widths"]
    for entry in iterations:
        assert entry["fallback"] is None
        generated = mlp.with_widths(dict(zip(entry["groups"], entry["widths"], strict=True)))
        assert entry["params"] == cost.params(generated) <= original
        assert entry["params"] > 0.97 * original
        assert len(entry["alpha"]) == len(entry["beta"]) == len(entry["r2"]) == 2
        alpha, beta = fit_power_law(entry["records"]["params"], entry["records"]["widths"])
        np.testing.assert_allclose(entry["alpha"], alpha)
        np.testing.assert_allclose(entry["beta"], beta)


def test_too_few_records_fall_back_to_uniform_scaling_and_say_so(tiny):
    config = CONFIG.model_copy(update={"min_records": 10_000})
    found = search(problem(tiny, {"params": 2_000}), config)
    assert "fewer than min_records = 10000" in found.trace["fallback"]
    assert found.architecture == search(problem(tiny, {"params": 2_000}), UniformConfig()).architecture


def test_an_impossible_budget_is_refused_before_any_training(tiny):
    trainer = QuickTrainer()
    with pytest.raises(BudgetError, match="cannot be met"):
        search(problem(tiny, {"params": 10}, trainer), CONFIG)
    assert trainer.steps == 0


def test_finished_iterations_are_not_repeated_after_an_interruption(tiny, tmp_path):
    whole = QuickTrainer()
    expected = search(problem(tiny, {"params": 2_000}, whole), CONFIG)
    with pytest.raises(KeyboardInterrupt):
        search(problem(tiny, {"params": 2_000}, QuickTrainer(kill_after=whole.steps * 2 // 3), tmp_path), CONFIG)
    resumed = QuickTrainer()
    found = search(problem(tiny, {"params": 2_000}, resumed, tmp_path), CONFIG)
    assert resumed.steps < whole.steps
    assert found.architecture == expected.architecture
    assert len(found.trace["iterations"]) == 3


def test_widths_that_are_coupled_are_refused_before_any_training():
    architecture = reference_architecture("resnet20", {"shortcut": "conv"}, 10, (3, 8, 8), 0.25)
    trainer = QuickTrainer()
    with pytest.raises(ModelError, match=r"resnet20: .*layer1\.0\.conv2 cannot be pruned on its own"):
        search(problem(architecture, {"params": 10_000}, trainer), CONFIG)
    assert trainer.steps == 0


def test_uniform_scaling_keeps_the_proportions():
    architecture = reference_architecture("vgg11_bn", {}, 10, (3, 32, 32))
    found = search(problem(architecture, {"params": 600_000}), UniformConfig()).architecture
    multiplier = found.widths["conv8"] / architecture.widths["conv8"]
    assert 0.2 < multiplier < 0.3
    for name, width in architecture.widths.items():
        assert abs(found.widths[name] - multiplier * width) <= 3  # rounding, and the channels that fill the budget
