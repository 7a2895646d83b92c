"""TissueNet: any budget is met and filled, on any network; what is counted is what is built; trials are resumed."""

import math

import pytest
import torch

from compressor.costs import params_macs
from compressor.errors import BudgetError, ModelError, RecipeError
from compressor.models import build, build_meta, example_input, reference_architecture
from compressor.recipe import TissueNetConfig, WidthsConfig, parse_recipe
from compressor.search import search
from compressor.search.bounds import bounds_of
from compressor.search.methods.tissuenet.forms import forms_of

NETWORKS = [
    ("vgg16_bn", 0.25, (3, 32, 32)),
    ("preact_resnet18", 0.25, (3, 32, 32)),
    ("mlp", 1.0, (1, 28, 28)),
    ("torchvision:resnet18", 1.0, (3, 64, 64)),
    ("torchvision:mobilenet_v2", 1.0, (3, 64, 64)),
]
LIMITS = [{"params": 0.3}, {"params": 0.35, "macs": 0.4}]


@pytest.mark.parametrize("share", LIMITS, ids=[" and ".join(limits) for limits in LIMITS])
@pytest.mark.parametrize(("model", "width", "shape"), NETWORKS, ids=[name for name, *_ in NETWORKS])
def test_budgets_are_met_and_filled(problem, model, width, shape, share):
    reference = reference_architecture(model, {}, 10, shape, width)
    limits = {name: int(part * params_macs.COSTS[name](reference)) for name, part in share.items()}
    found = search(problem(reference, limits, width=width), TissueNetConfig(trials=1, k=4, mix="single"))
    tissue = found.architecture
    network = build_meta(tissue)
    macs = params_macs.count_macs(network, example_input(tissue, 1).to("meta"))
    spent = {"params": params_macs.count_params(network), "macs": macs}
    assert {name: params_macs.COSTS[name](tissue) for name in spent} == spent
    assert all(spent[name] <= limit for name, limit in limits.items())
    assert max(spent[name] / limit for name, limit in limits.items()) > 0.98
    assert tissue.stacks


def test_the_result_is_an_architecture_that_survives_json(tiny, problem):
    found = search(problem(tiny, {"params": 3000}), TissueNetConfig(trials=1)).architecture
    again = type(found).from_json(found.to_json())
    assert again == found
    one, two = (build(architecture, 3).state_dict() for architecture in (found, again))
    assert all((one[name] == two[name]).all() for name in one)


def test_larger_budgets_give_more(tiny, problem):
    spent = [
        params_macs.params(search(problem(tiny, {"params": limit}), TissueNetConfig(trials=1, k=3)).architecture)
        for limit in (2000, 4000, 8000)
    ]
    assert spent == sorted(spent)
    assert len(set(spent)) == 3


def test_the_candidate_of_least_loss_after_its_trial_is_chosen(tiny, problem, quick_trainer):
    trainer = quick_trainer()
    found = search(problem(tiny, {"params": 3000}, trainer), TissueNetConfig(trials=3, trial_epochs=1))
    tissue = found.trace["tissue"]
    losses = [row["trial_loss"] for row in tissue["candidates"] if row.get("trial_loss") is not None]
    assert len(losses) == 3 == len(trainer.phases)
    assert tissue["chosen"]["trial_loss"] == min(losses)
    assert len({(row["nodes"], row["k"]) for row in tissue["candidates"][:3]}) == 3


class Clock:
    """Says how long networks take: all of them as long as the uniformly scaled one, but those that are slow."""

    def __init__(self, slow):
        self.slow, self.asked = slow, []

    def __call__(self, networks):
        self.asked += networks
        assert not networks[0].stacks
        return [10.0] + [10.0 * self.slow(network) for network in networks[1:]]


def wide_units(network):
    """Units of two inputs take three times as long as the uniformly scaled network; others 1.5 times."""
    return 3.0 if any(kind.unit.inputs == 2 for stack in network.stacks.values() for kind in stack.kinds) else 1.5


@pytest.mark.parametrize("slowdown", [None, 2.0, 1.0])
def test_slow_candidates_are_tried_after_fast_ones(tiny, problem, quick_trainer, slowdown):
    clock = Clock(wide_units)
    config = TissueNetConfig(trials=2, trial_epochs=1, slowdown=slowdown)
    found = search(problem(tiny, {"params": 3000}, quick_trainer(), side_by_side=clock), config)
    tried = [row for row in found.trace["tissue"]["candidates"] if row.get("trial_loss") is not None]
    if slowdown is None:
        assert not clock.asked
        return
    assert [row["slowdown"] for row in tried] == [1.5, 1.5]
    kinds = [(row["strategy"], row["nodes"], row["k"], row["mix"]) for row in found.trace["tissue"]["candidates"]]
    assert len(set(kinds)) == len(kinds)


def test_all_slow_the_fastest_are_tried(tiny, problem, quick_trainer):
    times = iter(range(100, 0, -1))
    config = TissueNetConfig(trials=2, trial_epochs=1, mix="single")
    found = search(problem(tiny, {"params": 3000}, quick_trainer(), side_by_side=Clock(lambda _: next(times))), config)
    rows = [row for row in found.trace["tissue"]["candidates"] if row["slowdown"] is not None]
    tried = [row["slowdown"] for row in rows if row.get("trial_loss") is not None]
    assert sorted(row["slowdown"] for row in rows)[:2] == tried


def test_what_was_measured_is_not_measured_again(tiny, problem, quick_trainer, tmp_path):
    config, limits = TissueNetConfig(trials=2, trial_epochs=1), {"params": 3000}
    whole = search(problem(tiny, limits, quick_trainer(), tmp_path, side_by_side=Clock(wide_units)), config)
    other = Clock(lambda _: 1.0)
    again = search(problem(tiny, limits, quick_trainer(), tmp_path, side_by_side=other), config)
    assert not other.asked
    assert (again.architecture, again.trace) == (whole.architecture, whole.trace)


@pytest.mark.parametrize("nodes", ["auto", 8, 16])
def test_wide_units_fill_blocks_of_channels(problem, nodes):
    reference = reference_architecture("vgg16_bn", {}, 10, (3, 32, 32), 1.0)
    limits = {"params": int(0.4 * params_macs.params(reference))}
    config = TissueNetConfig(nodes=nodes, strategy="all", mix="single")
    forms = [form for form in forms_of(problem(reference, limits), config) if form.nodes != 2]
    assert {form.nodes for form in forms} == ({8, 16} if nodes == "auto" else {nodes})
    for form in forms:
        start = form.bounds.whole(form.scaled(0.6))
        stacks = form.architecture(start.tolist()).stacks.values()
        assert all(kind.unit == (form.nodes, form.k, form.nodes) for stack in stacks for kind in stack.kinds)
        assert all(stack.inputs % 16 == stack.hidden % 16 == stack.outputs % 16 == 0 for stack in stacks)


def test_a_search_resumes_to_the_same_result(tiny, problem, quick_trainer, tmp_path):
    config, limits = TissueNetConfig(trials=3, trial_epochs=1), {"params": 3000}
    whole = search(problem(tiny, limits, quick_trainer(), tmp_path / "a"), config)
    (tmp_path / "b").mkdir()
    with pytest.raises(KeyboardInterrupt):
        search(problem(tiny, limits, quick_trainer(kill_after=4), tmp_path / "b"), config)
    rest = quick_trainer()
    again = search(problem(tiny, limits, rest, tmp_path / "b"), config)
    assert (again.architecture, again.trace) == (whole.architecture, whole.trace)
    assert len(rest.phases) == 2  # the first trial was kept


def test_diverged_trials_are_not_chosen(tiny, problem, quick_trainer):
    from compressor.errors import TrainingError

    class Diverging(quick_trainer):
        def fit(self, model, settings, **more):
            if len(self.phases) == 0:
                self.phases.append("diverged")
                raise TrainingError("not a number")
            return super().fit(model, settings, **more)

    tissue = search(problem(tiny, {"params": 3000}, Diverging()), TissueNetConfig(trials=2)).trace["tissue"]
    assert tissue["candidates"][0]["trial_loss"] is None
    assert tissue["chosen"] == tissue["candidates"][1]


@pytest.mark.parametrize("counts", [(), (1, 2)])
def test_given_units_are_stacked_in_proportion_or_drawn(tiny, problem, counts):
    config = TissueNetConfig(units=((2, 1, 2), (2, 5, 2)), counts=counts, trials=1)
    found = search(problem(tiny, {"params": 3000}), config).architecture
    (stack,) = found.stacks.values()
    assert {unit.hidden for _, unit in stack.kinds} == {1, 5}
    if counts:
        (few, _), (many, _) = sorted(stack.kinds, key=lambda kind: kind.unit.hidden)
        assert math.isclose(many / few, 2, rel_tol=0.35)


@pytest.mark.parametrize(("model", "width", "shape"), NETWORKS[:4], ids=[name for name, *_ in NETWORKS[:4]])
def test_stacked_layers_have_two_units_or_more_and_no_fewer_nodes_than_said(problem, model, width, shape):
    reference = reference_architecture(model, {}, 10, shape, width)
    limits = {"params": int(0.3 * params_macs.params(reference))}
    found = search(problem(reference, limits, width=width), TissueNetConfig(trials=1, mix="single"))
    chosen = found.trace["tissue"]["chosen"]
    for stack in found.architecture.stacks.values():
        assert stack.count > 1
        for kind in stack.kinds:
            assert kind.unit.inputs >= chosen["nodes"] or stack.count <= 3
            assert kind.unit.hidden >= chosen["k"] or kind.unit.inputs < chosen["nodes"]
    hidden = [kind.unit.hidden for stack in found.architecture.stacks.values() for kind in stack.kinds]
    assert chosen["hidden"] == [min(hidden), max(hidden)]


def test_a_k_that_no_budget_leaves_room_for_is_refused(problem):
    reference = reference_architecture("vgg16_bn", {}, 10, (3, 32, 32), 0.25)
    limits = {"params": int(0.005 * params_macs.params(reference))}
    with pytest.raises(BudgetError, match="cannot be met"):
        search(problem(reference, limits, width=0.25), TissueNetConfig(trials=1, k=128))


def test_fewest_channels_within_a_pair_are_kept(problem):
    reference = reference_architecture("preact_resnet18", {}, 10, (3, 32, 32), 0.25)
    inner = forms_of(problem(reference, {"params": 10**6}), TissueNetConfig(strategy="all"))[0].sites[0].hidden
    bounds = bounds_of(WidthsConfig(minimum={inner: 60}), reference)
    limits = {"params": int(0.3 * params_macs.params(reference))}
    found = search(problem(reference, limits, bounds=bounds), TissueNetConfig(trials=1, k=2, mix="single"))
    assert found.architecture.widths[inner] >= 60


class ReadsWeights(torch.nn.Module):
    """A network whose code multiplies with a layer's weight itself."""

    def __init__(self, hidden=32):
        super().__init__()
        self.a, self.b, self.c = torch.nn.Linear(64, 32), torch.nn.Linear(32, hidden), torch.nn.Linear(hidden, 32)
        self.d = torch.nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.a(x.flatten(1)))
        x = torch.relu(torch.nn.functional.linear(x, self.b.weight, self.b.bias))
        return self.d(torch.relu(self.c(x)))


def test_a_network_that_uses_weights_and_not_layers_is_refused(problem):
    reference = reference_architecture(f"{__name__}:ReadsWeights", {}, 10, (1, 8, 8))
    with pytest.raises(ModelError, match="does not run with stacked layers in place of the pairs of"):
        search(problem(reference, {"params": 3000}), TissueNetConfig(strategy=("b",)))


def test_units_that_fit_nowhere_are_refused(tiny, problem):
    with pytest.raises(ModelError, match=r"search\.units"):
        search(problem(tiny, {"params": 3000}), TissueNetConfig(units=((2, 4, 3),)))


def test_a_network_without_pairs_is_refused(problem):
    reference = reference_architecture("lstm", {}, 50, (7,))
    with pytest.raises(ModelError, match="leaves nothing to stack"):
        search(problem(reference, {"params": 1_000_000}), TissueNetConfig())


def test_a_budget_below_the_least_network_is_refused(tiny, problem):
    with pytest.raises(BudgetError, match="cannot be met"):
        search(problem(tiny, {"params": 50}), TissueNetConfig())


def test_widths_that_the_recipe_fixes_are_kept(problem):
    reference = reference_architecture("preact_resnet18", {}, 10, (3, 32, 32), 0.25)
    bounds = bounds_of(WidthsConfig(round_to=4, frozen=("layer4.0.conv2",)), reference)
    limits = {"params": int(0.4 * params_macs.params(reference))}
    found = search(problem(reference, limits, bounds=bounds), TissueNetConfig(trials=1)).architecture
    assert found.widths["layer4.0.conv2"] == reference.widths["layer4.0.conv2"]
    hidden = set(found.stacks)
    assert all(width % 4 == 0 for name, width in found.widths.items() if name not in hidden)


def test_strategies_leave_out_what_they_say(problem):
    reference = reference_architecture("vgg16_bn", {}, 10, (3, 32, 32), 0.25)
    stacked = {
        strategy: {
            site.first
            for form in forms_of(problem(reference, {"params": 10**6}), TissueNetConfig(strategy=strategy))
            for site in form.sites
        }
        for strategy in ("all", "r", ("conv6",))
    }
    assert stacked["all"] == {"conv2", "conv4", "conv6", "conv9", "conv12"}
    assert stacked["r"] == {"conv4", "conv6", "conv9"}
    assert stacked["conv6",] == {"conv6"}


@pytest.mark.parametrize(
    "search_section",
    [
        {"strategy": "most"},
        {"k": 0},
        {"units": [[2, 4, 2]], "k": 4},
        {"units": [[2, 4, 2], [4, 4, 2]]},
        {"units": [[2, 4, 2]], "counts": [1, 2]},
        {"strategy": []},
        {"mix": "both"},
    ],
)
def test_bad_settings_are_refused(search_section):
    raw = {
        "model": "mlp",
        "data": "digits",
        "budget": {"params": 1000},
        "search": {"method": "tissuenet"} | search_section,
    }
    with pytest.raises(RecipeError, match="search"):
        parse_recipe(raw)
