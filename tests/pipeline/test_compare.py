"""A comparison of methods: shared stages, resuming, what it refuses, and that its numbers are those of its runs."""

import csv
import json
import shutil
import statistics
from types import SimpleNamespace

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file
from small import NEURALSCALE, small_recipe

from compressor.cli import root as cli
from compressor.errors import RecipeError, RunError, TrainingError
from compressor.pipeline import compare as comparison
from compressor.pipeline.compare import compare_methods
from compressor.pipeline.runner import continue_run
from compressor.recipe import parse_recipe
from compressor.report import comparison_lines
from compressor.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")  # which have tests of their own

RAW = small_recipe(
    data={"name": "digits", "image_size": 8, "limit": 256},
    search=NEURALSCALE,
    train={"epochs": 2, "batch_size": 32},
    bench={"provider": "cpu", "batch": 2, "warmup": 1, "runs": 5, "threads": 1},
    widths={"round_to": 1},  # in whole blocks, methods and budgets would find the same few networks
    baselines=None,
    checkpoint_seconds=0,
    seed=3,
)
METHODS, BUDGETS, SEEDS = ["neuralscale", "uniform"], ["0.25x", "params=2.5k"], 2
MEASURED = ("latency_mean_ms", "latency_median_ms", "latency_interval_ms")


@pytest.fixture
def fits(monkeypatch):
    """Labels of all trainings that are begun."""
    begun, fit = [], Trainer.fit

    def counted(self, model, settings, **more):
        begun.append(more["label"])
        return fit(self, model, settings, **more)

    monkeypatch.setattr(Trainer, "fit", counted)
    return begun


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole comparison: its folder, its record, what it told and the trainings it took."""
    out, told, begun = tmp_path_factory.mktemp("comparison") / "out", [], []
    fit = Trainer.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", lambda *a, **more: (begun.append(more["label"]), fit(*a, **more))[1])
        loads = []
        load = comparison.load_data
        patch.setattr(comparison, "load_data", lambda *a, **more: (loads.append(more["seed"]), load(*a, **more))[1])
        record = compare_methods(
            parse_recipe(RAW), METHODS, BUDGETS, SEEDS, out, progress=lambda *said: told.append(said)
        )
    return out, record, told, begun, loads


def same(one, other):
    """Whether two records agree in all but time."""
    strip = [[{k: v for k, v in run.items() if k not in MEASURED} for run in record["runs"]] for record in (one, other)]
    return strip[0] == strip[1]


def test_every_run_is_an_ordinary_run_folder(finished):
    out, record, *_ = finished
    assert len(record["runs"]) == SEEDS * (1 + len(METHODS) * len(BUDGETS))
    for run in record["runs"]:
        report = json.loads((out / run["folder"] / "report.json").read_text())
        assert [report[key] for key in ("params", "macs", "onnx_bytes")] == [
            run[key] for key in ("params", "macs", "onnx_bytes")
        ]
        assert report["accuracy"]["onnx"] == run["accuracy"]
        assert report["latency_ms"]["median"] == run["latency_median_ms"]
        assert report["latency_ms"]["interleaved"] == len(record["runs"])
        assert report["seed"] == run["seed"]
        if run["budget"]:
            assert run["met"]
            assert run["params"] <= run["limits"]["params"]
    again = continue_run(out / record["runs"][1]["folder"], "report")
    assert again["accuracy"]["onnx"] == record["runs"][1]["accuracy"]


def test_the_unscaled_network_and_shares_of_it(finished):
    _, record, *_ = finished
    bare = [run for run in record["runs"] if not run["budget"]]
    assert [(run["method"], run["seed"], run["met"]) for run in bare] == [("unscaled", 3, None), ("unscaled", 4, None)]
    whole = bare[0]["params"]
    limits = {run["limits"]["params"] for run in record["runs"] if run["budget"] == "0.25x"}
    assert limits == {whole // 4}
    assert {run["limits"]["params"] for run in record["runs"] if run["budget"] == "params=2.5k"} == {2500}


def test_shared_stages_are_done_once_for_each_seed(finished):
    _, record, _, begun, loads = finished
    assert len([label for label in begun if "pruning" in label]) == SEEDS
    assert loads == [3, 4]
    networks = {run["same_network_as"] or run["folder"] for run in record["runs"]}
    assert len([label for label in begun if label.startswith("training")]) == len(networks)


def test_progress_names_the_run(finished):
    told = finished[2]
    assert any(text.startswith("run 2/10 neuralscale 0.25x seed 3: ") for _, text, _ in told)
    assert told[-1][0] in ("bench", "report")


def test_groups_are_means_over_the_seeds(finished):
    out, record, *_ = finished
    for group in record["groups"]:
        values = [
            json.loads((out / run["folder"] / "export.json").read_text())["accuracy"]["onnx"]
            for run in record["runs"]
            if (run["method"], run["budget"]) == (group["method"], group["budget"])
        ]
        assert len(values) == SEEDS
        assert group["accuracy"]["mean"] == pytest.approx(sum(values) / 2)
        assert group["accuracy"]["std"] == pytest.approx(statistics.stdev(values))


def test_the_outcome_is_in_three_files(finished):
    out, record, *_ = finished
    assert json.loads((out / "comparison.json").read_text()) == json.loads(json.dumps(record))
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [run["accuracy"] for run in record["runs"]]
    page = (out / "comparison.html").read_text()
    for run in record["runs"]:
        assert f'href="{run["folder"]}/report.html"' in page
        assert (out / run["folder"] / "report.html").exists()


def test_a_finished_comparison_is_not_run_again(finished, fits):
    out, record, *_ = finished
    before = (out / "latency.json").read_bytes()
    again = compare_methods(parse_recipe(RAW), METHODS, BUDGETS, SEEDS, out, resume=True)
    assert fits == []
    assert again["runs"] == record["runs"]
    assert (out / "latency.json").read_bytes() == before


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"dataset": 5, "accuracy": {"onnx": "x"}}'])
def test_a_report_that_was_changed_is_made_again(finished, tmp_path, content):
    whole, record, *_ = finished
    out = shutil.copytree(whole, tmp_path / "out")
    (out / record["runs"][-1]["folder"] / "report.json").write_text(content)
    again = compare_methods(parse_recipe(RAW), METHODS, BUDGETS, SEEDS, out, resume=True)
    assert again["runs"] == record["runs"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("failures.json", "[]", "should be an object"),
        ("failures.json", "null", "should be an object"),
        ("failures.json", '{"runs/x/y/1": "no"}', "'runs/x/y/1' is no run of this comparison"),
        ("failures.json", '{"runs/x/y/1": 5}', r"runs/x/y/1: .*valid string"),
        ("latency.json", "{}", "networks: Field required"),
        ("latency.json", '{"networks": {"a": {"median_ms": -1}}, "machine": {}}', r"networks\.a\."),
        ("plan.json", "5", "holds no comparison"),
    ],
)
def test_a_file_of_the_comparison_that_was_damaged_is_named(finished, tmp_path, name, content, message):
    out = shutil.copytree(finished[0], tmp_path / "out")
    (out / name).write_text(content)
    with pytest.raises(RunError, match=f"^{out}.*{message}"):
        compare_methods(parse_recipe(RAW), METHODS, BUDGETS, SEEDS, out, resume=True)


class Killed(BaseException):
    """What no code of the package catches."""


@pytest.mark.slow
def test_stopped_anywhere_it_ends_the_same(finished, tmp_path, fits):
    whole, record, *_ = finished
    moments = ["run 2/10 neuralscale 0.25x seed 3: search 1/1 pruning", "run 4/10 uniform 0.25x seed 3: training"]
    moments += ["run 5/10 uniform params=2.5k seed 3: exporting", "run 8/10", "measuring"]
    for moment in moments:

        def stop(stage, text, share, moment=moment):
            if text.startswith(moment):
                raise Killed

        with pytest.raises(Killed):
            compare_methods(
                parse_recipe(RAW), METHODS, BUDGETS, SEEDS, tmp_path / "out", resume=moment != moments[0], progress=stop
            )
    last = compare_methods(parse_recipe(RAW), METHODS, BUDGETS, SEEDS, tmp_path / "out", resume=True)
    assert same(last, record)
    for run in record["runs"]:
        expected, found = (
            load_file(base / run["folder"] / "weights.safetensors") for base in (whole, tmp_path / "out")
        )
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len([label for label in fits if label.startswith("training")]) <= 10 + len(moments)


def test_a_cost_that_is_limited_has_its_column(tmp_path):
    budgets = ["activation_bytes=0.8x", "params=0.5x"]
    record = compare_methods(parse_recipe(RAW), ["uniform"], budgets, 1, tmp_path / "out")
    rows = {(run["method"], run["budget"]): run for run in record["runs"]}
    limited = rows["uniform", "activation_bytes=0.8x"]
    assert limited["activation_bytes"] <= limited["limits"]["activation_bytes"]
    assert "activation_bytes" not in rows["uniform", "params=0.5x"]
    lines = (tmp_path / "out" / "comparison.csv").read_text().splitlines()
    assert lines[0].startswith("method,budget,seed,params,macs,onnx_bytes,activation_bytes,accuracy")
    assert any(f",{limited['activation_bytes']}," in line for line in lines)
    assert "peak activations, bytes" in (tmp_path / "out" / "comparison.html").read_text()


def test_other_arguments_are_refused(finished):
    out, *_ = finished
    recipe = parse_recipe(RAW)
    with pytest.raises(RunError, match="already holds a comparison; add --resume"):
        compare_methods(recipe, METHODS, BUDGETS, SEEDS, out)
    for change, told in [
        ({"budgets": ["0.5x"]}, r"budgets.0.25x, budgets.0.5x, budgets.params=2.5k differs"),
        ({"methods": ["uniform", "random"]}, r"methods.neuralscale, methods.random differs"),
        ({"seeds": 3}, "seeds differs from what this comparison was begun with"),
        ({"recipe": parse_recipe(RAW, ["train.epochs=3"])}, r"train.epochs differs"),
        ({"recipe": parse_recipe(RAW, ["search.prune_every=2"])}, r"methods.neuralscale differs"),
    ]:
        arguments = {"recipe": recipe, "methods": METHODS, "budgets": BUDGETS, "seeds": SEEDS} | change
        with pytest.raises(RunError, match=told):
            compare_methods(**arguments, out=out, resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "plan.json").write_text('{"mine": 1}')
    for resume in (False, True):
        with pytest.raises(RunError, match="is not empty and holds no comparison"):
            compare_methods(parse_recipe(RAW), METHODS, BUDGETS, 1, tmp_path, resume=resume)
    assert (tmp_path / "plan.json").read_text() == '{"mine": 1}'
    with pytest.raises(RunError, match="is a file"):
        compare_methods(parse_recipe(RAW), METHODS, BUDGETS, 1, tmp_path / "plan.json")
    with pytest.raises(RecipeError, match="give at least one"):
        compare_methods(parse_recipe(RAW), [], BUDGETS, 1, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_equal_networks_are_trained_once(tmp_path, fits):
    record = compare_methods(
        parse_recipe(RAW), ["uniform", "neuralscale:min_records=9999"], ["0.25x"], 1, tmp_path / "out"
    )
    _, uniform, fallback = record["runs"]
    assert fallback["fallback"]
    assert fallback["same_network_as"] == "uniform 0.25x seed 3"
    assert len([label for label in fits if label.startswith("training")]) == 2
    weights = [(tmp_path / "out" / run["folder"] / "weights.safetensors").read_bytes() for run in (uniform, fallback)]
    assert weights[0] == weights[1]
    assert uniform["accuracy"] == fallback["accuracy"]


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_run_that_fails_by_itself_is_told_and_tried_again(tmp_path, monkeypatch, side_by_side):
    if side_by_side:
        monkeypatch.setattr(comparison, "run_tasks", in_turn)
    executor = (lambda folder: SimpleNamespace(stop=lambda: None)) if side_by_side else None
    comparison._LAST.clear()
    out, search = tmp_path / "out", comparison.search

    def diverging(problem, config):
        if config.method == "random":
            raise TrainingError("the loss is nan")
        return search(problem, config)

    monkeypatch.setattr(comparison, "search", diverging)
    arguments = (parse_recipe(RAW), ["random", "uniform"], ["0.25x", "params=9"], 1, out)
    record = compare_methods(*arguments, executor=executor)
    errors = {(run["method"], run["budget"]): run["error"] for run in record["runs"]}
    assert errors["random", "0.25x"].endswith("the loss is nan")
    assert errors["uniform", "0.25x"] is None
    assert "cannot be met" in errors["uniform", "params=9"]
    assert record["met"] is False
    said = {line.split("  ")[0]: line for line in comparison_lines(record)}
    assert said["random 0.25x"].endswith("failed")
    assert said["uniform params=9"].endswith("cannot be met")
    assert len(json.loads((out / "failures.json").read_text())) == 1
    monkeypatch.setattr(comparison, "search", search)
    comparison._LAST.clear()
    again = compare_methods(*arguments, resume=True, executor=executor)
    errors = {(run["method"], run["budget"]): run["error"] for run in again["runs"]}
    assert errors["random", "0.25x"] is errors["uniform", "0.25x"] is None


def test_an_interrupt_that_code_of_others_took_for_a_failure_ends_it(tmp_path, monkeypatch):
    def diverging(problem, config):
        raise TrainingError("DataLoader worker is killed")

    monkeypatch.setattr(comparison, "interrupted", lambda: True)
    monkeypatch.setattr(comparison, "search", diverging)
    with pytest.raises(TrainingError, match=r"uniform 0\.25x seed 3: DataLoader worker is killed"):
        compare_methods(parse_recipe(RAW), ["uniform"], ["0.25x"], 1, tmp_path / "out")


def in_turn(function, tasks, executor, watch):
    return {task.name: function(*task.arguments) for task in tasks}


def test_a_comparison_of_an_earlier_version_goes_on(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    plan = json.loads((out / "plan.json").read_text())
    del plan["train"]["ema"], plan["methods"]["neuralscale"]["price"], plan["finetune"]
    (out / "plan.json").write_text(json.dumps(plan))
    assert same(compare_methods(parse_recipe(RAW), METHODS, BUDGETS, SEEDS, out, resume=True), finished[1])
    with pytest.raises(RunError, match=r"train\.ema differs"):
        compare_methods(parse_recipe(RAW, ["train.ema=0.9"]), METHODS, BUDGETS, SEEDS, out, resume=True)


def test_another_error_stops_and_names_the_run(tmp_path):
    recipe = parse_recipe(RAW, ["train.lr=1e12", "train.epochs=20"])
    with pytest.raises(TrainingError, match=r"^unscaled seed 3: training result: the loss is"):
        compare_methods(recipe, ["uniform"], ["0.25x"], 1, tmp_path / "out")


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Call the command with the recipe in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(RAW))

    def run(methods, budgets, *more, name="sweep"):
        arguments = [name, "small.yaml", "--methods", methods, "--budgets", budgets, "-o", "out", *more]
        return CliRunner().invoke(cli.main, arguments)

    return run


def test_the_command_goes_on_past_a_budget_that_cannot_be_met(call, tmp_path):
    result = call("uniform", "0.25x,params=9", "--seeds", "1")
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    assert any(line.startswith("uniform 0.25x") for line in lines)
    assert any(line.startswith("uniform params=9: budget.params: 9 cannot be met") for line in lines)
    assert lines[-1] == "page: out/comparison.html"
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["error"] is None for run in record["runs"]] == [True, True, False]
    assert record["met"] is False
    again = call("uniform", "0.25x,params=9", "--seeds", "1", "--resume", name="compare-methods")  # its earlier name
    assert (again.exit_code, again.stdout) == (1, result.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["neuralscal", "0.25x"], "error: methods: 'neuralscal' is not one of "),
        (["uniform", "a quarter"], "error: budgets: 'a quarter' is not valid: must be a share"),
        (["uniform", "0.25x", "--seeds", "0"], "error: seeds: 0 is not valid"),
        (["uniform:shortcut=none", "0.25x"], "error: methods: uniform:shortcut=none: search.shortcut: "),
        (["uniform", "0.25x", "--set", "data=digit"], "error: uniform 0.25x seed 3: data.name: 'digit' is not one of "),
        (["uniform,uniform:shortcut=convcut", "0.25x"], "error: uniform:shortcut=convcut 0.25x seed 3: "),
    ],
)
def test_bad_arguments_are_one_sentence(call, tmp_path, arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith(" ")]
    assert line.startswith(message)


def test_an_interrupted_comparison_says_how_to_go_on(call, monkeypatch):
    def interrupted(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "compare_methods", interrupted)
    result = call("uniform", "0.25x")
    assert result.exit_code == 130
    assert result.stderr == "error: interrupted; the comparison goes on with the same command and --resume\n"
