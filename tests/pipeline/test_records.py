"""Records of a run folder: what is written reads back; what is damaged or foreign fails with one sentence."""

import json

import pytest

from compressor.errors import RunError
from compressor.pipeline.records import ExportRecord, LatencyRecord, SearchRecord, TrainRecord
from compressor.search import Finetuning
from compressor.training.trainer import EpochRecord

SEARCH = {
    "trace": {"iterations": [], "multiplier": 0.5},
    "limits": {"params": 1000.0, "macs": 7},
    "one_channel": {"params": 13},
    "binding": "params",
    "note": None,
    "dataset": {"name": "digits", "input_shape": [1, 8, 8]},
    "images": [{"name": "digits"}, ["0", "1"], [0.5], [0.25]],
    "reference_widths": {"fc1": 23},
    "finetuning": {"epochs": 3, "lr": 0.01},
    "training": [
        {"epoch": 1, "loss": 2, "validation_loss": None, "validation_accuracy": 0.5, "lr": 0.1, "seconds": 1.5}
    ],
    "round_to": [1, 8],
    "latency": {"unscaled_ms": 3.5},
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
    assert record.of_cost("latency") == {"unscaled_ms": 3.5}
    assert record.of_cost("energy") is None
    record.write(tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert again.pop("training")[0].pop("validation_metric") is None  # what an older version did not know
    assert again == changed(training="gone")
    assert {name: type(value) for name, value in again["limits"].items()} == {"params": float, "macs": int}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(limits="gone"), "limits: Field required"),
        (changed(limits={"params": "many"}), "limits.params"),
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
        parity={"max_rel_error": 1e-7},
        precision={"name": "fp32"},
        stacked=None,
        params=37,
        activation_bytes=1024,
        something_else=3,
    )
    record.write(tmp_path / "export.json")
    assert ExportRecord.read(tmp_path / "export.json").costs == {"params": 37, "activation_bytes": 1024}
