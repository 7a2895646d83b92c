"""Records of a run folder: what is written reads back; what is damaged or foreign fails with one sentence."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from small import small_recipe

from compressor.errors import CompressorError, RunError
from compressor.pipeline.context import Shared
from compressor.pipeline.records import (
    ExportRecord,
    LatencyRecord,
    PrecisionRecord,
    SearchRecord,
    TrainRecord,
    VerificationRecord,
)
from compressor.pipeline.runner import continue_run, run
from compressor.recipe import costs, parse_recipe
from compressor.report.precision import precision_section
from compressor.report.verification import latency_budget_section
from compressor.search import Finetuning
from compressor.search.methods import uniform
from compressor.training.trainer import EpochRecord

SEARCH = {
    "trace": {"iterations": [], "multiplier": 0.5},
    "limits": {"params": 1000.0, "macs": 7},
    "one_channel": {"params": 13},
    "binding": "params",
    "note": None,
    "dataset": {"name": "digits", "input_shape": [1, 8, 8], "classes": 2, "train": 9, "validation": 0, "test": 3},
    "images": [{"name": "digits"}, ["0", "1"], [0.5], [0.25]],
    "reference_widths": {"fc1": 23},
    "begins": {"result": "found"},
    "inputs": None,
    "finetuning": {"epochs": 3, "lr": 0.01},
    "training": [
        {"epoch": 1, "loss": 2, "validation_loss": None, "validation_accuracy": 0.5, "lr": 0.1, "seconds": 1.5}
    ],
    "round_to": [1, 8],
    "latency": {"unscaled_ms": 3.5, "limit_ms": 2, "measured": []},
}
EPOCH = EpochRecord(1, 2.0, None, 0.5, 0.1, 1.5)


def changed(**values):
    return {key: value for key, value in (SEARCH | values).items() if value != "gone"}


def test_a_search_record_reads_back_with_what_costs_have_added(tmp_path):
    path = tmp_path / "search.json"
    path.write_text(json.dumps(SEARCH))
    record = SearchRecord.read(path)
    assert record.finetuning == Finetuning(3, 0.01)
    assert record.training == [EPOCH]
    assert record.of_cost("latency") == {"unscaled_ms": 3.5, "limit_ms": 2, "measured": []}
    assert record.of_cost("energy") is None
    record.write(tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert again.pop("training")[0].pop("validation_metric") is None  # what an older version did not know
    assert again.pop("remarks") == []  # likewise
    assert again == changed(training="gone")
    assert {name: type(value) for name, value in again["limits"].items()} == {"params": float, "macs": int}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(limits="gone"), "limits: Field required"),
        (changed(limits={"params": "many"}), "limits.params: must be a finite number above 0, not 'many'"),
        (changed(limits={"params": float("nan")}), "limits.params: must be a finite number above 0, not nan"),
        (changed(limits={"params": 0}), "limits.params: "),
        (changed(limits={"params": True}), "limits.params: "),
        (
            changed(dataset=SEARCH["dataset"] | {"input_shape": [1, 2, 8, 8]}),
            "input_shape must be of one to three numbers",
        ),
        (changed(trace={"iterations": "x"}), "trace.iterations must be a list of objects, not 'x'"),
        (changed(reference_widths={"fc1": 2.5}), "reference_widths.fc1: "),
        (changed(finetuning={"epochs": 3}), "finetuning.lr: "),
        (changed(training=[{"epoch": "one"}]), "training.0.epoch: "),
        ([], "valid dictionary or object|an object|Input should be"),
        (3, "Input should be"),
    ],
)
def test_a_record_that_is_not_ours_is_refused_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "search.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=message) as caught:
        SearchRecord.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "\x00", '{"networks": {}, "machine": '])
def test_a_file_that_is_cut_off_is_refused_in_one_sentence(tmp_path, text):
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(RunError, match="Invalid JSON") as caught:
        LatencyRecord.read(path)
    assert "\n" not in str(caught.value)


def test_a_training_reads_back(tmp_path):
    TrainRecord.of([EPOCH]).write(tmp_path / "training.json")
    assert TrainRecord.read(tmp_path / "training.json").root == [EPOCH]
    assert json.loads((tmp_path / "training.json").read_text())[0]["loss"] == 2.0


def test_the_costs_of_an_export_are_those_that_it_has(tmp_path):
    scores = {"onnx": 0.5, "torch": 0.5}
    record = ExportRecord(
        opset=20,
        versions={"torch": "2"},
        accuracy=scores | {"samples": 100, "weights": "last"},
        metric=scores | {"name": "accuracy", "better": "higher"},
        parity={"max_abs_error": 1e-7, "max_rel_error": 1e-7, "batches": [1, 2], "tolerance": None},
        precision={"name": "fp32", "note": None},
        stacked=None,
        params=37,
        macs=41,
        onnx_bytes=43,
        activation_bytes=1024,
        something_else=3,
    )
    record.write(tmp_path / "export.json")
    assert ExportRecord.read(tmp_path / "export.json").costs == {
        **{"params": 37, "macs": 41, "onnx_bytes": 43},
        "activation_bytes": 1024,
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick_export):
    """A run of two networks, without its report."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(parse_recipe(small_recipe(baselines=["uniform"])), folder, until="bench")
    stages = json.loads((folder / "stages.json").read_text())
    del stages["files"]  # as in a folder of an earlier version: with them, a changed file is not even read
    (folder / "stages.json").write_text(json.dumps(stages))
    return folder


def places(value, path=()):
    """Paths of everything in a JSON value; of a list, of its first entry."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from places(inner, (*path, key))


def spoiled(value, path, new):
    """A copy of a value with another one at a place; without the place if the other one is "gone"."""
    if not path:
        return {} if new == "gone" else new
    made = inner = copy.deepcopy(value)
    for key in path[:-1]:
        inner = inner[key]
    if new == "gone":
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return made


WRONG = ("gone", None, "x<b>", [], {}, -1, True, float("nan"), 2**70)


@pytest.mark.parametrize("name", ["search.json", "export.json", "latency.json", "training.json", "stages.json"])
def test_whatever_is_wrong_in_a_file_there_is_a_report_or_one_sentence(finished, tmp_path, name, no_figures):
    """Where a record takes a value, the report does so too; where it does not, the sentence names the file."""
    folder, good = tmp_path / "run", json.loads((finished / name).read_text())
    shutil.copytree(finished, folder)
    refused = []
    for index, path in enumerate(places(good)):  # every place with another one of what may be wrong
        shutil.copytree(finished, folder, dirs_exist_ok=True)
        (folder / name).write_text(json.dumps(spoiled(good, path, WRONG[index % len(WRONG)])))
        try:
            continue_run(folder, "report")
        except CompressorError as error:
            refused.append(str(error))
    assert refused
    assert not [sentence for sentence in refused if name not in sentence or "\n" in sentence]


def test_a_file_without_a_network_of_the_run_is_refused(finished, tmp_path, no_figures):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    found = json.loads((folder / "latency.json").read_text())
    del found["networks"]["uniform"]
    (folder / "latency.json").write_text(json.dumps(found))
    with pytest.raises(RunError, match=r"latency\.json: it has nothing of the network 'uniform'"):
        continue_run(folder, "report")


def test_limits_that_are_not_those_of_the_recipe_are_refused(finished, tmp_path, no_figures):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    found = json.loads((folder / "search.json").read_text())
    (folder / "search.json").write_text(json.dumps(found | {"limits": {}}))
    with pytest.raises(RunError, match=r"search\.json: limits: it limits nothing, the budget of the recipe params; "):
        continue_run(folder, "report")


RATIO = {"median": 0.5, "low": 0.4, "high": 0.6}
VERIFIED = {
    **{"ratio": RATIO, "median_ms": 1.5, "interval_ms": [1.4, 1.6], "cost_ms": 1.6, "limit_ms": 2.0, "share": None},
    **{"verdict": "met", "pairs": 7, "blocks": 3, "clock": "wall", "provider": "cpu", "batch": 2, "threads": 1},
}
MEASURED = {"macs": 1000, "ms": 1.5, "interval_ms": [1.4, 1.6], "exact": True, "widths": [3]}
SEARCHED = {"unscaled_ms": 3.0, "limit_ms": 2.0, "measured": [MEASURED]}


def test_whatever_is_wrong_in_a_verification_it_is_shown_or_refused(tmp_path):
    path, cost, refused = tmp_path / "verification.json", costs()["latency_ms"], 0
    for place in places(VERIFIED):
        for new in WRONG:
            path.write_text(json.dumps({"result": spoiled(VERIFIED, place, new)}))
            try:
                found = VerificationRecord.of_cost(path, cost, ["result"])
            except RunError as error:
                refused += 1
                assert str(error).startswith(f"{path}: "), place  # noqa: PT017
            else:
                assert latency_budget_section({"verification": found["result"], "latency_search": SEARCHED})
                assert 0 <= found["result"]["cost_ms"] < float("inf")
    assert refused > len(VERIFIED)


def test_whatever_is_wrong_in_what_a_search_measured_it_is_shown_or_refused(tmp_path):
    path, refused = tmp_path / "search.json", 0
    for place in places(SEARCHED):
        for new in WRONG:
            path.write_text(json.dumps(SEARCH | {"latency": spoiled(SEARCHED, place, new)}))
            try:
                found = SearchRecord.read(path)
            except RunError:
                refused += 1
            else:
                latency_budget_section({"verification": VERIFIED, "latency_search": found.of_cost("latency")})
    assert refused > len(SEARCHED)


ENTRY = {"median_ms": 1.5, "onnx_bytes": 1000, "score": 0.5}
PRECISION = {
    **{"name": "int8", "note": None, "calibration": 256, "judged": 100, "metric": "accuracy"},
    "scheme": {"chosen": "u8s8", "schemes": {"u8s8": ENTRY}, "fp32": ENTRY, "refused": {"u8u8": "cannot"}},
    "parity_of_fp32": {"max_abs_error": 1e-7, "max_rel_error": 1e-7, "batches": [1], "tolerance": 1e-4},
}


def test_whatever_is_wrong_in_a_precision_it_is_shown_or_refused():
    refused = 0
    for place in places(PRECISION):
        for new in WRONG:
            try:
                found = PrecisionRecord.model_validate(spoiled(PRECISION, place, new), strict=True)
            except ValidationError:
                refused += 1
            else:
                precision_section({"precision": found.model_dump(), "parity": PRECISION["parity_of_fp32"]})
    assert refused > len(PRECISION)


def test_numbers_of_numpy_are_numbers_and_what_a_method_should_not_give_is_its_fault(tmp_path):
    def method(found):
        shared = Shared(search=lambda problem, config: found(uniform.search(problem, config)))
        return run(parse_recipe(small_recipe()), tmp_path / "out", until="search", shared=shared, resume=True)

    with pytest.raises(
        RunError, match=r"^search\.method: uniform gives one_channel\.params: must be a finite number, not 'x'"
    ):
        method(lambda found: replace(found, one_channel={"params": "x"}))
    method(lambda found: replace(found, one_channel={"params": np.int64(7)}, trace={"iterations": None}))
    kept = json.loads((tmp_path / "out" / "search.json").read_text())
    assert kept["one_channel"] == {"params": 7}
