import dataclasses
import itertools
import json

import numpy as np
import pytest
from torch import nn

from compressor import models
from compressor.costs import params_macs
from compressor.costs.solver import Bounds, of_widths
from compressor.errors import BudgetError, ModelError
from compressor.models import follows, graph_of, prunable, reference_architecture
from compressor.models.zoo import Family
from compressor.recipe import NeuralScaleConfig, UniformConfig
from compressor.search import prune_while_training, search
from compressor.search.methods.neuralscale import (
    Along,
    cheaper_records,
    fit_power_law,
    r_squared,
    solve_fit,
    widths_for,
)
from compressor.search.prune_while_training import Trajectory

CONFIG = NeuralScaleConfig(iterations=3, pretrain_epochs=1, prune_every=2, prune_channels=2)


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
def test_the_result_meets_every_budget_and_is_full(tiny, problem, assert_full, limits, config):
    found = search(problem(tiny, limits), config)
    assert_full(found.architecture, limits)
    costs = {name: params_macs.COSTS[name](found.architecture) for name in limits}
    assert any(limits[name] - costs[name] < found.one_channel[name] for name in limits)
    json.dumps(found.trace)


def test_descent_starts_every_iteration_at_the_original_size(problem):
    mlp = reference_architecture("mlp", {}, 10, (1, 8, 8), 0.06)
    found = search(problem(mlp, {"params": 1_000}), CONFIG)
    original = params_macs.params(mlp)
    iterations = found.trace["iterations"]
    assert len(iterations) == 3
    for this, following in itertools.pairwise(iterations):
        assert following["start"] == this["widths"]
    for entry in iterations:
        assert entry["fallback"] is None
        generated = mlp.with_widths(dict(zip(entry["groups"], entry["widths"], strict=True)))
        assert entry["params"] == params_macs.params(generated) <= original
        assert entry["params"] > 0.97 * original
        assert len(entry["alpha"]) == len(entry["beta"]) == len(entry["r2"]) == 2
        alpha, beta = fit_power_law(entry["records"]["params"], entry["records"]["widths"])
        np.testing.assert_allclose(entry["alpha"], alpha)
        np.testing.assert_allclose(entry["beta"], beta)


@pytest.mark.parametrize("limits", [{"macs": 60_000}, {"macs": 60_000, "params": 5_000}])
def test_under_another_budget_widths_are_fitted_to_its_cost(tiny, problem, limits):
    found = search(problem(tiny, limits), CONFIG)
    assert found.trace["along"] == sorted(limits)
    for entry in found.trace["iterations"]:
        networks = [dict(zip(entry["groups"], row, strict=True)) for row in entry["records"]["widths"]]
        macs = [params_macs.macs(tiny.with_widths(widths)) for widths in networks]
        shares = [params_macs.params(tiny.with_widths(widths)) / 5_000 for widths in networks]
        expected = macs if len(limits) == 1 else np.maximum(np.array(macs) / 60_000, shares)
        np.testing.assert_allclose(entry["records"]["cost"], expected)
        alpha, beta = fit_power_law(expected, entry["records"]["widths"])
        np.testing.assert_allclose([entry["alpha"], entry["beta"]], [alpha, beta])
        if len(limits) == 1:
            generated = tiny.with_widths(dict(zip(entry["groups"], entry["widths"], strict=True)))
            assert params_macs.macs(generated) <= params_macs.macs(tiny)
            for name, width in generated.widths.items():
                wider = generated.with_widths({**generated.widths, name: width + 1})
                assert params_macs.macs(wider) > params_macs.macs(tiny) or width == 8 * tiny.widths[name]


def test_a_parameter_budget_is_searched_for_as_in_the_paper(tiny, problem):
    found, paper = (
        search(problem(tiny, {"params": 2_000}), CONFIG.model_copy(update={"along": along}))
        for along in ("auto", "params")
    )
    assert found.trace["along"] == ["params"]
    assert found.architecture == paper.architecture
    assert all("cost" not in entry["records"] for entry in found.trace["iterations"])


def test_iterations_are_shared_by_budgets_of_one_cost_alone(tiny, problem, quick_trainer, tmp_path):
    config = CONFIG.model_copy(update={"iterations": 1})
    steps = []
    for limits in ({"macs": 60_000}, {"macs": 80_000}, {"params": 2_000}, {"params": 2_000, "macs": 60_000}):
        trainer = quick_trainer()
        search(problem(tiny, limits, trainer, tmp_path), config)
        steps.append(trainer.steps)
    assert [bool(taken) for taken in steps] == [True, False, True, True]
    trainer = quick_trainer()
    search(problem(tiny, {"macs": 60_000}, trainer, tmp_path), config.model_copy(update={"price": 0.5}))
    assert trainer.steps


def test_several_fits_are_averaged(tiny, problem, monkeypatch, tmp_path):
    asked = []

    def prune(problem, config, architecture, *, seed, **more):
        """The inner width falls as fast as the stem, twice as fast, three times as fast."""
        asked.append((architecture, seed))
        faster = len(asked)
        widths = [[13 - event, max(1, 23 - faster * event)] for event in range(1, 8)]
        params = [params_macs.params(tiny.with_widths({"stem": stem, "inner": inner})) for stem, inner in widths]
        return Trajectory(params, widths, 0, widths[-1], "the floor was reached", 0.0, 0.0, {})

    monkeypatch.setattr(prune_while_training, "prune", prune)
    config = CONFIG.model_copy(update={"fits": 3, "iterations": 1})
    found = search(problem(tiny, {"params": 2_000}, work=tmp_path), config)
    assert [architecture for architecture, _ in asked] == [tiny] * 3
    assert len({seed for _, seed in asked}) == 3
    fits = [found.trace["iterations"][-1], *found.trace["repeats"]]
    alphas, betas = (np.array([one[key] for one in fits]) for key in ("alpha", "beta"))
    assert len({tuple(beta) for beta in betas.tolist()}) == 3
    limited = {"params": of_widths(tiny, params_macs.params)}
    mean = np.exp(np.log(alphas).mean(axis=0)), betas.mean(axis=0)
    assert tuple(found.architecture.widths.values()) == solve_fit(*mean, limited, {"params": 2_000}).widths
    assert search(problem(tiny, {"params": 2_000}, work=tmp_path), config).architecture == found.architecture
    assert len(asked) == 3


def test_iterations_are_not_shared_by_other_steps(tiny, problem, quick_trainer, tmp_path):
    config, steps = CONFIG.model_copy(update={"iterations": 1}), []
    for multiple in (1, 4, 1):
        trainer = quick_trainer()
        bounds = Bounds(multiple=np.array(multiple))
        found = search(problem(tiny, {"params": 4_000}, trainer, tmp_path, bounds=bounds), config)
        assert all(width % multiple == 0 for width in found.trace["iterations"][0]["widths"])
        steps.append(trainer.steps)
    assert [bool(taken) for taken in steps] == [True, True, False]


def test_groups_that_hardly_cost_anything_do_not_grow_without_end(tiny, problem):
    costs = params_macs.COSTS | {"narrow": lambda architecture: architecture.widths["stem"] ** 2 + 1e-3}
    given = dataclasses.replace(problem(tiny, {"narrow": 30.0}), costs=costs)
    found = search(given, CONFIG.model_copy(update={"along": "budget"}))
    assert found.architecture.widths["stem"] <= 5
    assert found.architecture.widths["inner"] <= 8 * tiny.widths["inner"]


def test_activation_memory_is_searched_for_by_the_parameters(tiny, problem):
    limits = {"activation_bytes": 20.0}
    costs = params_macs.COSTS | {"activation_bytes": lambda architecture: float(sum(architecture.widths.values()))}
    given = dataclasses.replace(problem(tiny, limits), costs=costs)
    assert search(given, CONFIG.model_copy(update={"iterations": 1})).trace["along"] == ["params"]


def test_a_cost_that_never_changes_scales_uniformly(tiny, problem):
    limits = {"constant": 5.0, "params": 100_000}  # of the network, which has 7,000, the first is always exceeded most
    given = dataclasses.replace(problem(tiny, limits), costs=params_macs.COSTS | {"constant": lambda architecture: 5.0})
    found = search(given, CONFIG.model_copy(update={"iterations": 1}))
    assert "constant, params: the same in all" in found.trace["fallback"]
    assert params_macs.params(found.architecture) <= 100_000


def test_of_networks_that_cost_the_same_the_widest_is_fitted(tiny, problem):
    """In blocks of channels, and above what every network costs, narrower ones cost no less."""

    def blocks(architecture):
        return 100.0 + sum(-(-width // 4) for width in architecture.widths.values())

    given = dataclasses.replace(problem(tiny, {"blocks": 104.0}), costs=params_macs.COSTS | {"blocks": blocks})
    found = search(given, CONFIG.model_copy(update={"iterations": 1, "min_records": 2}))
    (iteration,) = found.trace["iterations"]
    costs = iteration["records"]["cost"]
    assert iteration["fallback"] is None
    assert all(one > other for one, other in itertools.pairwise(costs))
    assert len(costs) < iteration["events"]
    assert blocks(found.architecture) <= 104


@pytest.mark.parametrize(
    ("recorded", "late", "kept", "said"),
    [
        ([9, 8, 7, 6, 5, 4], [2, 3, 4, 5], [2, 3, 4, 5], set()),
        ([9, 8, 7, 7, 6, 6, 5], [2, 3, 4, 5, 6], [2, 4, 6], set()),
        ([9, 8, 7, 7, 7, 7], [3, 4, 5], [0, 1, 2], {"note"}),  # nothing falls after every group lost a channel
        ([9, 8, 8, 8, 8, 7], [2, 3, 4, 5], [0, 1, 5], {"note"}),
        ([5, 4, 9, 3, 2], [1, 2, 3, 4], [1, 3, 4], set()),
        ([9, 8, 8, 8, 8, 8], [2, 3, 4, 5], [2, 3, 4, 5], {"note", "fallback"}),
        ([9, 8, 8, 8, 8, 9], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], {"note"}),  # too few fall at all
        ([5, 5, 5, 5], [1, 2, 3], [1, 2, 3], {"note", "fallback"}),
    ],
)
def test_records_along_a_cost_are_those_that_cost_less_than_all_before(recorded, late, kept, said):
    found = {}
    along = Along(("ms",), "", lambda architecture: 0.0, None)
    assert cheaper_records(CONFIG.model_copy(update={"min_records": 3}), along, recorded, late, found) == kept
    assert set(found) == said


def test_too_few_records_fall_back_to_uniform_scaling_and_say_so(tiny, problem):
    config = CONFIG.model_copy(update={"min_records": 10_000})
    found = search(problem(tiny, {"params": 2_000}), config)
    assert "fewer than min_records = 10000" in found.trace["fallback"]
    assert found.architecture == search(problem(tiny, {"params": 2_000}), UniformConfig()).architecture


@pytest.fixture
def falling(tiny, monkeypatch):
    """Hand a trajectory to the search: 12 events, of which 5 come before the stem has lost a channel."""
    widths = [[13 - max(0, n - 5), 23 - n] for n in range(1, 13)]
    params = [params_macs.params(tiny.with_widths({"stem": stem, "inner": inner})) for stem, inner in widths]

    def prune(*args, **kwargs):
        return Trajectory(params, widths, 5, widths[-1], "the floor was reached", 0.0, 0.0, {})

    monkeypatch.setattr(prune_while_training, "prune", prune)
    return params, widths


@pytest.mark.parametrize(("least", "fitted"), [(2, 7), (7, 7), (8, 12), (12, 12), (13, 0)])
def test_records_before_every_group_lost_a_channel_are_fitted_only_if_those_after_are_too_few(
    tiny, problem, falling, least, fitted
):
    config = CONFIG.model_copy(update={"min_records": least, "iterations": 1})
    found = search(problem(tiny, {"params": 2_000}), config)
    (entry,) = found.trace["iterations"]
    if not fitted:
        assert f"only 12 records, fewer than min_records = {least} (pruning ended since the floor" in entry["fallback"]
        assert found.architecture == search(problem(tiny, {"params": 2_000}), UniformConfig()).architecture
        return
    params, widths = falling
    assert entry["records"] == {"params": params[-fitted:], "widths": widths[-fitted:]}
    alpha, beta = fit_power_law(params[-fitted:], widths[-fitted:])
    np.testing.assert_allclose([entry["alpha"], entry["beta"]], [alpha, beta])
    assert ("7 of 12 records are from after" in (entry["note"] or "")) == (fitted == 12)
    assert found.trace["note"] == entry["note"]


def test_an_impossible_budget_is_refused_before_any_training(tiny, problem, quick_trainer):
    trainer = quick_trainer()
    with pytest.raises(BudgetError, match="cannot be met"):
        search(problem(tiny, {"params": 10}, trainer), CONFIG)
    assert trainer.steps == 0


def test_finished_iterations_are_not_repeated_after_an_interruption(tiny, problem, quick_trainer, tmp_path):
    whole = quick_trainer()
    expected = search(problem(tiny, {"params": 2_000}, whole), CONFIG)
    with pytest.raises(KeyboardInterrupt):
        search(problem(tiny, {"params": 2_000}, quick_trainer(kill_after=whole.steps * 2 // 3), tmp_path), CONFIG)
    resumed = quick_trainer()
    found = search(problem(tiny, {"params": 2_000}, resumed, tmp_path), CONFIG)
    assert resumed.steps < whole.steps
    assert found.architecture == expected.architecture
    assert len(found.trace["iterations"]) == 3


class Tied(nn.Module):
    """Two convolutions whose sum ties their widths together, though the family names both."""

    def __init__(self, widths, classes):
        super().__init__()
        self.a = nn.Conv2d(1, widths["a"], 3)
        self.b = nn.Conv2d(1, widths["b"], 3)
        self.fc = nn.Linear(widths["a"], classes)

    def forward(self, x):
        return self.fc((self.a(x) + self.b(x)).mean((2, 3)))


def test_widths_that_are_coupled_are_refused_before_any_training(problem, quick_trainer, monkeypatch):
    family = Family(lambda options: {"a": 7, "b": 7}, lambda widths, options, classes, shape: Tied(widths, classes))
    monkeypatch.setitem(models.ZOO, "tied", family)
    # The cost asks for both widths alike, so it is counted for the network that has them.
    costs = {"params": lambda architecture: sum(architecture.widths.values())}
    trainer = quick_trainer()
    tied = problem(reference_architecture("tied", {}, 10, (1, 8, 8)), {"params": 10}, trainer)
    with pytest.raises(ModelError, match=r"tied: the width of b cannot be pruned on its own"):
        search(dataclasses.replace(tied, costs=costs), CONFIG)
    assert trainer.steps == 0


@pytest.mark.slow
def test_every_width_of_a_network_with_convolved_shortcuts_is_found_by_itself(problem):
    reference = reference_architecture("resnet20", {"shortcut": "conv"}, 10, (1, 8, 8), 0.5)
    limit = 0.6 * params_macs.params(reference)
    config = CONFIG.model_copy(update={"iterations": 1, "prune_every": 1, "prune_channels": 16})
    found = search(problem(reference, {"params": limit}), config)
    assert found.architecture.options["shortcut"] == "conv"
    assert 0.99 * limit < params_macs.params(found.architecture) <= limit
    (iteration,) = found.trace["iterations"]
    assert iteration["fallback"] is None
    assert iteration["groups"] == list(reference.widths)
    for stage in (1, 2, 3):  # identity shortcuts would tie these
        assert len({found.architecture.widths[f"layer{stage}.{block}.conv2"] for block in range(3)}) > 1
    for params, widths in zip(*(iteration["records"][key] for key in ("params", "widths")), strict=True):
        assert params == params_macs.params(reference.with_widths(dict(zip(iteration["groups"], widths, strict=True))))


@pytest.mark.parametrize("name", ["preact_resnet18", "preact_resnet34", "resnet20", "mobilenetv2"])
@pytest.mark.parametrize("shortcut", ["identity", "conv", "convcut"])
def test_the_build_to_prune_has_the_widths_of_the_network_as_its_groups(name, shortcut):
    reference = reference_architecture(name, {"shortcut": shortcut}, 10, (1, 8, 8), 0.12)
    pruned = prunable(reference)
    assert pruned.widths == reference.widths
    assert pruned.options["shortcut"] == ("convcut" if shortcut == "conv" else shortcut)
    graph = graph_of(pruned)
    expected = dict(reference.widths)
    expected |= {name: factor * expected[source] for name, (source, factor) in follows(reference).items()}
    assert graph.widths == expected


def test_frozen_groups_keep_their_width_in_every_iteration(tiny, problem):
    bounds = Bounds(np.array([13, 1]), np.array([13, 10**6]))
    found = search(problem(tiny, {"params": 4_000}, bounds=bounds), CONFIG)
    assert found.architecture.widths["stem"] == 13
    assert found.architecture.widths["inner"] < 23
    for iteration in found.trace["iterations"]:
        assert iteration["fallback"] is None
        assert {widths[0] for widths in iteration["records"]["widths"]} == {13}
        assert (iteration["alpha"][0], iteration["beta"][0]) == (13, 0)


def test_uniform_scaling_keeps_the_proportions(problem):
    architecture = reference_architecture("vgg11_bn", {}, 10, (3, 32, 32))
    found = search(problem(architecture, {"params": 600_000}), UniformConfig()).architecture
    multiplier = found.widths["conv8"] / architecture.widths["conv8"]
    assert 0.2 < multiplier < 0.3
    for name, width in architecture.widths.items():
        assert abs(found.widths[name] - multiplier * width) <= 3  # rounding, and the channels that fill the budget
