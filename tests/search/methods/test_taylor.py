"""A trained network is pruned to the budget while it trains: the result is a part of it, and full to the channel."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor.costs import params_macs
from compressor.costs.solver import Bounds
from compressor.errors import BudgetError, ModelError
from compressor.models import build, graph_of, reference_architecture
from compressor.recipe import TaylorConfig
from compressor.search import search
from compressor.search.budget_pruner import BudgetPruner
from compressor.search.prices import Prices
from compressor.search.taylor_pruner import PruneSettings

# Every step is an event; QuickTrainer has three steps in an epoch.
CONFIG = TaylorConfig(prune_epochs=2, prune_every=1)
SMALL = {"params": 2_000}


@pytest.mark.parametrize(
    "limits", [SMALL, {"macs": 100_000}, {"params": 3_000, "macs": 150_000}, {"params": 500}, {"params": 10**9}]
)
@pytest.mark.parametrize("by_cost", [True, False])
def test_the_result_meets_every_budget_and_is_full(tiny, problem, limits, by_cost):
    found = search(problem(tiny, limits), CONFIG.model_copy(update={"by_cost": by_cost}))
    costs = {name: params_macs.COSTS[name] for name in limits}
    assert all(costs[name](found.architecture) <= limit for name, limit in limits.items())
    widths = found.architecture.widths
    for name, own in tiny.widths.items():  # a channel more of any group that lost some in the last event does not fit
        wider = found.architecture.with_widths(dict(widths) | {name: widths[name] + 1})
        last = found.trace["events"][-1]["widths"][name] if found.trace["events"] else own
        assert widths[name] == last or any(costs[kind](wider) > limit for kind, limit in limits.items()), name
    assert found.finetuning is None
    build(found.architecture).load_state_dict(found.weights)
    json.dumps(found.trace)


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "mobilenetv1", "mlp"])
def test_networks_of_the_zoo_are_cut(problem, name):
    reference = reference_architecture(name, {}, 10, (1, 8, 8), 0.1)
    limit = 0.3 * params_macs.params(reference)
    found = search(problem(reference, {"params": limit}), CONFIG)
    assert 0.8 * limit < params_macs.params(found.architecture) <= limit
    build(found.architecture).load_state_dict(found.weights)


def test_it_begins_with_the_weights_that_are_given(tiny, problem, quick_trainer):
    given = {name: tensor.clone() for name, tensor in build(tiny, 7).state_dict().items()}
    trainer = quick_trainer()
    found = search(problem(tiny, SMALL, trainer, given=given), CONFIG.model_copy(update={"lr": 1e-30}))
    assert trainer.phases == ["pruning"]
    for name in ("stem.weight", "inner.weight", "fc.weight"):
        assert found.weights[name].numel() < given[name].numel()
        assert bool(torch.isin(found.weights[name], given[name]).all()), name


def test_events_bring_the_cost_down_step_by_step(tiny, problem):
    found = search(problem(tiny, {"macs": 60_000}), CONFIG)
    own = params_macs.macs(tiny)
    counts = [params_macs.macs(tiny.with_widths(event["widths"])) for event in found.trace["events"]]
    assert len(counts) == 5  # of six: the last is the result
    for number, count in enumerate(counts, 1):
        assert count <= own * (60_000 / own) ** (number / 6)
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("limits", [{"params": 72_000}, {"macs": 1_200_000}, {"params": 32_000}])
@pytest.mark.parametrize("multiple", [4, 8])
def test_in_blocks_it_fills_the_budget_too(problem, limits, multiple):
    """The last event has a choice left: events before it end above the limits, and leave whole blocks."""
    reference = reference_architecture("resnet20", {"shortcut": "conv"}, 10, (1, 8, 8), 1.0)
    bounds = Bounds(multiple, 10**9, multiple)
    found = search(problem(reference, limits, bounds=bounds), CONFIG)
    costs = {name: params_macs.COSTS[name] for name in limits}
    assert all(width % multiple == 0 for width in found.architecture.widths.values())
    assert all(0.95 * limit < costs[name](found.architecture) <= limit for name, limit in limits.items())
    for event in found.trace["events"]:
        left = reference.with_widths(dict(reference.widths) | event["widths"])
        assert any(costs[name](left) > limit for name, limit in limits.items())
        assert all(width % multiple == 0 for width in event["widths"].values())


def test_minimum_steps_and_frozen_groups_are_kept(tiny, problem):
    bounds = Bounds(np.array([13, 4]), np.array([13, 10**9]), np.array([1, 4]))
    found = search(problem(tiny, {"params": 2_500}, bounds=bounds), CONFIG)
    assert found.architecture.widths["stem"] == 13
    assert found.architecture.widths["inner"] % 4 == 0
    with pytest.raises(BudgetError):
        search(problem(tiny, {"params": 300}, bounds=bounds), CONFIG)


def test_an_interrupted_search_goes_on_to_the_same_network(tiny, problem, quick_trainer, tmp_path):
    """The trained network is kept; another budget prunes it anew."""
    whole = search(problem(tiny, SMALL), CONFIG)
    with pytest.raises(KeyboardInterrupt):
        search(problem(tiny, SMALL, quick_trainer(kill_after=8), tmp_path), CONFIG)
    trainer = quick_trainer()
    again = search(problem(tiny, SMALL, trainer, tmp_path), CONFIG)
    assert trainer.phases == ["pruning"]
    assert again.architecture == whole.architecture
    assert all(torch.equal(again.weights[name], value) for name, value in whole.weights.items())
    other = search(problem(tiny, {"params": 1_500}, quick_trainer(), tmp_path), CONFIG)
    assert params_macs.params(other.architecture) <= 1_500


class Noting:
    """Stops at the first training, and keeps how that was to be."""

    better = "higher"

    def prepare(self, model):
        return model

    def epoch_size(self, batch_size, model=None):
        return 3, batch_size

    def fit(self, model, settings, **more):
        self.settings = settings
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("asked", "final", "batch_size", "parts"),
    [
        (None, {"batch_size": 8}, 8, 1),
        (None, {"batch_size": 512}, 128, 1),
        (None, {"batch_size": 64, "accumulate": 8}, 64, 8),
        (None, {"batch_size": 512, "accumulate": 5}, 128, 2),
        (96, {"batch_size": 8}, 96, 1),
        (96, {"batch_size": 8, "accumulate": 2}, 96, 24),
    ],
)
def test_pruning_holds_no_more_samples_at_once_than_training(tiny, problem, asked, final, batch_size, parts):
    given = {name: tensor.clone() for name, tensor in build(tiny).state_dict().items()}
    trainer, base = Noting(), problem(tiny, SMALL).final
    settings = replace(base, clip=1.5, **final)
    with pytest.raises(KeyboardInterrupt):
        search(
            problem(tiny, SMALL, trainer, given=given, final=settings),
            CONFIG.model_copy(update={"batch_size": asked}),
        )
    found = trainer.settings
    assert (found.batch_size, found.accumulate, found.clip) == (batch_size, parts, 1.5)
    assert found.batch_size // found.accumulate <= max(asked or 0, settings.batch_size) // settings.accumulate


def test_shuffled_channels_are_refused(problem):
    reference = reference_architecture("torchvision:shufflenet_v2_x0_5", {}, 10, (3, 32, 32))
    with pytest.raises(ModelError, match="taylor keeps trained weights, but the channels of"):
        search(problem(reference, {"params": 100_000}), CONFIG)


def pruner_of(reference, criteria, by_cost, limits):
    graph = graph_of(reference)
    settings = PruneSettings(every=1, channels=0, floor=0.0)
    costs = {
        name: lambda widths, name=name: params_macs.COSTS[name](reference.with_widths(dict(reference.widths) | widths))
        for name in limits
    }
    prices = Prices(costs, limits, float(by_cost))
    pruner = BudgetPruner(graph, ["stem", "inner"], {}, settings, events=2, prices=prices)
    model = build(reference)
    pruner.start(model, torch.optim.SGD(model.parameters(), 0.1), 1)
    for name, values in criteria.items():
        begin = pruner.scales.starts[name]
        pruner.criteria[begin : begin + len(values)] = torch.tensor(values)
    return pruner


def test_channels_go_by_their_importance_per_cost(tiny):
    """Of equal importance the channels of the stream, which cost more, go first; free ones go last."""
    equal = {"stem": [1.0] * 13, "inner": [1.0] * 23}
    assert pruner_of(tiny, equal, True, {"macs": 1}).ranked()[:12] == ["stem"] * 12
    rising = {"stem": [10.0 + i for i in range(13)], "inner": [1.0 + i / 100 for i in range(23)]}
    assert pruner_of(tiny, rising, False, {"macs": 1}).ranked()[:22] == ["inner"] * 22  # one stays
    free = pruner_of(tiny, equal, True, {"macs": 1})
    free.prices = Prices({"macs": lambda widths: float(widths["inner"])}, {"macs": 1})
    assert free.ranked()[:22] == ["inner"] * 22
