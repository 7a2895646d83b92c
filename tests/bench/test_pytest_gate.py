import json
import math
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest

from compressor.bench import BenchError, latency, pytest_gate, session
from compressor.bench.baseline import BaselineStore
from compressor.bench.pytest_gate import Limits, LimitsError, OnnxLatency, Settings, limits_of, node_of


@pytest.fixture
def gate(tmp_path):
    """Make the fixture of a test `t.py::test_a`."""

    def make(limits, workers=1, update=False):
        settings = Settings(tmp_path / "kept", update, workers, "COMMAND", lambda node: False)
        return OnnxLatency("t.py::test_a", limits, settings)

    return make


@pytest.fixture
def measured(monkeypatch):
    """Let measurements of a file alone find these medians, one after the other; gives what was asked for."""

    def inject(*medians):
        left, asked = list(medians), []

        def measure(path, **conditions):
            asked.append(conditions)
            median, runs = left.pop(0), conditions["runs"]
            return SimpleNamespace(
                median=median, samples=[median] * runs, provider="cpu", batch=2, threads=1, seed=0, to_json=dict
            )

        monkeypatch.setattr(latency, "measure_latency", measure)
        return asked

    return inject


def test_providers_are_those_of_sessions():
    assert pytest_gate.PROVIDERS == session.PROVIDERS


@pytest.mark.parametrize(
    ("key", "node"),
    [
        ("t.py::test_a", "t.py::test_a"),
        ("t.py::test_a#b-1.0", "t.py::test_a"),
        ("t.py::test_a[x#1]", "t.py::test_a[x#1]"),
        ("t.py::test_a[x#1]#b", "t.py::test_a[x#1]"),
        ("a#b/t.py::test_a", "a#b/t.py::test_a"),
    ],
)
def test_the_node_in_the_name_of_a_baseline(key, node):
    assert node_of(key) == node


BAD_ARGUMENTS = [
    ({"max_msec": 5}, "'max_msec' is no argument of @pytest.mark.onnx_latency: batch, max_ms, *, inputs"),
    ({"batch": 0}, "*(batch=0): batch is a whole number, 1 or more"),
    ({"batch": True}, "*(batch=True): batch is a whole number, 1 or more"),
    ({"max_ms": "5"}, "*(max_ms='5'): max_ms is milliseconds, above 0"),
    ({"max_ms": math.nan}, "*(max_ms=nan): max_ms is milliseconds, above 0"),
    ({"max_regression": 10}, "*(max_regression=10): max_regression is a share above 0 and below 10 (0.02 is 2 %)"),
    ({"provider": "gpu"}, "*(provider='gpu'): provider is one of auto, cpu, cuda, tensorrt, openvino, coreml"),
    ({"threads": 0}, "*(threads=0): threads is a whole number, 1 or more, or None for ONNX Runtime's choice"),
    ({"inputs": 3}, "*(inputs=3): inputs is the path of an .npz file"),
    ({"shapes": {"x": 3}}, "*(shapes={'x': 3}): shapes is a dictionary of shapes, *"),
]


def with_markers(*markers):
    marks = [SimpleNamespace(args=args, kwargs=kwargs) for args, kwargs in markers]
    return SimpleNamespace(nodeid="t.py::test_a", iter_markers=lambda name: iter(marks))


@pytest.mark.parametrize(("arguments", "told"), BAD_ARGUMENTS)
def test_bad_arguments_are_told_with_the_valid_ones(arguments, told):
    with pytest.raises(LimitsError) as error:
        limits_of(with_markers(((), arguments)))
    assert fnmatch(str(error.value), f"t.py::test_a: {told}")


def test_arguments_have_names():
    with pytest.raises(LimitsError, match="got 5 without a name; its arguments have names: batch, max_ms, "):
        limits_of(with_markers(((5,), {})))


def test_the_nearer_marker_wins_argument_by_argument():
    near, far = {"batch": 7}, {"batch": 3, "max_ms": 5, "threads": None}
    assert limits_of(with_markers(((), near), ((), far))) == Limits(batch=7, max_ms=5, threads=None)


def test_several_checks_need_names(gate, measured, save_linear):
    measured(*[4.0] * 27)
    one, path = gate(Limits(max_ms=5)), save_linear()
    assert [one.check(path, name=name).key for name in ("a", "b-1.0")] == ["t.py::test_a#a", "t.py::test_a#b-1.0"]
    assert one.check(path).key == "t.py::test_a"
    with pytest.raises(
        pytest.fail.Exception, match=r"test_a was already checked in this test; give .*, name=\.\.\.\)$"
    ):
        one.check(path)
    with pytest.raises(pytest.fail.Exception, match="name='a/b' of a check may have letters, digits"):
        one.check(path, name="a/b")


def test_a_file_that_is_no_model_is_told(gate, tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(pytest.fail.Exception, match=r"text.onnx is not a model that ONNX Runtime .* can open"):
        gate(Limits(max_ms=5)).check(tmp_path / "text.onnx")


def test_it_measures_until_the_interval_leaves_the_limit(gate, measured, save_linear):
    asked = measured(10.0, *[4.0, 6.0] * 4, *[4.0] * 24, 99.0)
    limits = Limits(max_ms=5, batch=2, provider="cpu", threads=3, shapes={"x": (2, 13)}, inputs=Path("x.npz"))
    record = gate(limits).check(save_linear())
    conditions = {"provider": "cpu", "batch": 2, "threads": 3, "shapes": {"x": (2, 13)}, "inputs": "x.npz"}
    assert asked == [conditions | {"warmup": 2, "runs": 5}] + [conditions | {"warmup": 5, "runs": 25}] * 32
    assert (record.verdict, record.median_ms, record.interval_ms) == ("ok", 4.0, (4.0, 4.0))
    assert len(record.latencies) == 32


@pytest.mark.parametrize(("median", "runs"), [(0.01, 100), (10.0, 25), (1000.0, 5)])
def test_a_session_is_measured_for_a_quarter_of_a_second(gate, measured, save_linear, median, runs):
    asked = measured(*[median] * 9)
    gate(Limits(max_ms=1e4)).check(save_linear())
    assert [one["runs"] for one in asked] == [5, *[runs] * 8]


def test_sessions_that_disagree_make_it_inconclusive(gate, measured, save_linear):
    """All runs of a session agree: as single samples they would seem to settle it."""
    measured(10.0, *[4.0, 4.0, 6.0] * 11)
    with pytest.raises(pytest.fail.Exception, match=r"interval 4 to 6.* after 800 runs in 32 sessions"):
        gate(Limits(max_ms=4)).check(save_linear())


def test_it_ends_when_time_is_up(gate, measured, save_linear, monkeypatch):
    monkeypatch.setattr(pytest_gate, "_SECONDS", -1.0)
    measured(10.0, *[4.0, 6.0] * 4)
    with pytest.raises(pytest.fail.Exception, match="after 200 runs in 8 sessions"):
        gate(Limits(max_ms=5)).check(save_linear())


def test_a_limit_that_is_exactly_met_is_met(gate, measured, save_linear):
    measured(*[5.0] * 9)
    assert gate(Limits(max_ms=5)).check(save_linear()).passed


def test_the_failed_record_is_kept(gate, measured, save_linear):
    measured(*[9.0] * 9)
    one = gate(Limits(max_ms=5, shapes={"x": (2, 13)}))
    with pytest.raises(pytest.fail.Exception) as failure:
        one.check(save_linear(), name="big")
    (record,) = one.records
    assert (record.key, record.verdict, record.message) == ("t.py::test_a#big", "too slow", str(failure.value))
    written = record.to_json()
    assert json.loads(json.dumps(written)) == written
    assert written["limits"]["shapes"] == {"x": [2, 13]}
    assert (written["passed"], written["latencies"], written["interval_ms"]) == (False, [{}] * 8, [9.0, 9.0])


def test_a_refused_check_measures_nothing(gate, measured, save_linear):
    measured()
    for one in (gate(Limits()), gate(Limits(max_ms=5), workers=2), gate(Limits(max_regression=0.02))):
        with pytest.raises(pytest.fail.Exception):
            one.check(save_linear())
        assert [record.verdict for record in one.records] == ["error"]


def test_a_damaged_baseline_is_told(gate, save_linear):
    one = gate(Limits(max_regression=0.02))
    store = BaselineStore(one._settings.folder)
    saved = store.save("t.py::test_a", save_linear())
    saved.model.write_bytes(b"other")
    with pytest.raises(pytest.fail.Exception, match=r"was changed .*save the baseline again"):
        one.check(save_linear())


def test_a_damaged_baseline_of_another_test_does_not_hide_that_this_one_has_none(gate, save_linear):
    one = gate(Limits(max_regression=0.02))
    store = BaselineStore(one._settings.folder)
    store.save("t.py::test_old", save_linear()).model.unlink()
    with pytest.raises(BenchError):
        store.load("t.py::test_old")
    told = r"has no baseline .* renamed: t.py::test_old \(then: compressor baseline rename OLD 't.py::test_a' "
    with pytest.raises(pytest.fail.Exception, match=told):
        one.check(save_linear())


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_baseline_and_gate_on_cuda(gate, save_linear):
    limits = Limits(batch=1, max_regression=9, max_ms=1e6, provider="cuda")
    assert gate(limits, update=True).check(save_linear()).verdict == "saved"
    record = gate(limits).check(save_linear())
    assert (record.comparison.provider, record.latencies[0].provider) == ("cuda", "cuda")
