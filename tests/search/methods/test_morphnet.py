import json

import numpy as np
import pytest

from compressor.costs import params_macs
from compressor.costs.solver import Bounds
from compressor.errors import BudgetError
from compressor.models import reference_architecture
from compressor.recipe import MorphNetConfig
from compressor.search import search

CONFIG = MorphNetConfig(pretrain_epochs=1, prune_every=2, prune_channels=1)


@pytest.mark.parametrize("limits", [{"params": 2_000}, {"macs": 100_000}, {"params": 3_000, "macs": 150_000}])
def test_the_result_meets_every_budget_and_is_full(tiny, problem, assert_full, limits):
    found = search(problem(tiny, limits), CONFIG)
    assert_full(found.architecture, limits)
    assert found.weights is None
    json.dumps(found.trace)


@pytest.mark.parametrize(("keep", "each", "left"), [(0.5, 1, 18), (0.5, 5, 16), (0.7, 1, 25)])
def test_pruning_ends_when_the_share_to_keep_is_reached(tiny, problem, keep, each, left):
    config = CONFIG.model_copy(update={"keep": keep, "prune_channels": each})
    pruned = search(problem(tiny, {"params": 2_000}), config).trace["pruned"]
    assert pruned["channels"] == [36, left]
    assert sum(pruned["widths"].values()) == left <= keep * 36 < left + each
    assert pruned["events"] == (36 - left) / each
    assert pruned["ended_early"] is None


def test_the_pruned_widths_are_scaled_alike(tiny, problem):
    found = search(problem(tiny, {"params": 40_000}), CONFIG)
    pruned, multiplier = found.trace["pruned"]["widths"], found.trace["multiplier"]
    assert multiplier > 1
    assert pruned["stem"] / pruned["inner"] != pytest.approx(13 / 23, rel=0.02)
    for name, width in found.architecture.widths.items():
        assert width == pytest.approx(multiplier * pruned[name], abs=3)  # rounding, and channels that fill the budget


def test_pruning_that_ends_early_says_why_and_uses_what_it_reached(tiny, problem):
    bounds = Bounds(np.array([9, 20]))
    pruned = search(problem(tiny, {"params": 5_000}, bounds=bounds), CONFIG).trace["pruned"]
    assert pruned["ended_early"] == "every group is at its minimum"
    assert pruned["widths"] == {"stem": 9, "inner": 20}


def test_pruning_may_stop_where_a_group_would_fall_below_its_minimum(tiny, problem):
    config = CONFIG.model_copy(update={"prune_channels": 36, "keep": 0.1, "at_minimum": "stop"})
    pruned = search(problem(tiny, {"params": 2_000}), config).trace["pruned"]
    assert pruned["ended_early"].endswith("would have fallen below its minimum of 1 channel")
    assert pruned["widths"] == tiny.widths


@pytest.mark.parametrize("engine", ["auto", "torch_pruning", "tracer"])
def test_every_engine_finds_the_same(tiny, problem, engine):
    found = search(problem(tiny, {"params": 2_000}, engine=engine), CONFIG)
    assert found.architecture == search(problem(tiny, {"params": 2_000}), CONFIG).architecture
    removal = found.trace["pruned"]["removal"]
    assert (removal["engine"], removal["groups"]) == (engine, 2)
    by_graph, by_tracer = ([], list(tiny.widths))[:: 1 if engine == "tracer" else -1]
    assert (removal["torch_pruning"], list(removal["tracer"])) == (by_graph, by_tracer)
    events = found.trace["pruned"]["events"]
    assert removal["events"] == {"torch_pruning": events * bool(by_graph), "tracer": events * bool(by_tracer)}


def test_several_budgets_prune_once_and_find_what_each_finds_alone(tiny, problem, quick_trainer, tmp_path):
    trainer = quick_trainer()
    for limit in (2_000, 3_500):
        alone = search(problem(tiny, {"params": limit}), CONFIG)
        shared = search(problem(tiny, {"params": limit}, trainer, tmp_path), CONFIG)
        assert shared.architecture == alone.architecture
        assert shared.trace["pruned"]["widths"] == alone.trace["pruned"]["widths"]
    assert trainer.phases == ["search pre-training", "search pruning"]
    assert {path.name for path in tmp_path.iterdir()} == {"morphnet.json"}


def test_an_interruption_changes_nothing(tiny, problem, quick_trainer, tmp_path):
    expected = search(problem(tiny, {"params": 2_000}), CONFIG)
    with pytest.raises(KeyboardInterrupt):
        search(problem(tiny, {"params": 2_000}, quick_trainer(kill_after=12), tmp_path), CONFIG)
    assert search(problem(tiny, {"params": 2_000}, None, tmp_path), CONFIG).architecture == expected.architecture


def test_an_impossible_budget_is_refused_before_any_training(tiny, problem, quick_trainer):
    trainer = quick_trainer()
    with pytest.raises(BudgetError, match="cannot be met"):
        search(problem(tiny, {"params": 10}, trainer), CONFIG)
    assert trainer.steps == 0


def test_a_frozen_group_keeps_its_width_and_is_not_counted(tiny, problem):
    bounds = Bounds(np.array([13, 1]), np.array([13, 10**6]))
    found = search(problem(tiny, {"params": 4_000}, bounds=bounds), CONFIG)
    assert found.trace["pruned"]["widths"] == {"stem": 13, "inner": 11}
    assert found.trace["pruned"]["channels"] == [23, 11]
    assert found.architecture.widths["stem"] == 13


@pytest.mark.parametrize(
    ("name", "width", "each"),
    [("preact_resnet18", 0.07, 5), pytest.param("mobilenetv2", 0.2, 20, marks=pytest.mark.slow)],
)
def test_a_network_with_convolved_shortcuts_is_pruned_width_by_width(problem, name, width, each):
    reference = reference_architecture(name, {"shortcut": "conv"}, 10, (1, 8, 8), width)
    config = CONFIG.model_copy(update={"prune_every": 1, "prune_channels": each, "keep": 0.8})
    found = search(problem(reference, {"params": 20_000}), config)
    assert params_macs.params(found.architecture) <= 20_000
    assert found.architecture.options["shortcut"] == "conv"
    pruned = found.trace["pruned"]["widths"]
    assert list(pruned) == list(reference.widths)
    outputs = [name for name in pruned if name.endswith((".conv2", ".project"))]
    stages = [[name for name in outputs if reference.widths[name] == one] for one in set(reference.widths.values())]
    assert any(len({pruned[name] for name in stage}) > 1 for stage in stages)  # identity shortcuts would tie these
