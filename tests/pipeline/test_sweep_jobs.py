"""What a comparison is made of, and what it refuses before anything runs."""

import pytest
from small import small_recipe

from compressor.errors import RecipeError
from compressor.pipeline.sweep_jobs import UNSCALED, make_sweep
from compressor.recipe import methods, parse_recipe

RAW = small_recipe(
    model={"name": "mlp", "width": 0.05},
    budget={"params": "1k", "macs": "2k"},
    search={"method": "neuralscale", "iterations": 2, "pretrain_epochs": 3},
    seed=5,
)


def sweep(methods=("neuralscale", "uniform"), budgets=("0.25x",), seeds=2):
    return make_sweep(parse_recipe(RAW), methods, budgets, seeds)


def test_the_jobs_are_every_method_at_every_budget_with_every_seed():
    jobs = sweep(budgets=("0.25x", "params=37k"), seeds=3).jobs
    wanted = [
        (method, budget, seed)
        for seed in (5, 6, 7)
        for method, budgets in ((UNSCALED, [""]), *((m, ["0.25x", "params=37k"]) for m in ("neuralscale", "uniform")))
        for budget in budgets
    ]
    assert [(job.method, job.budget, job.seed) for job in jobs] == wanted
    assert all(job.recipe.seed == job.seed and job.recipe.baselines == () for job in jobs)
    assert len({job.folder for job in jobs}) == len(jobs)
    assert len({job.work for job in jobs}) == 9
    assert jobs[2].folder == "runs/neuralscale/params-37k/5"
    assert (jobs[1].work, jobs[2].work) == ("shared/neuralscale-5",) * 2
    assert jobs[1].name == "neuralscale 0.25x seed 5"
    assert jobs[0].name == "unscaled seed 5"


def test_methods_take_the_keys_of_the_recipe_that_they_have():
    jobs = {job.method: job.recipe.search for job in sweep(methods=("neuralscale", "morphnet", "uniform")).jobs}
    assert (jobs["neuralscale"].iterations, jobs["neuralscale"].pretrain_epochs) == (2, 3)
    assert (jobs["morphnet"].pretrain_epochs, jobs["morphnet"].prune_every) == (3, 50)
    assert jobs["uniform"].method == "uniform"


def test_options_of_a_method_go_before_those_of_the_recipe():
    jobs = sweep(methods=("neuralscale", "neuralscale:iterations=7; prune_every=9")).jobs
    searches = [job.recipe.search for job in jobs if job.method != UNSCALED and job.seed == 5]
    assert [(search.iterations, search.prune_every, search.pretrain_epochs) for search in searches] == [
        (2, 50, 3),
        (7, 9, 3),
    ]
    assert len({job.folder for job in jobs}) == len(jobs)


def test_a_share_is_of_the_costs_that_the_recipe_limits():
    budgets = {job.budget: job.recipe.budget for job in sweep(budgets=("0.25x", "macs=1M", "params=0.5x+macs=9k")).jobs}
    assert budgets["0.25x"].model_dump(exclude_none=True) == {"params": "0.25x", "macs": "0.25x"}
    assert budgets["macs=1M"].model_dump(exclude_none=True) == {"macs": 1_000_000}
    assert budgets["params=0.5x+macs=9k"].model_dump(exclude_none=True) == {"params": "0.5x", "macs": 9000}
    assert budgets[""].model_dump(exclude_none=True) == {"params": "1x", "macs": "1x"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["neuralscal"]}, r"methods: 'neuralscal' is not one of .*did you mean neuralscale\?"),
        ({"methods": []}, "methods: give at least one"),
        ({"methods": ["uniform", "uniform"]}, "methods: 'uniform' is given twice"),
        ({"methods": ["uniform", ""]}, "methods: '' in 'uniform,' is not a name"),
        ({"methods": ["uniform:"]}, "methods: 'uniform:': '' must look like key=value"),
        ({"methods": ["uniform:shortcut"]}, "methods: 'uniform:shortcut': 'shortcut' must look like key=value"),
        ({"methods": ["uniform:method=l1"]}, "methods: 'uniform:method=l1': 'method=l1' must look like"),
        ({"methods": ["uniform:seed=1"]}, "methods: uniform:seed=1: search.seed: unknown key: 'seed' is not one of"),
        ({"methods": ["neuralscale:iterations=0"]}, "methods: neuralscale:iterations=0: search.iterations: 0 is not"),
        ({"budgets": []}, "budgets: give at least one"),
        ({"budgets": ["half"]}, "budgets: 'half' is not valid: must be a share of the unscaled network"),
        ({"budgets": ["0.25"]}, "budgets: '0.25' is not valid: must be a share"),
        ({"budgets": ["0x"]}, "budgets: 0x: budget.params: '0x' is not valid"),
        ({"budgets": ["params=37k+params=1k"]}, "budgets: 'params=37k.params=1k' is not valid"),
        ({"budgets": ["parms=37k"]}, r"budgets: parms=37k: budget.parms: unknown key: .*did you mean params\?"),
        ({"budgets": ["params=many"]}, "budgets: params=many: budget.params: 'many' is not valid"),
        ({"seeds": 0}, "seeds: 0 is not valid: must be 1 or more"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_sentence(change, message):
    with pytest.raises(RecipeError, match=message) as caught:
        sweep(**change)
    assert len(str(caught.value).splitlines()) <= 2  # one for each limit that a share stands for


def test_every_built_in_method_can_be_compared():
    assert {job.method for job in sweep(methods=tuple(methods())).jobs} == {UNSCALED, *methods()}
