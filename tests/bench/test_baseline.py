import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.bench import BenchError, baseline, machine_fingerprint, measure_latency, open_session
from compressor.bench.baseline import BaselineStore, UnknownBaseline
from compressor.bench.latency import sha256_of

NODE = "tests/test_x.py::test_y[a-1]"
NAMES = [
    NODE,
    "tests/test_x.py::test_y[A-1]",
    "tests/test_x.py::test_y[a:1]",
    "main",
    "Main",
    "..",
    "../../outside",
    "con",
    'a\\b/c:d*e?f"g<h>i|j',
    "größe",
    "日本",
    " x ",
    "line\nbreak",
    "x" * 300,
    "x" * 301,
    "surrogate \udcff",
]


@pytest.fixture
def store(tmp_path):
    return BaselineStore(tmp_path / "baselines")


@pytest.fixture
def other(save_linear):
    """A model of another content than `save_linear()`."""
    return save_linear("other.onnx", shape=("N", 5, 13))


def measured(path, **options):
    return measure_latency(path, provider="cpu", warmup=0, **{"runs": 3, "batch": 2, "threads": 1} | options)


def models(store):
    return sorted(path.name for path in (store.folder / "models").iterdir())


def record_file(store):
    (file,) = store.folder.glob("*.json")
    return file


def edit(store, **changes):
    file = record_file(store)
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_is_saved_comes_back(store, save_linear):
    path = save_linear()
    latencies = [measured(path, batch=size) for size in (1, 4)]
    saved = store.save(NODE, path, latencies)
    loaded = BaselineStore(store.folder).load(NODE)
    assert loaded == saved
    assert (loaded.name, loaded.source, loaded.sha256) == (NODE, str(path), sha256_of(path))
    assert loaded.model == store.folder / "models" / f"{loaded.sha256}.onnx"
    assert loaded.model.read_bytes() == path.read_bytes()
    assert loaded.machine == machine_fingerprint()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", loaded.date)
    assert [one["batch"] for one in loaded.latencies] == [1, 4]
    assert [one["median_ms"] for one in loaded.latencies] == [one.median for one in latencies]
    assert loaded.latencies[0]["interval_ms"] == list(latencies[0].interval)


def test_records_are_small(store, save_linear):
    path = save_linear()
    store.save("main", path, [measured(path, runs=500)])
    assert record_file(store).stat().st_size < 3000


def test_numbers_are_not_needed(store, save_linear):
    assert store.save("main", save_linear()).latencies == ()


def test_any_name_has_a_file_of_its_own_that_every_file_system_takes(store, save_linear):
    path = save_linear()
    for name in NAMES:
        store.save(name, path)
    assert store.names() == sorted(NAMES)
    assert [store.load(name).name for name in NAMES] == NAMES
    files = [file.name for file in store.folder.glob("*.json")]
    assert len({name.lower() for name in files}) == len(NAMES)
    assert all(re.fullmatch(r"[a-z0-9_][a-z0-9_.-]{0,80}\.json", name) for name in files)
    assert len(models(store)) == 1


def test_a_file_name_says_what_it_is_of(store, save_linear):
    store.save(NODE, save_linear())
    assert re.fullmatch(r"tests-test_x\.py-test_y-a-1-[0-9a-f]{12}\.json", record_file(store).name)


@pytest.mark.parametrize("name", ["", " ", "\n"])
def test_an_empty_name_is_refused(store, save_linear, name):
    with pytest.raises(BenchError, match="name of a baseline is empty"):
        store.save(name, save_linear())


def test_a_store_need_not_exist(store):
    assert store.names() == []
    assert "main" not in store
    with pytest.raises(UnknownBaseline, match=r"'main' is not in .*baselines, which has none yet; save it with"):
        store.load("main")
    assert not store.folder.exists()


def test_an_unknown_name_lists_the_known_ones(store, save_linear):
    store.save("one", save_linear())
    store.save("two", save_linear())
    for function in (store.load, store.remove):
        with pytest.raises(UnknownBaseline, match=r"baseline 'three' is not in .*, which has one, two; ") as caught:
            function("three")
        assert caught.value.exit_code == 2
    assert "one" in store


def test_a_name_saved_again_is_replaced_and_its_model_dropped(store, save_linear, other):
    store.save("main", save_linear())
    after = store.save("main", other)
    assert store.names() == ["main"]
    assert models(store) == [f"{after.sha256}.onnx"] == [f"{sha256_of(other)}.onnx"]


def test_a_model_stays_while_a_name_needs_it(store, save_linear, other):
    first = store.save("one", save_linear())
    store.save("two", save_linear())
    store.save("one", other)
    assert store.load("two").sha256 == first.sha256
    assert len(models(store)) == 2
    store.remove("two")
    assert (store.names(), models(store)) == (["one"], [f"{sha256_of(other)}.onnx"])
    store.remove("one")
    assert (store.names(), models(store)) == ([], [])


def test_a_missing_model_is_told_and_saving_again_mends_it(store, save_linear):
    saved = store.save("main", save_linear())
    saved.model.unlink()
    with pytest.raises(BenchError, match=r"\.onnx, the model of baseline 'main', is missing; save the baseline again"):
        store.load("main")
    assert store.save("main", save_linear()).model.is_file()


def test_a_changed_model_is_told_and_saving_again_mends_it(store, save_linear, other):
    saved = store.save("main", save_linear())
    saved.model.write_bytes(other.read_bytes())
    with pytest.raises(BenchError, match=rf"of baseline 'main', was changed \(its sha256 is {sha256_of(other)}\)"):
        store.load("main")
    assert sha256_of(store.save("main", save_linear()).model) == saved.sha256


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', "<<<<<<< HEAD", "\xff"])
def test_a_damaged_record_is_told_and_saving_again_mends_it(store, save_linear, text):
    store.save("main", save_linear())
    file = record_file(store)
    file.write_bytes(text.encode("latin-1"))
    for function in (lambda: store.load("main"), store.names):
        with pytest.raises(
            BenchError, match=rf"{re.escape(str(file))} is not .* baseline.*; remove it or save it again"
        ):
            function()
    with pytest.raises(UnknownBaseline):  # of another name: it is that name that is unknown
        store.load("other")
    store.save("main", save_linear())
    assert store.names() == ["main"]


def test_a_damaged_record_keeps_all_models(store, save_linear, other):
    store.save("one", save_linear())
    record_file(store).write_text("{")
    store.save("two", save_linear())
    store.save("two", other)
    assert len(models(store)) == 2


def test_a_record_of_a_later_format_is_refused(store, save_linear):
    store.save("main", save_linear())
    edit(store, format=2)
    with pytest.raises(BenchError, match="is not a baseline of format 1"):
        store.load("main")


def test_numbers_of_another_content_are_refused(store, save_linear, other):
    latency = measured(save_linear())
    with pytest.raises(BenchError, match=r"other\.onnx is not the file that was measured: sha256 "):
        store.save("main", other, [latency])
    assert store.names() == []


def test_no_model_is_refused(store, tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(BenchError, match=r"text\.onnx is not an ONNX model"):
        store.save("main", tmp_path / "text.onnx")
    with pytest.raises(BenchError, match=r"gone\.onnx is not a file"):
        store.save("main", tmp_path / "gone.onnx")
    assert not store.folder.exists()


def test_weights_in_other_files_are_brought_into_one(store, tmp_path):
    weight = numpy_helper.from_array(np.ones((13, 700), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 13])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "split.onnx"
    onnx.save(model, path, save_as_external_data=True, location="split.data", size_threshold=0)
    assert (tmp_path / "split.data").is_file()
    saved = store.save("main", path, [measured(path)])
    (tmp_path / "split.data").unlink()
    feeds = {"x": np.ones((2, 13), np.float32)}
    assert (open_session(saved.model, provider="cpu")[0].run(None, feeds)[0] == 13).all()
    assert sha256_of(saved.model) == saved.sha256
    with pytest.raises(BenchError, match=r"split\.onnx keeps weights in other files, which cannot be brought into one"):
        store.save("other", path)
    assert store.names() == ["main"]


def test_a_write_that_fails_leaves_what_was(store, save_linear, other, monkeypatch):
    saved = store.save("main", save_linear())

    def full(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(BenchError, match=r"\.onnx: cannot be written: No space left on device"):
            store.save("main", other)
    assert store.load("main") == saved
    assert [path for path in store.folder.rglob("*") if path.name.endswith(".tmp")] == []


def test_a_folder_that_is_a_file_is_told(tmp_path, save_linear):
    (tmp_path / "taken").write_text("")
    with pytest.raises(BenchError, match=r"taken.* cannot be written"):
        BaselineStore(tmp_path / "taken").save("main", save_linear())


def test_a_model_dropped_by_another_process_meanwhile_is_kept(store, save_linear, monkeypatch):
    write = baseline._write

    def interfered(path, fill):
        write(path, fill)
        if path.suffix == ".json":
            for model in (store.folder / "models").iterdir():
                model.unlink()

    monkeypatch.setattr(baseline, "_write", interfered)
    assert store.save("main", save_linear()).model.is_file()


def test_another_machine_is_told_by_what_differs(store, save_linear):
    here = machine_fingerprint()
    saved = store.save("main", save_linear())
    assert saved.differs_from(here) == []
    elsewhere = here | {"id": "0" * 16, "cpu": "Z80", "python": "2.7"}
    assert store.save("main", save_linear(), machine=elsewhere).differs_from(here) == [f"cpu: Z80, here {here['cpu']}"]
    assert replace(saved, machine={"id": "0" * 16, **{key: here[key] for key in here if key != "id"}}).differs_from(
        here
    ) == [f"id: {'0' * 16}, here {here['id']}"]


@pytest.mark.parametrize("sha256", ["../../victim", "", "A" * 64, "0" * 63, None, 3])
def test_a_record_names_a_model_of_the_store_only(store, save_linear, tmp_path, sha256):
    victim = tmp_path / "victim.onnx"
    victim.write_text("precious")
    store.save("a", save_linear())
    (file,) = store.folder.glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sha256": sha256}))
    with pytest.raises(BenchError, match=r"sha256 is .*remove"):
        store.load("a")
    store.remove("a")
    assert victim.read_text() == "precious"
    assert not list(store.folder.glob("*.json"))


@pytest.mark.parametrize("change", [{"latencies": [3]}, {"machine": []}, {"source": None}, {"date": {}}, {"name": 3}])
def test_a_record_of_other_types_is_named(store, save_linear, change):
    store.save("a", save_linear())
    (file,) = store.folder.glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(BenchError, match=f"{next(iter(change))} .*remove"):
        store.load("a")
