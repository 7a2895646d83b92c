"""What becomes of weights and momentum when growth settles."""

import pytest
import torch
from growing_problem import INDICATORS, problem_of
from torch import nn

from compressor import models
from compressor.recipe import GrowingConfig
from compressor.search.methods import growing
from compressor.search.methods.growing import grow
from compressor.search.methods.growing.grower import Grower, GrowthSettings
from compressor.search.methods.growing.space import Space
from compressor.training.trainer import Settings


@pytest.mark.parametrize("restart", [True, False])
def test_momentum_begins_anew_when_growth_settles_or_goes_on(tiny, quick_trainer, restart):
    problem = problem_of(tiny, quick_trainer(), 0.5)
    settings = GrowthSettings(INDICATORS, 24, 20, 8, 0.0, 1, restart=restart)
    grower = Grower(problem, Space.of(problem), settings, lambda model: model)
    model = grower.first_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    grower.start(model, optimizer, 3)
    model(torch.randn(8, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    grower.settle()
    moving = [name for name, p in model.named_parameters() if bool(optimizer.state[p]["momentum_buffer"].any())]
    assert bool(moving) != restart


@pytest.mark.parametrize("renew", [0.0, 0.25, 1.0])
def test_so_much_of_the_weights_is_fresh_when_growth_settles(tiny, quick_trainer, renew):
    problem = problem_of(tiny, quick_trainer(), 0.5)
    found = []
    for share in (0.0, renew):
        settings = GrowthSettings(INDICATORS, 24, 20, 8, 0.0, 1, restart=True, renew=share)
        grower = Grower(problem, Space.of(problem), settings, lambda model: model)
        model = grower.first_network()
        grower.start(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 3)
        grower.settle()
        found.append(dict(model.named_parameters()))
    fresh = dict(models.build(grower.architecture, problem.seed).named_parameters())
    kept, mixed = found
    assert any(not torch.equal(kept[name], fresh[name]) for name in fresh)
    for name, parameter in mixed.items():
        torch.testing.assert_close(parameter, (1 - renew) * kept[name] + renew * fresh[name])


@pytest.mark.parametrize(("layer", "renew"), [(nn.Conv2d(1, 1, 1), 1.0), (nn.BatchNorm2d(1), 0.5)])
def test_without_batch_norm_all_weights_are_fresh(tiny, quick_trainer, monkeypatch, layer, renew):
    monkeypatch.setattr(grow, "build", lambda architecture: layer)
    found = growing.search(problem_of(tiny, quick_trainer(), 0.5), GrowingConfig(settle=0.5, steps_per_round=3))
    assert found.trace["growth"]["settings"]["renew"] == renew


def test_nothing_is_renewed_that_no_step_would_train(tiny, quick_trainer):
    problem = problem_of(tiny, quick_trainer(), 0.5)
    whole, none = (
        growing.search(problem, GrowingConfig(settle=0.0, steps_per_round=3, renew=renew)).weights
        for renew in (0.5, 0.0)
    )
    assert all(torch.equal(whole[name], none[name]) for name in none)


def test_the_schedule_begins_anew_when_growth_is_over_and_ends_when_training_does():
    from compressor.search.methods.growing.grow import _restarted

    plain = Settings(10, 8, lambda step, per_epoch: step / (10 * per_epoch), 0.9, 0.0)
    again = _restarted(plain, GrowthSettings(INDICATORS, 50, 20, 8, 0.0, 1))
    rates = [again.lr_at(step, 5) for step in range(50)]
    assert rates[:20] == [step / 50 for step in range(20)]
    assert rates[20] == 0
    assert rates[20:] == sorted(rates[20:])
    assert 0.95 < rates[-1] <= plain.lr_at(49, 5)
