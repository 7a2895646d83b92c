"""Search methods and costs of other packages, in recipes, run folders and reports."""

import json
import textwrap

import pytest
import yaml
from small import refusal, small_recipe

from compressor import search
from compressor.errors import CompressorError, RecipeError
from compressor.pipeline import run, run_folder
from compressor.recipe import parse_recipe, schema
from compressor.report import render_html, summary_lines

SMALL = small_recipe()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with search methods, in the form in which pip would leave it."""

    def install_one(package, entry_point, group="compressor.methods"):
        (tmp_path / f"{package}.py").write_text(
            textwrap.dedent("""
            from typing import ClassVar, Literal
            from pydantic import BaseModel

            class Config(BaseModel, extra="forbid"):
                method: Literal["dice"] = "dice"
                sides: int = 6

            def search(problem, config):
                return problem, config.sides

            METHOD = (Config, search)
            NOT_A_PAIR = Config

            from compressor.report.sections import section
            from compressor.search import Method

            class Odd(BaseModel, extra="forbid"):
                uses: ClassVar = ("train",)
                method: Literal["dice"] = "dice"

            ODD = (Odd, search)

            from compressor.costs import Cost

            WEIGHT = {"name": "weight", "title": "weight", "description": "grams", "evaluator": lambda context: len}
            WEIGHT_OF_NOTHING = Cost(**WEIGHT)
            WEIGHT_WITHOUT_RECORD = Cost(**WEIGHT, verify=lambda context, path, limit: {"cost": 1})
            BATCH = Cost(**WEIGHT | {"name": "batch"}, shipped=lambda network: 1)
            WIDTHS = Cost(**WEIGHT | {"name": "widths"}, shipped=lambda network: 1)

            WHOLE = Method(
                Config,
                search,
                depends_on=("train",),
                anytime=True,
                sections=(lambda record: section("Dice", f"{record['trace']['eyes']} eyes"),),
                lines=(lambda record: f"rolled {record['trace']['eyes']}",),
            )
            """)
        )
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry_point}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install_one


BUDGETS = [
    ({"latency_ms": 3}, {"latency_ms": 3.0}),
    ({"latency_ms": "2.5"}, {"latency_ms": 2.5}),
    ({"latency": "0.5x"}, {"latency_ms": 4.0}),
    ({"latency": "0.5x", "params": "0.1x", "macs": 70}, {"params": 10.0, "macs": 70.0, "latency_ms": 4.0}),
]


def test_a_third_party_method_is_accepted_and_dispatched(install):
    install("methods_dice", "dice = methods_dice:METHOD")
    raw = {**SMALL, "search": {"method": "dice", "sides": 20}}
    recipe = parse_recipe(raw)
    assert recipe.search.sides == 20
    assert search.search("the problem", recipe.search) == ("the problem", 20)
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    assert parse_recipe(SMALL).search.method == "uniform"
    assert "dice" in json.dumps(schema())
    message = refusal({**SMALL, "search": {"method": "dice", "side": 3}})
    assert message == "my.yaml: search.side: unknown key: 'side' is not one of method, sides (did you mean sides?)"
    assert "dice, " in refusal({**SMALL, "search": {"method": "disc"}})


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("weight = costs_odd:WEIGHT_OF_NOTHING", "'weight' must have one of shipped and verify"),
        ("weight = costs_odd:WEIGHT_WITHOUT_RECORD", "'weight' has verify, and so must have record"),
        ("weight = costs_odd:WHOLE", "'weight' must be a compressor.costs.Cost of that name"),
        ("batch = costs_odd:BATCH", "the name 'batch' has another meaning under budget"),
        ("widths = costs_odd:WIDTHS", "the name 'widths' has another meaning in reports"),
    ],
)
def test_a_third_party_cost_that_cannot_work_is_refused(install, point, message):
    install("costs_odd", point, "compressor.costs")
    with pytest.raises(RecipeError, match=message):
        parse_recipe(SMALL)


def test_a_pair_says_by_its_config_class_what_it_depends_on(install):
    install("methods_odd", "dice = methods_odd:ODD")
    assert "train" in run_folder._used("search", parse_recipe({**SMALL, "search": {"method": "dice"}}))


def test_a_pair_is_a_method_with_what_its_trace_and_config_say(install):
    install("methods_pair", "dice = methods_pair:METHOD")
    recipe = parse_recipe({**SMALL, "search": {"method": "dice"}})
    assert "train" not in run_folder._used("search", recipe)
    removal = {"torch_pruning": ["a"], "tracer": {}, "groups": 1, "version": "1.6", "events": {"tracer": 0}}
    record = {"method": "dice", "trace": {"iterations": [], "removal": removal}}
    assert "Channel removal" in render_html(record)
    assert "Channel removal" in render_html(record | {"method": "of a package that is not installed"})
    assert "Channel removal" not in render_html(record | {"method": "uniform"})


def test_a_third_party_method_brings_all_that_the_package_asks_of_one(install, tmp_path):
    install("methods_whole", "dice = methods_whole:WHOLE")
    recipe = parse_recipe({**SMALL, "search": {"method": "dice"}})
    message = refusal({**SMALL, "search": {"method": "dice"}, "train": {"keep": "best"}})
    assert message.endswith("train.keep: best is not for search.method: dice, whose network changes; valid: last")
    with pytest.raises(RecipeError, match=r"search.method: uniform has no network to stop at; valid: growing, dice$"):
        run(parse_recipe(SMALL), tmp_path / "out", stop_at=1)
    assert "train" in run_folder._used("search", recipe)
    record = {"method": "dice", "trace": {"eyes": 5}}
    assert "5 eyes" in render_html(record)
    assert "rolled 5" in summary_lines(record)
    assert "5 eyes" not in render_html(record | {"method": "uniform"})


def test_a_method_name_taken_twice(install):
    install("methods_one", "uniform = methods_one:METHOD")
    with pytest.raises(CompressorError, match=r"the name 'uniform' \(methods_one:METHOD\) is already taken"):
        parse_recipe(SMALL)


@pytest.mark.parametrize(
    ("package", "point"),
    [("methods_bare", "dice = methods_bare:NOT_A_PAIR"), ("methods_cup", "cup = methods_cup:METHOD")],
)
def test_a_third_party_method_of_the_wrong_form(install, package, point):
    install(package, point)
    with pytest.raises(RecipeError, match=r"must be a compressor.search.Method, or a pair \(pydantic config class"):
        parse_recipe(SMALL)
