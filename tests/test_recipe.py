"""What a recipe accepts, what it refuses and how it says so, and that what it writes reads back the same."""

import copy
import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from small import refusal

from compressor import recipe as recipe_module
from compressor.errors import RecipeError
from compressor.recipe import Recipe, load_recipe, parse_recipe, schema
from compressor.recipe.values import Section

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
SMALL = {
    "model": {"name": "vgg11_bn"},
    "data": {"name": "digits"},
    "budget": {"params": 60_000},
    "search": {"method": "uniform"},
}
OK = "model: vgg11_bn\ndata: digits\nbudget: {params: 60k}\nsearch: {method: uniform}\n"


def changed(section, **values):
    raw = copy.deepcopy(SMALL)
    raw[section] = raw.get(section, {}) | values
    return raw


@pytest.fixture
def write(tmp_path):
    def write_one(content):
        path = tmp_path / "my récipe.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_one


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_reads_back_with_its_defaults_written_out(path, write):
    recipe = load_recipe(path)
    assert load_recipe(write(recipe.to_yaml())) == recipe
    assert yaml.safe_load(recipe.to_yaml()).keys() == recipe_module.Recipe.model_fields.keys()


@pytest.mark.parametrize("method", sorted(recipe_module.methods()))
def test_a_recipe_of_every_method_reads_back(method, write):
    raw = {**SMALL, "search": {"method": method}}
    raw["model"] = {"name": "größe:netz", "width": 0.3, "options": {"depth": 3, "kinds": ["a", None]}}
    recipe = parse_recipe(raw)
    assert recipe.search.method == method
    assert load_recipe(write(recipe.to_yaml())) == recipe


def test_every_config_round_trips_through_json():
    minimal = {recipe_module.ModelConfig: {"name": "m"}, recipe_module.DataConfig: {"name": "d"}}
    minimal |= {recipe_module.BudgetConfig: {"macs": "3M"}, recipe_module.recipe_type(): SMALL}
    kinds = {k for k in vars(recipe_module).values() if isinstance(k, type) and issubclass(k, Section)}
    kinds |= {method.config for method in recipe_module.methods().values()} | set(minimal)
    for kind in kinds - {Section, recipe_module.MethodConfig, recipe_module.Recipe}:
        config = kind(**minimal.get(kind, {}))
        assert kind.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("section", "key", "near"),
    [
        ("model", "widht", "width"),
        ("data", "augmnt", "augment"),
        ("budget", "param", "params"),
        ("widths", "round", "round_to"),
        ("search", "iteration", "iterations"),
        ("train", "epoch", "epochs"),
        ("export", "opsett", "opset"),
        ("bench", "thread", "threads"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path_and_the_valid_ones(section, key, near):
    raw = changed(section, **{key: 3})
    if section == "search":
        raw["search"]["method"] = "neuralscale"
    message = refusal(raw)
    assert message.startswith(f"my.yaml: {section}.{key}: unknown key: '{key}' is not one of ")
    assert message.endswith(f"(did you mean {near}?)")
    assert "\n" not in message


def test_an_unknown_section_is_refused():
    assert "my.yaml: budgets: unknown key: 'budgets' is not one of baselines, bench, budget," in refusal(
        {**SMALL, "budgets": {}}
    )


def test_an_unknown_method_names_the_valid_ones():
    message = refusal({**SMALL, "search": {"method": "neuralscal", "whatever": 1}})
    valid = ", ".join(sorted(recipe_module.methods()))
    assert message == f"my.yaml: search.method: 'neuralscal' is not one of {valid} (did you mean neuralscale?)"
    assert refusal({**SMALL, "search": {}}) == f"my.yaml: search.method: missing; one of {valid}"


def test_every_problem_is_a_line_of_its_own():
    message = refusal({"model": {}, "data": 3, "budget": {"params": -1}, "search": {"method": "x"}, "seed": -1})
    lines = message.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("my.yaml: ") for line in lines)
    assert [line.split(": ")[1] for line in lines] == ["model.name", "data", "budget.params", "search.method", "seed"]


BUDGETS = [
    ({"latency_ms": 3}, {"latency_ms": 3.0}),
    ({"latency_ms": "2.5"}, {"latency_ms": 2.5}),
    ({"latency": "0.5x"}, {"latency_ms": 4.0}),
    ({"latency": "0.5x", "params": "0.1x", "macs": 70}, {"params": 10.0, "macs": 70.0, "latency_ms": 4.0}),
]


@pytest.mark.parametrize(("given", "limits"), BUDGETS)
def test_latency_limits_stand_beside_the_others(given, limits):
    budget = parse_recipe({**SMALL, "budget": given}).budget
    assert budget.resolve({"params": 104, "macs": 1000, "latency_ms": 8.0}) == limits
    assert set(budget.names) == set(limits)


def test_what_the_budget_says_of_the_measurement_wins():
    recipe = parse_recipe(
        {**SMALL, "budget": {"latency_ms": 3, "batch": 8, "threads": 2}, "bench": {"batch": 100, "provider": "cpu"}}
    )
    assert (recipe.measured.batch, recipe.measured.provider, recipe.measured.threads) == (8, "cpu", 2)
    assert recipe.measured.runs == recipe.bench.runs
    assert recipe.budget.at_share("0.3x") == {"latency": "0.3x", "batch": 8, "threads": 2}
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            {"latency_ms": "0.5x"},
            "budget.latency_ms: '0.5x' is not valid: must be milliseconds such as 3.0; a share",
        ),
        ({"latency_ms": 0}, "budget.latency_ms: 0 is not valid: Input should be greater than 0"),
        ({"latency_ms": True}, "budget.latency_ms: True is not valid: must be a number"),
        ({"latency_ms": "fast"}, "budget.latency_ms: 'fast' is not valid"),
        (
            {"latency": 3.0},
            "budget.latency: 3.0 is not valid: must be a share of the unscaled network's latency",
        ),
        ({"latency": "0x"}, "budget.latency: '0x' is not valid: a share of the unscaled network must be above 0"),
        ({"latency": "0.5x", "latency_ms": 3}, "budget: sets latency_ms: 3 and latency: 0.5x; give one of them"),
        ({"params": 100, "batch": 8}, "budget: sets batch without a latency; give latency_ms or latency beside it"),
        (
            {"batch": 8},
            "budget: sets no limit; give one or more of params, macs, onnx_bytes, activation_bytes, latency_ms, lat",
        ),
        ({"latency_ms": 3, "provider": "gpu"}, "budget.provider: 'gpu' is not valid"),
    ],
)
def test_latency_limits_that_mean_nothing_are_refused(budget, message):
    told = refusal({**SMALL, "budget": budget})
    assert told.startswith(f"my.yaml: {message}")
    assert "\n" not in told


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0.58M", 580_000),
        ("580k", 580_000),
        (58e3, 58_000),
        ("1_000", 1_000),
        (1_000, 1_000),
        ("1e3", 1_000),
        ("2.5e-1k", 250),
        (" 5 k ", 5_000),
        ("3G", 3_000_000_000),
        ("1.001M", 1_001_000),  # the product of the floats lies just below it
        (1000.9, 1000),
    ],
)
def test_quantities(written, number):
    budget = parse_recipe(changed("budget", params=written)).budget
    assert budget.params == number
    assert budget.resolve({"params": 77}) == {"params": number}


@pytest.mark.parametrize(
    ("written", "cost", "number"),
    [
        ("0.25x", 579_786, 144_946),  # 144,946.5
        ("1x", 579_786, 579_786),
        (" 1.5 x ", 1001, 1501),
        ("2.5e-1x", 1000, 250),
        ("0.29x", 100, 29),  # the product of the floats lies just below it
        ("0.07x", 100, 7),  # and here above it
        (".5x", 9, 4),
    ],
)
def test_a_share_of_the_unscaled_network(written, cost, number, write):
    recipe = parse_recipe(changed("budget", params=written, macs=7))
    assert recipe.budget.names == ("params", "macs")
    assert recipe.budget.resolve({"params": cost, "macs": 10**6}) == {"params": number, "macs": 7}
    assert load_recipe(write(recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    "value", ["x", "0x", "0.0x", "-1x", "nanx", "infx", "1e999x", "0.5X", "1.2.3x", "0.5kx", "x0.5"]
)
def test_what_is_no_share(value):
    message = refusal(changed("budget", params=value))
    assert message.startswith("my.yaml: budget.params: ")
    assert "share of the unscaled network" in message
    assert "\n" not in message


def test_all_limits_may_be_combined():
    budget = parse_recipe(changed("budget", macs="0.5x", onnx_bytes="200k")).budget
    assert budget.resolve({"params": 1, "macs": 11, "onnx_bytes": 3}) == {
        "params": 60_000,
        "macs": 5,
        "onnx_bytes": 200_000,
    }


def test_a_quantity_in_yaml_and_on_the_command_line(write):
    assert load_recipe(write(OK.replace("60k", "1_000"))).budget.params == 1000
    budget = load_recipe(write(OK), ["budget.params=58e3", "budget.macs=1.5M", "budget.onnx_bytes=0.5x"]).budget
    assert (budget.params, budget.macs, budget.onnx_bytes) == (58_000, 1_500_000, "0.5x")


@pytest.mark.parametrize(
    "value",
    [
        *(float("nan"), float("inf"), -1, 0, 0.5, 10**400, True, False, [], {}),
        *("nan", "inf", "1e400", "1e308G", "-5k", "0", "", "k", "_", "...", "1.2.3", "5K", "5 kB", "１２"),
    ],
)
def test_what_is_no_quantity(value):
    message = refusal(changed("budget", params=value))
    assert message.startswith("my.yaml: budget.params: ")
    assert "\n" not in message


@pytest.mark.parametrize("minimum", [4, {"conv1": 4, "conv8": 16}])
def test_widths_read_back(minimum, write):
    recipe = parse_recipe({**SMALL, "widths": {"round_to": 8, "minimum": minimum, "frozen": ["conv2"]}})
    assert (recipe.widths.round_to, recipe.widths.minimum, recipe.widths.frozen) == (8, minimum, ("conv2",))
    assert load_recipe(write(recipe.to_yaml())) == recipe


def test_an_empty_budget():
    empty = {**SMALL, "budget": {}}
    valid = "params, macs, onnx_bytes, activation_bytes, latency_ms, latency"
    assert refusal(empty) == f"my.yaml: budget: sets no limit; give one or more of {valid}"
    assert refusal({**SMALL, "budget": {"params": None}}) == refusal(empty)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "width", 0),
        ("model", "width", float("nan")),
        ("model", "width", 1e300),
        ("model", "options", {"a": float("nan")}),
        ("model", "options", {"a": float("inf")}),
        ("train", "epochs", True),
        ("train", "lr", True),
        ("model", "width", True),
        ("data", "mean", [True]),
        ("train", "epochs", 0),
        ("train", "epochs", 1.5),
        ("train", "epochs", 10**30),
        ("train", "lr", float("inf")),
        ("train", "channels_last", "yes"),
        ("data", "augment", "crop"),
        ("data", "augment", ["crap"]),
        ("data", "path", 3),
        ("data", "channels", 2),
        ("data", "validation", 1.0),
        ("widths", "round_to", 0),
        ("widths", "minimum", True),
        ("widths", "minimum", 0),
        ("widths", "minimum", "8"),
        ("widths", "minimum", {"conv1": 0}),
        ("widths", "minimum", ["conv1"]),
        ("widths", "frozen", "conv1"),
        ("export", "opset", 8),
        ("bench", "provider", "gpu"),
        ("bench", "batch", 2**40),
        ("bench", "threads", 10**9),
    ],
)
def test_a_bad_value_is_named_with_its_path(section, key, value):
    message = refusal(changed(section, **{key: value}))
    assert message.startswith(f"my.yaml: {section}.{key}")
    assert "\n" not in message


@pytest.mark.parametrize(("key", "value"), [("seed", -1), ("seed", True), ("seed", 2**64), ("threads", 0)])
def test_bad_values_on_the_top_level(key, value):
    assert refusal({**SMALL, key: value}).startswith(f"my.yaml: {key}: {value!r} is not valid: ")


@pytest.mark.parametrize("section", ["model", "data", "budget", "search", "train"])
@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_a_section_that_is_no_mapping_is_told_its_keys(section, value):
    message = refusal({**SMALL, section: value})
    assert message.startswith(f"my.yaml: {section}: {value!r} must be a mapping with keys among ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must be a mapping with the keys model, data, budget, widths, search"),
        ("[1, 2]", "must be a mapping with the keys"),
        (OK + "seed: 1\nseed: 2\n", "not valid YAML: key 'seed' is given twice in line 6"),
        (OK + "train: {lr: 1, lr: 2}\n", "not valid YAML: key 'lr' is given twice in line 5"),
        ("model: [", "not valid YAML: .* in line 1"),
        (OK + "---\n" + OK, "not valid YAML: .*another document"),
        (OK + "seed: 2024-99-99\n", "not valid YAML: a value does not fit its type: month"),
        (OK + "seed: !!int x\n", "not valid YAML: a value does not fit its type"),
        (OK + f"seed: {'9' * 5000}\n", "not valid YAML: a value does not fit its type"),
        (OK + f"seed: 0x{'f' * 5000}\n", "not a recipe: Exceeds the limit"),
        ("model: !!python/object/apply:os.getcwd []\n", "not valid YAML: could not determine a constructor"),
        ("[" * 5000, "not valid YAML: nested too deeply"),
        ("a: &a [*a]\n", "not a recipe: Circular reference"),
        ("? [a]\n: 1\n", "not valid YAML: found unhashable key"),
        (bytes(range(256)), "not a text file in UTF-8"),
        (OK.encode("utf-16"), "not a text file in UTF-8"),
        (b"\x00", "not valid YAML: unacceptable character"),
    ],
)
def test_files_that_are_no_recipes(write, content, message):
    path = write(content)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path, write):
    for path, why in [
        (tmp_path / "missing.yaml", "No such file"),
        (tmp_path, "Is a directory"),
        (write(OK) / "below.yaml", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ]:
        with pytest.raises(RecipeError, match=why) as caught:
            load_recipe(path)
        assert str(caught.value).startswith(f"{path}: cannot be read: ")


def test_utf8_and_merge_keys_are_read(write):
    path = write("\ufeff" + OK + "train: &t {epochs: 5}\nexport: {}\n")
    assert load_recipe(path).train.epochs == 5
    path = write(OK + "train: {<<: {epochs: 7, lr: 1e-3}, lr: 0.5}\n")
    assert (load_recipe(path).train.epochs, load_recipe(path).train.lr) == (7, 0.5)


def test_overrides_win_and_leave_the_callers_dict_alone():
    raw = {**copy.deepcopy(SMALL), "model": "vgg11_bn"}
    before = copy.deepcopy(raw)
    changes = ["model.width=0.5", "data.augment=[flip, crop]", "train.epochs=3", "search={method: neuralscale}"]
    recipe = parse_recipe(raw, [*changes, "search.iterations=2", "seed=1", "seed=7", "data.path=/a=b"])
    assert (recipe.model.name, recipe.model.width) == ("vgg11_bn", 0.5)
    assert recipe.data.augment == ("flip", "crop")
    assert (recipe.train.epochs, recipe.search.iterations, recipe.seed) == (3, 2, 7)
    assert recipe.data.path == "/a=b"
    assert raw == before


def test_an_override_is_checked_like_the_file():
    assert refusal(SMALL, "train.epoch=3").endswith("(did you mean epochs?)")
    assert refusal(SMALL, "bogus.deep.key=3").startswith("my.yaml: bogus: unknown key")
    assert refusal(SMALL, "seed=").startswith("my.yaml: seed: None is not valid")


@pytest.mark.parametrize("override", ["seed", "=3", "", ".=3", "model.=x", "a..b=1"])
def test_an_override_without_a_key_or_a_value(override):
    assert refusal(SMALL, override) == f"--set {override!r}: must look like search.iterations=3"


@pytest.mark.parametrize("text", ["[", "!!python/object:os.system {}", "{a: 1, a: 2}", "&a [*a]", "2024-99-99"])
def test_an_override_with_a_value_that_is_not_yaml(text):
    assert refusal(SMALL, f"seed={text}").startswith(f"--set 'seed={text}': {text!r} is not a YAML value: ")


def test_an_override_below_a_value():
    assert refusal(SMALL, "model.name.x=3") == "--set 'model.name.x=3': model.name is 'vgg11_bn', not a mapping"


def test_an_override_reads_back_whatever_its_yaml_type(write):
    recipe = parse_recipe(SMALL, ["model.options.since=2024-01-01"])
    assert load_recipe(write(recipe.to_yaml())) == recipe


def test_the_schema_is_json_and_describes_the_keys():
    found = json.loads(json.dumps(schema()))
    assert set(found["properties"]) == set(recipe_module.Recipe.model_fields)
    assert set(found["required"]) == {"model", "data", "budget", "search"}
    kinds = found["$defs"]
    assert {kind for kind in kinds if kind.endswith("Config")} == set(kinds) - {"JsonValue"}
    assert all(kinds[kind]["description"] for kind in kinds if kind.endswith("Config"))
    assert kinds["DataConfig"]["properties"]["path"]["description"].startswith("folder of the data")
    assert kinds["DataConfig"]["additionalProperties"] is False


def test_a_recipe_goes_through_pickle():
    recipe = parse_recipe(SMALL)
    copied = pickle.loads(pickle.dumps(recipe))
    assert copied == recipe
    assert copied.search.model_fields_set == {"method"}


def test_the_recipe_class_reads_the_options_of_every_method():
    raw = {**SMALL, "search": {"method": "growing", "settle": 0.5}}
    kind = recipe_module.Recipe
    assert kind.model_validate(raw) == kind(**raw) == kind.model_validate_json(json.dumps(raw)) == parse_recipe(raw)
    assert copy.deepcopy(kind(**raw)) == parse_recipe(raw)
    assert schema()["description"] == kind.__doc__


def test_names_of_config_classes_are_found_and_others_are_not():
    assert recipe_module.PruningConfig.model_fields
    assert recipe_module.method_configs()["l1"] is recipe_module.L1Config
    assert not hasattr(recipe_module, "NothingConfig")
    assert not hasattr(recipe_module, "nothing")


def test_a_section_of_no_method_is_refused():
    with pytest.raises(RecipeError, match="DataConfig is the section of no search method"):
        recipe_module.method_of(parse_recipe(SMALL).data)


def test_another_method_by_override_leaves_the_options_of_the_first_behind():
    raw = {
        "model": "mlp",
        "data": "digits",
        "budget": {"params": 1000},
        "search": {"method": "neuralscale", "iterations": 3},
    }
    assert parse_recipe(raw, ["search.method=uniform"]).search == recipe_module.UniformConfig()
    assert parse_recipe(raw, ["search.method=neuralscale"]).search.iterations == 3
    both = ["search.prune_epochs=3", "search.method=taylor"]
    assert [parse_recipe(raw, order).search.prune_epochs for order in (both, both[::-1])] == [3, 3]
    assert parse_recipe(raw, ["search={prune_every: 3}", "search.method=taylor"]).search.prune_every == 3
    for order in (["search.ranking=l1", "search.method=taylor"], ["search.method=taylor", "search.ranking=l1"]):
        with pytest.raises(RecipeError, match=r"search\.ranking: 'l1' is not valid"):
            parse_recipe(raw, order)


def test_a_value_that_fills_pages_is_shortened(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: [" + "[x, y], " * 3000 + "]\n")
    with pytest.raises(RecipeError) as refused:
        load_recipe(path)
    assert all(len(line) < 1000 for line in str(refused.value).splitlines())
    assert "must be a mapping" in str(refused.value)


def test_aliases_of_aliases_are_refused_before_they_fill_the_memory(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("section", [{"widths": {"frozen": list(range(50_000))}}, {f"k{i}": i for i in range(20_000)}])
def test_of_very_many_problems_the_first_are_said(section):
    lines = refusal(SMALL | section).splitlines()
    assert len(lines) == 21
    assert re.fullmatch(r"my\.yaml: and [\d,]{6} more problems", lines[-1])


@pytest.mark.parametrize("meant", [10, "uniform", None, [{"name": "uniform"}], ("nobody",)])
def test_a_plug_in_may_mean_something_else_by_its_candidates(meant):
    search = SimpleNamespace(method="uniform", candidates=meant)
    assert Recipe.candidates.fget(SimpleNamespace(search=search)) == ()
