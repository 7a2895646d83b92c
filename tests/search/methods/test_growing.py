import dataclasses

import numpy as np
import pytest
import torch
from growing_problem import FINAL, INDICATORS, problem_of
from torch import nn

from compressor import models
from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.errors import BudgetError, TrainingError
from compressor.recipe import GrowingConfig
from compressor.search import Problem, Unfinished
from compressor.search.calibration import calibrated
from compressor.search.channel_scale import ChannelScales
from compressor.search.methods import growing
from compressor.search.methods.growing.grower import Grower, GrowthSettings
from compressor.search.methods.growing.selection import select
from compressor.search.methods.growing.space import Space, trained_form
from compressor.search.methods.growing.store import Store
from compressor.training.trainer import Paused

QUICK = GrowingConfig(steps_per_round=2, settle=0.3)


@pytest.fixture
def layered():
    return models.reference_architecture("plain3net", {"units": 3}, 10, (1, 8, 8), 0.5)


@pytest.fixture
def residual():
    return models.reference_architecture("basic3resnet", {"units": 3}, 10, (1, 8, 8), 0.5)


@pytest.mark.parametrize("name", ["params", "macs"])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_the_budget_is_met_and_no_group_could_take_another_channel(tiny, quick_trainer, share, name):
    problem = problem_of(tiny, quick_trainer(), share, name)
    found = growing.search(problem, QUICK)
    limit = problem.budget.limits[name]
    assert params_macs.COSTS[name](found.architecture) <= limit
    for group, width in found.architecture.widths.items():
        if width < tiny.widths[group]:
            wider = found.architecture.with_widths({**found.architecture.widths, group: width + 1})
            assert params_macs.COSTS[name](wider) > limit


class Blurred(nn.Module):
    """Its blur kernels do not train; every channel has the same."""

    def __init__(self):
        super().__init__()
        self.a, self.fc = nn.Conv2d(1, 12, 3), nn.Linear(12, 10)
        self.blur = nn.Conv2d(12, 12, 3, groups=12, bias=False)
        self.blur.weight.requires_grad_(False).fill_(1 / 9)

    def forward(self, x):
        return self.fc(self.blur(torch.relu(self.a(x))).mean((2, 3)))


def test_what_does_not_train_has_its_values(quick_trainer):
    blurred = models.reference_architecture(models.offer("blurred", Blurred()), {}, 10, (1, 8, 8))
    found = growing.search(problem_of(blurred, quick_trainer(), 0.5), QUICK)
    assert torch.equal(found.weights["blur.weight"], torch.full((found.architecture.widths["a"], 1, 3, 3), 1 / 9))
    assert all(bool(value.isfinite().all()) for value in found.weights.values())


def test_the_weights_are_those_of_the_architecture_and_no_nan_is_left(tiny, quick_trainer):
    found = growing.search(problem_of(tiny, quick_trainer(), 0.3), QUICK)
    model = models.build(found.architecture)
    model.load_state_dict(found.weights)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert found.finetuning.epochs == 0


def test_between_rounds_the_network_is_as_small_as_what_is_drawn(tiny, quick_trainer):
    sizes = []

    class Watched(quick_trainer):
        def fit(self, model, settings, *, observer, **more):
            after = observer.after_step

            def after_step():
                done = after()
                sizes.append((params_macs.count_params(model), params_macs.params(observer.architecture)))
                return done

            observer.after_step = after_step
            return super().fit(model, settings, observer=observer, **more)

    growing.search(problem_of(tiny, Watched(), 0.3), QUICK)
    assert all(real == counted for real, counted in sizes)
    assert len(set(sizes)) > 3
    assert max(real for real, _ in sizes) < 0.9 * params_macs.params(tiny)


def test_a_run_begins_with_one_filter_in_every_layer(tiny, quick_trainer):
    found = growing.search(problem_of(tiny, quick_trainer(), 0.3), QUICK)
    first = found.trace["growth"]["rounds"][0]
    assert first["params"] == params_macs.params(tiny.with_widths(dict.fromkeys(tiny.widths, 1)))


def test_what_is_drawn_again_takes_back_its_weights_and_momentum(tiny, quick_trainer):
    space = Space.of(problem_of(tiny, quick_trainer(), 0.5))
    store = Store(space, seed=0)
    every = np.ones(space.length, dtype=bool)
    model = store.network(tiny, every, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(8, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moments = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in model.named_parameters()}
    store.keep(model, optimizer, every)
    few = every.copy()
    few[3:9] = few[20:30] = False
    smaller = store.network(space.architecture(few), few, 1)
    store.hand_over(smaller, optimizer, few)
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.fill_(7.0)
    store.keep(smaller, optimizer, few)
    back = store.network(tiny, every, 2)
    store.hand_over(back, optimizer, every)
    stem = back.stem.weight
    assert bool((stem[~few[:13]] == before["stem.weight"][~few[:13]]).all())
    assert bool((stem[few[:13]] == 7.0).all())
    assert bool((optimizer.state[stem]["momentum_buffer"] == moments["stem.weight"]).all())


def test_a_drawn_network_computes_what_the_whole_one_does_without_the_other_channels(tiny, quick_trainer):
    space = Space.of(problem_of(tiny, quick_trainer(), 0.5))
    store, every = Store(space, seed=0), np.ones(space.length, dtype=bool)
    whole = store.network(tiny, every, 0).eval()
    store.keep(whole, torch.optim.SGD(whole.parameters()), every)
    drawn = np.random.default_rng(0).random(space.length) < 0.5
    part = store.network(space.architecture(drawn), drawn, 1).eval()
    assert params_macs.count_params(part) == params_macs.params(space.architecture(drawn)) < params_macs.params(tiny)
    scales = ChannelScales(whole, space.graph, space.groups)
    scales.scale_(torch.from_numpy(drawn).float())
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(part(images), whole(images))


def test_fresh_weights_depend_on_the_seed_and_the_turn_alone(tiny, quick_trainer):
    space = Space.of(problem_of(tiny, quick_trainer(), 0.5))
    drawn = np.ones(space.length, dtype=bool)

    def fresh(seed, turn):
        torch.manual_seed(int(torch.randint(1000, ())))
        return Store(space, seed).network(tiny, drawn, turn).stem.weight

    assert torch.equal(fresh(1, 2), fresh(1, 2))
    assert not torch.equal(fresh(1, 2), fresh(1, 3))
    assert not torch.equal(fresh(1, 2), fresh(2, 2))


def scaled_loss(grower, model, raw, s, images, labels):
    """The loss of a network whose parameters are scaled by σ(β·s), as autograd sees it."""
    factors = torch.sigmoid(grower.indicators.beta() * s)[grower._where]
    padded = torch.cat([factors, torch.ones(1)])
    scaled = dict(raw)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for term in grower.scales._terms:
        name = names[term.parameter]
        scaled[name] = scaled[name] * padded[term.entries].view(term.shape)
    output = torch.func.functional_call(model, scaled, (images,))
    return nn.functional.cross_entropy(output, labels)


@pytest.mark.parametrize("kind", ["tiny", "layered", "residual"])
def test_gradients_of_indicators_and_weights_are_those_of_autograd(kind, request, quick_trainer):
    architecture = request.getfixturevalue(kind)
    problem = problem_of(architecture, quick_trainer(), 0.5)
    settings = GrowthSettings(dataclasses.replace(INDICATORS, momentum=0.0), 24, 24, 8, 0.5, 1)

    class Fixed(Grower):
        def seed_network(self):
            drawn = np.random.default_rng(1).random(self.space.length) < 0.6
            drawn[[own.start for own in self.space.slices.values()]] = True
            return drawn

    grower = Fixed(problem, Space.of(problem), settings, lambda model: model)
    model = grower.first_network().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    grower.start(model, optimizer, 3)
    indicators = grower.indicators
    indicators.s += torch.randn(len(indicators.s), generator=torch.Generator().manual_seed(2))
    names = {parameter: name for name, parameter in model.named_parameters()}
    raw = {name: p.detach().clone() for name, p in model.named_parameters()}
    raw |= {names[p]: value.clone() for p, value in zip(grower.scales.parameters, grower._raw, strict=True)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(raw[name])
    grower._put_scales_on()
    images, labels = torch.randn(16, *architecture.input_shape).double(), torch.randint(10, (16,))
    nn.functional.cross_entropy(model(images), labels).backward()
    grower._look_every, indicators.force = 10**9, 0.0
    before, grower.step = indicators.s.clone(), 1
    grower.after_backward()

    s = before.double().requires_grad_()
    leaves = {name: value.clone().requires_grad_() for name, value in raw.items()}
    scaled_loss(grower, model, leaves, s, images, labels).backward()
    moved = (before - indicators.s) / (INDICATORS.lr * 390 / INDICATORS.steps)
    torch.testing.assert_close(moved, s.grad.float(), rtol=2e-3, atol=2e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), raw[name])
        if not name.endswith(".mix"):
            torch.testing.assert_close(parameter.grad, leaves[name].grad)


def test_a_training_too_short_to_grow_keeps_the_proportions_of_the_unscaled_network(tiny, quick_trainer):
    growth = growing.search(problem_of(tiny, quick_trainer(), 0.3), GrowingConfig(settle=0.99))
    shares = [width / tiny.widths[name] for name, width in growth.architecture.widths.items()]
    assert max(shares) < 1.5 * min(shares)
    assert growth.trace["growth"]["settled_step"] == 1


@pytest.mark.parametrize("share", [0.2, 0.4, 0.9])
def test_settling_keeps_the_drawn_channels_first_and_then_those_of_the_highest_scores(tiny, quick_trainer, share):
    problem = problem_of(tiny, quick_trainer(), share)
    space, random = Space.of(problem), np.random.default_rng(3)
    scores, drawn = random.standard_normal(space.length), random.random(space.length) < 0.4
    kept = select(problem, space, drawn, scores).drawn
    for own in space.slices.values():
        order = np.lexsort((-scores[own], ~drawn[own]))
        assert kept[own][order[: kept[own].sum()]].all()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_settling_scales_all_widths_of_the_drawn_network_alike(quick_trainer, share):
    vgg = models.reference_architecture("vgg11_bn", {}, 10, (3, 32, 32), 0.25)
    problem = problem_of(vgg, quick_trainer(), share)
    space, drawn = Space.of(problem), np.zeros(0, dtype=bool)
    for size, own in zip(space.sizes, (0.5, 0.4, 0.3, 0.25, 0.5, 0.4, 0.3, 0.25), strict=True):
        drawn = np.append(drawn, np.arange(size) < own * size)
    kept = select(problem, space, drawn, np.zeros(space.length)).drawn
    before, after = (np.array([array[own].sum() for own in space.slices.values()]) for array in (drawn, kept))
    factor = float(np.median(after / before))
    free = after < np.array(space.sizes)
    assert (np.abs(after - factor * before) <= 2 + 0.05 * after)[free].all()
    assert params_macs.params(space.architecture(kept)) <= problem.budget.limits["params"]


def test_a_layer_that_is_not_drawn_takes_its_filters_with_it_and_seed_units_stay(residual, quick_trainer):
    space = Space.of(problem_of(residual, quick_trainer(), 0.5))
    drawn = np.ones(space.length, dtype=bool)
    drawn[space.starts["layer2.1"]] = False
    found = space.architecture(drawn)
    assert not [name for name in found.widths if name.startswith("layer2.1.")]
    assert set(residual.widths) - set(found.widths) == {"layer2.1.conv1"}
    assert all(unit.number > 0 for unit in space.layers.values())
    model = models.build(found)
    assert not hasattr(model.layer2, "1")


@pytest.mark.parametrize("kind", ["layered", "residual"])
def test_layers_grow_within_the_budget(kind, request, quick_trainer):
    architecture = request.getfixturevalue(kind)
    problem = problem_of(architecture, quick_trainer(), 0.3)
    found = growing.search(problem, QUICK)
    assert params_macs.params(found.architecture) <= problem.budget.limits["params"]
    model = models.build(found.architecture)
    model.load_state_dict(found.weights)
    first = found.trace["growth"]["epochs"][0]["units"]
    assert set(first) == {"layer1", "layer2", "layer3"}
    assert "mix" not in found.architecture.options or not found.architecture.options["mix"]


def test_too_small_a_budget_for_all_layers_drops_the_least_of_them(residual, quick_trainer):
    least = residual.with_widths(dict.fromkeys(residual.widths, 1))
    problem = problem_of(residual, quick_trainer(), (params_macs.params(least) - 1) / params_macs.params(residual))
    space = Space.of(problem)
    scores = np.full(space.length, 1.0)
    scores[space.starts["layer3.2"]] = 0.5
    kept = select(problem, space, np.ones(space.length, dtype=bool), scores).drawn
    assert not kept[space.starts["layer3.2"]]
    assert params_macs.params(space.architecture(kept)) <= problem.budget.limits["params"]


def test_a_paused_search_hands_over_its_network(tiny, quick_trainer):
    class Pausing(quick_trainer):
        def fit(self, model, settings, *, observer, **more):
            after = observer.after_step

            def after_step():
                after()
                if observer.step == 7:
                    raise Paused(7 / 3)
                return False

            observer.after_step = after_step
            return super().fit(model, settings, observer=observer, **more)

    with pytest.raises(Unfinished) as caught:
        growing.search(problem_of(tiny, Pausing(), 0.3), QUICK)
    model = models.build(caught.value.architecture)
    model.load_state_dict(caught.value.weights)
    assert params_macs.count_params(model) < params_macs.params(tiny)


def test_the_mixing_weight_of_plain_units_is_there_while_they_come_and_go(layered):
    assert any(name.endswith(".mix") for name, _ in models.build(trained_form(layered)).named_parameters())
    assert not any(name.endswith(".mix") for name, _ in models.build(layered).named_parameters())


@pytest.mark.parametrize(
    ("share", "told"), [(1e-4, "cannot be met"), (1.5, "growing ends at the unscaled network")], ids=["small", "large"]
)
def test_budgets_out_of_reach_are_refused_before_training(tiny, quick_trainer, share, told):
    trainer = quick_trainer()
    with pytest.raises(BudgetError, match=told):
        growing.search(problem_of(tiny, trainer, share), QUICK)
    assert trainer.steps == 0


def test_frozen_groups_and_steps_are_kept(tiny, quick_trainer):
    from compressor.recipe import WidthsConfig
    from compressor.search.bounds import bounds_of

    bounds = bounds_of(WidthsConfig(frozen=("stem",), round_to=4), tiny)
    found = growing.search(problem_of(tiny, quick_trainer(), 0.6, bounds=bounds), QUICK)
    assert found.architecture.widths["stem"] == 13
    assert found.architecture.widths["inner"] % 4 == 0


def test_padding_makes_multiples_while_it_grows(tiny, quick_trainer):
    config = GrowingConfig(steps_per_round=2, settle=0.3, pad_to=4)
    growth = growing.search(problem_of(tiny, quick_trainer(), 0.6), config).trace["growth"]
    rows = [row for row in growth["epochs"] if row["epoch"] * 3 < growth["settled_step"]]
    assert len(rows) > 3
    assert all(n % 4 == 0 or n == tiny.widths[name] for row in rows for name, n in row["channels"].items())


def test_fresh_weights_leave_the_training_to_the_pipeline(tiny, quick_trainer):
    found = growing.search(problem_of(tiny, quick_trainer(), 0.3), GrowingConfig(steps_per_round=2, weights="fresh"))
    assert found.weights is None
    assert found.finetuning is None


def test_training_flops_are_those_of_what_was_computed(tiny, quick_trainer):
    found = growing.search(problem_of(tiny, quick_trainer(), 0.3), GrowingConfig(settle=0.5, steps_per_round=4))
    growth = found.trace["growth"]
    last = growth["epochs"][-1]
    assert last["flops"] == 6 * params_macs.macs(found.architecture) * FINAL.batch_size * 3
    assert growth["reference"]["flops_per_epoch"] == 6 * params_macs.macs(tiny) * FINAL.batch_size * 3


def test_layers_that_indicators_speak_against_fill_a_budget_that_others_leave_unused(residual, quick_trainer):
    problem = problem_of(residual, quick_trainer(), 0.5)
    space = Space.of(problem)
    scores = np.random.default_rng(0).standard_normal(space.length)
    scores[space.channels :] = -np.arange(1, len(space.layers) + 1)
    drawn = np.arange(space.length) < space.channels
    kept = select(problem, space, drawn, scores).drawn
    used = params_macs.params(space.architecture(kept)) / problem.budget.limits["params"]
    assert 0.98 < used <= 1
    present = kept[space.channels :]
    assert 0 < present.sum() < len(space.layers)
    assert present[: int(present.sum())].all()  # by their rank


class Guessed:
    """The parameters, taken for half as many until a network is measured."""

    def __init__(self):
        self.known = {}

    def __call__(self, architecture):
        return self.known.get(architecture.to_json(), 0.5 * params_macs.params(architecture))

    def begin(self, least):
        self.calibrate(least)

    def measured(self, architecture):
        self.calibrate(architecture)
        return self(architecture)

    def calibrate(self, architecture):
        before = self(architecture)
        self.known[architecture.to_json()] = params_macs.params(architecture)
        return before == self(architecture)


def test_a_cost_that_is_an_estimate_is_measured_before_the_network_settles(tiny, quick_trainer, monkeypatch):
    monkeypatch.setattr(Guessed, "__call__", lambda self, a: self.known.get(a.to_json(), 0.99 * params_macs.params(a)))
    guessed, limit = Guessed(), 0.4 * params_macs.params(tiny)
    costs = {**params_macs.COSTS, "params": guessed}
    problem = Problem(tiny, Budget({"params": limit}), costs, quick_trainer(), final=FINAL)
    found = calibrated(growing.search, problem, QUICK)
    assert found.architecture.to_json() in guessed.known
    assert params_macs.params(found.architecture) <= limit


def test_diverged_indicators_end_the_search_and_leave_no_checkpoint(tiny, quick_trainer, tmp_path):
    class Diverging(quick_trainer):
        def fit(self, model, settings, *, observer, checkpoint, **more):
            checkpoint.write_bytes(b"of a run that diverges")
            after = observer.after_step

            def after_step():
                observer.indicators.s.fill_(float("nan"))
                return after()

            observer.after_step = after_step
            return super().fit(model, settings, observer=observer, checkpoint=checkpoint, **more)

    with pytest.raises(TrainingError, match=r"train\.lr"):
        growing.search(problem_of(tiny, Diverging(), 0.4, work=tmp_path), QUICK)
    assert not list(tmp_path.iterdir())


def test_folding_scales_weights_and_momentum_alike(tiny, quick_trainer):
    problem = problem_of(tiny, quick_trainer(), 0.5)
    grower = Grower(problem, Space.of(problem), GrowthSettings(INDICATORS, 24, 20, 8, 0.0, 1), lambda model: model)
    model = grower.first_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    grower.start(model, optimizer, 3)
    grower.indicators.s.fill_(0.7)
    grower.store.momentum = {name: torch.ones_like(value) for name, value in grower.store.momentum.items()}
    grower.settle()
    scale = model.bn2.weight  # of `inner`: fresh γ = 1
    assert grower.scales is None
    torch.testing.assert_close(scale.detach()[1:], optimizer.state[scale]["momentum_buffer"][1:])
    assert bool((scale.detach()[1:] < 1).all())


@pytest.mark.parametrize("signal", ["utility", "gradient"])
def test_no_channels_change_places_when_growth_settles(tiny, quick_trainer, signal):
    config = GrowingConfig(steps_per_round=1, settle=0.1, signal=signal)
    problem = problem_of(tiny, quick_trainer(), 0.5)
    growth = growing.search(problem, config).trace["growth"]
    settled, last = growth["settled"], growth["rounds"][-1]
    against = "added" if last["params"] > problem.budget.limits["params"] else "removed"
    assert settled[against] <= 2  # what is too large loses channels, and what is too small gains some
    assert settled["channels"] == sum(growth["epochs"][-1]["channels"].values())
    assert last["step"] < growth["settled_step"]
