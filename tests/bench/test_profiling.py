import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.bench import BenchError, Conditions, profile_model, profiling

CPU = Conditions("cpu", 5, 1)


def node(name, begin, took, op="Conv", provider="CPUExecutionProvider"):
    args = {"op_name": op, "provider": provider}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": begin, "dur": took, "args": args}


def run(begin, took):
    return {"cat": "Session", "name": "model_run", "ts": begin, "dur": took, "args": {}}


def test_nodes_are_ranked_by_their_share_of_the_measured_runs():
    events = [
        *(node("a", 0, 9000), run(0, 9500)),  # warm-up
        *(node("a", 10_000, 1000), node("b", 11_500, 3000, "MatMul"), run(10_000, 5000)),
        *(node("b", 22_000, 5000, "MatMul", "CUDAExecutionProvider"), node("a", 20_100, 1000), run(20_000, 8000)),
    ]
    profile = profiling._sum_up(events, [5.5, 8.4], 7, "cpu")
    told = [(one.name, one.op_type, one.provider, one.median_ms, one.mean_ms) for one in profile.nodes]
    assert told == [
        ("b", "MatMul", "cuda", 2.5, 2.5),  # on another provider it is another node
        ("b", "MatMul", "cpu", 1.5, 1.5),
        ("a", "Conv", "cpu", 1.0, 1.0),
    ]
    assert [one.share for one in profile.nodes] == pytest.approx([0.5, 0.3, 0.2])
    assert profile.run_ms == (5.0, 8.0)
    assert profile.clock_ratio == pytest.approx((1.1 + 1.05) / 2)
    assert profile.nodes_ms == pytest.approx(5.0)
    assert (profile.batch, profile.provider) == (7, "cpu")


def test_the_body_of_a_loop_is_not_counted_twice():
    events = [
        node("loop", 100, 1000, "Loop"),
        *(node("body", 200, 300), node("body", 600, 300)),
        *(node("after", 1100, 400), run(90, 1500)),
    ]
    profile = profiling._sum_up(events, [1.5], 1, "cpu")
    assert {one.name: one.mean_ms for one in profile.nodes} == {"loop": 0.4, "body": 0.6, "after": 0.4}


def test_events_inside_events_inside_events():
    events = [node("outer", 0, 100), node("middle", 10, 80), node("inner", 20, 50), run(0, 100)]
    profile = profiling._sum_up(events, [0.1], 1, "cpu")
    assert {one.name: one.mean_ms for one in profile.nodes} == pytest.approx(
        {"outer": 0.02, "middle": 0.03, "inner": 0.05}
    )


def test_a_node_that_runs_now_and_then_is_nothing_elsewhere():
    events = [node("rare", 0, 300), run(0, 300), run(1000, 100), run(2000, 100)]
    (one,) = profiling._sum_up(events, [0.3, 0.1, 0.1], 1, "cpu").nodes
    assert (one.median_ms, one.mean_ms, one.share) == (0.0, pytest.approx(0.1), 1.0)


def test_runs_below_a_microsecond_and_models_without_nodes():
    profile = profiling._sum_up([run(0, 0), run(10, 0)], [0.001, 0.003], 1, "cpu")
    assert (profile.nodes, profile.nodes_ms) == ((), 0)
    assert profile.clock_ratio == pytest.approx(2.0)


def test_a_model_is_profiled(save_linear, tmp_path, monkeypatch):
    monkeypatch.setattr(profiling.tempfile, "tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    profile = profile_model(save_linear(), CPU, warmup=2, runs=7)
    assert {(one.op_type, one.provider) for one in profile.nodes} == {("MatMul", "cpu"), ("Relu", "cpu")}
    assert sum(one.share for one in profile.nodes) == pytest.approx(1)
    assert (len(profile.run_ms), len(profile.clock_ms)) == (7, 7)
    # Whole microseconds are cut off, so theirs may read longer than ours by one at most.
    assert all(ours > theirs - 0.002 for ours, theirs in zip(profile.clock_ms, profile.run_ms, strict=True))
    assert list((tmp_path / "temp").iterdir()) == []


def test_a_branch_is_profiled(tmp_path):
    """If (its then-branch: MatMul), so that events lie inside events."""
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "then", [], [y], [weight])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "else", [], [y])
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Equal", ["m", "m"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])
    graph = helper.make_graph(nodes, "branch", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "branch.onnx"
    )
    profile = profile_model(tmp_path / "branch.onnx", CPU, warmup=0, runs=3)
    assert {"If", "MatMul"} <= {one.op_type for one in profile.nodes}
    assert sum(one.share for one in profile.nodes) == pytest.approx(1)
    assert profile.nodes_ms <= np.mean(profile.run_ms)


def test_a_record_is_json(save_linear):
    profile = profile_model(save_linear(), CPU, warmup=0, runs=3)
    written = profile.to_json()
    assert json.loads(json.dumps(written)) == written
    assert written["run_ms"] == list(profile.run_ms)
    assert written["clock_ratio"] == profile.clock_ratio
    assert set(written["nodes"][0]) == {"name", "op_type", "provider", "median_ms", "mean_ms", "share"}


def test_a_profile_that_overflowed_is_refused(save_linear, monkeypatch):
    monkeypatch.setattr(profiling.json, "loads", lambda text: [run(0, 5), run(10, 5)])
    with pytest.raises(BenchError, match="had no room for the profile of 6 runs; take fewer runs"):
        profile_model(save_linear(), CPU, warmup=2, runs=3)


@pytest.mark.parametrize(
    ("bad", "message"), [({"warmup": -1}, "warmup=-1 must be 0 or more"), ({"runs": 0}, "runs=0 must be 1 or more")]
)
def test_bad_counts_are_refused(save_linear, bad, message):
    with pytest.raises(BenchError, match=message):
        profile_model(save_linear(), CPU, **bad)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_a_model_is_profiled_on_cuda_without_its_graph(save_linear):
    profile = profile_model(save_linear(), Conditions("cuda", 5, cuda_graph=True), warmup=2, runs=7)
    assert profile.provider == "cuda"
    assert "cuda" in {one.provider for one in profile.nodes}
