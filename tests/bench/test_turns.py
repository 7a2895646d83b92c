import gc
import os
import random
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.bench import BenchError, Conditions, ProviderError, memory, turns
from compressor.bench.session import timed_session
from compressor.bench.turns import Turns, open_entrant

CPU = Conditions("cpu", 5, 1)


def test_rounds_leave_one_sample_of_each_model_and_warm_up_none(save_linear):
    both = Turns([save_linear("a.onnx"), save_linear("b.onnx")], CPU)
    both.warm_up(3)
    assert both.wall_ms == both.cpu_ms == [[], []]
    both.run(4)
    both.run(2)
    assert [len(times) for times in both.wall_ms + both.cpu_ms] == [6] * 4
    assert all(time > 0 for times in both.wall_ms for time in times)


def test_samples_belong_to_their_model(save_linear, monkeypatch):
    paths = [save_linear("a.onnx"), save_linear("b.onnx")]
    told = {"a.onnx": (1.0, 10.0), "b.onnx": (2.0, 20.0)}
    both = Turns(paths, CPU)
    monkeypatch.setattr(turns.Entrant, "run", lambda model: told[Path(model.path).name])
    both.run(9)
    assert (both.wall_ms, both.cpu_ms) == ([[1.0] * 9, [2.0] * 9], [[10.0] * 9, [20.0] * 9])


def test_an_order_handed_in_draws_the_turns(save_linear, monkeypatch):
    paths = [save_linear("a.onnx"), save_linear("b.onnx")]
    log = []
    monkeypatch.setattr(turns.Entrant, "run", lambda model: log.append(Path(model.path).name) or (1.0, 1.0))
    for order in (random.Random(3), random.Random(3), random.Random(4), None):
        Turns(paths, CPU, order).run(20)
    first, again, other, own = (log[start : start + 40] for start in range(0, 160, 40))
    assert first == again
    assert first != other
    assert sorted(own) == sorted(first)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_while_the_clock_runs_and_is_then_as_before(save_linear, monkeypatch, enabled):
    one = Turns([save_linear()], CPU)
    seen = []
    monkeypatch.setattr(turns.Entrant, "run", lambda model: seen.append(gc.isenabled()) or (1.0, 1.0))
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        one.run(2)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
    assert seen == [False, False]


@pytest.mark.parametrize(("threads", "alone"), [(1, True), (2, False)])
def test_one_thread_is_told(save_linear, threads, alone):
    entrant = open_entrant(save_linear(), Conditions("cpu", 5, threads))
    assert (entrant.threads, entrant.one_thread) == (threads, alone)


def test_a_batch_below_one_is_refused():
    with pytest.raises(BenchError, match="batch=0 must be 1 or more"):
        Conditions(batch=0)


def test_inputs_that_no_memory_holds_are_refused_before_they_are_drawn(save_linear):
    path = save_linear()
    for batch in (10**12, 10**30):
        with pytest.raises(BenchError, match=rf"the inputs of batch={batch} need .* GiB of memory") as caught:
            open_entrant(path, Conditions("cpu", batch))
        assert str(path) in str(caught.value)


def test_inputs_that_numpy_cannot_hold_are_refused_where_memory_is_not_told(save_linear, monkeypatch):
    monkeypatch.setattr(turns, "available_bytes", lambda: None)
    for batch in (10**13, 10**30):
        with pytest.raises(BenchError, match=f"inputs of batch={batch} do not fit"):
            open_entrant(save_linear(), Conditions("cpu", batch))


def test_a_run_that_finds_no_memory_says_so():
    error = RuntimeError(
        "[ONNXRuntimeError] : 6 : X bfc_arena.cc Failed to allocate memory for requested buffer of size 3145728"
    )
    told = str(turns._does_not_run("m.onnx", 7, error))
    assert told == "m.onnx: batch=7 does not fit into memory: a buffer of 3 MiB more is needed"


def graph_log(monkeypatch):
    log, make = [], turns._run_options
    monkeypatch.setattr(turns, "_run_options", lambda graph: log.append(graph) or make(graph))
    return log


def test_without_a_cuda_graph_runs_have_no_options(save_linear, monkeypatch):
    log = graph_log(monkeypatch)
    assert open_entrant(save_linear(), CPU).run_options is None
    assert log == []


def test_a_cuda_graph_is_captured_once_the_outputs_stay(save_linear, monkeypatch):
    """The order of things; a session on the CPU reads over the number of the graph."""
    log = graph_log(monkeypatch)
    ran = []
    run = turns.Entrant.run
    monkeypatch.setattr(turns.Entrant, "run", lambda model: ran.append(list(log)) or run(model))
    opened = timed_session(save_linear(), provider="cpu")
    entrant = turns._bind("linear.onnx", opened, Conditions("cuda", 5, cuda_graph=True))
    assert log == ["-1", "1"]
    assert ran == [["-1", "1"]]  # one run, after the one that captures nothing
    assert entrant.run_options is not None


def test_a_capture_that_fails_is_an_error_of_the_provider(save_linear, monkeypatch):
    def fail(model):
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : operation not permitted when stream is capturing")

    monkeypatch.setattr(turns.Entrant, "run", fail)
    opened = timed_session(save_linear(), provider="cpu")
    with pytest.raises(ProviderError, match=r"cannot be replayed as a CUDA graph.*not permitted when stream") as caught:
        turns._bind("linear.onnx", opened, Conditions("cuda", 5, cuda_graph=True))
    assert caught.value.exit_code == 3


def test_outputs_that_are_no_tensors_run_but_not_in_a_cuda_graph(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    y = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("SequenceConstruct", ["x", "x"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "list", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, tmp_path / "list.onnx")
    entrant = open_entrant(tmp_path / "list.onnx", CPU)
    entrant.run()
    assert not entrant.binding.get_outputs()[0].is_tensor()
    opened = timed_session(tmp_path / "list.onnx", provider="cpu")
    with pytest.raises(BenchError, match="cuda_graph needs outputs that are tensors, and 'y' is none"):
        turns._bind("list.onnx", opened, Conditions("cuda", 5, cuda_graph=True))


def graph_of(tmp_path, name, inputs, nodes, outputs, weights=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    path = tmp_path / name
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_model_whose_outputs_change_their_shape_is_refused_in_one_sentence(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [2, "found"])
    half = numpy_helper.from_array(np.float32(0.5), "half")
    nodes = [
        helper.make_node("RandomUniformLike", ["x"], ["r"]),
        helper.make_node("Greater", ["r", "half"], ["g"]),
        helper.make_node("NonZero", ["g"], ["y"]),
    ]
    path = graph_of(tmp_path, "found.onnx", [x], nodes, [y], [half])
    with pytest.raises(BenchError, match=r"found\.onnx: ONNX Runtime failed while the model was measured: .*shape"):
        Turns([path], Conditions("cpu", 2, 1)).run(50)


def test_sizes_that_only_one_of_the_files_knows_are_its_own(tmp_path):
    paths = []
    for name, axis in (("old", "seq"), ("new", "s1")):
        x, y = (helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["N", axis]) for tensor in (f"{name}.x", "y"))
        paths.append(graph_of(tmp_path, f"{name}.onnx", [x], [helper.make_node("Relu", [x.name], ["y"])], [y]))
    turns = Turns(paths, Conditions("cpu", 2, 1, shapes={"seq": [16], "new.x": ["N", 5]}))
    assert [entrant.inputs[0].shape for entrant in turns.entrants] == [(2, 16), (2, 5)]
    with pytest.raises(BenchError, match=r"shapes names 'none', which is not one of the inputs old\.x"):
        Turns(paths, Conditions("cpu", 2, 1, shapes={"seq": [16], "s1": [16], "none": [1]}))


@pytest.fixture
def gathering(tmp_path):
    """Its indices must be rows of a table of three: random numbers of 0 and 1 do not show whether they are taken."""
    i = helper.make_tensor_value_info("i", TensorProto.INT64, ["N", "T"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    table = numpy_helper.from_array(np.ones((3, 5), np.float32), "table")
    return graph_of(tmp_path, "gather.onnx", [i], [helper.make_node("Gather", ["table", "i"], ["y"])], [y], [table])


def with_values(path, **arrays):
    np.savez(path, **arrays)
    return Conditions("cpu", 2, 1, inputs=str(path))


def test_given_values_are_what_a_model_reads(gathering, tmp_path):
    conditions = with_values(tmp_path / "in.npz", i=np.full((2, 7), 2))
    (entrant,) = Turns([gathering], conditions).entrants
    assert entrant.inputs[0].shape == (2, 7)
    with pytest.raises(BenchError, match=r"gather\.onnx does not run on .*idx=99"):
        Turns([gathering], with_values(tmp_path / "out.npz", i=np.full((2, 7), 99)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"i": np.zeros((2, 7), np.float32)}, "the values given for input 'i' are float32, it takes int64"),
        ({"j": np.zeros((2, 7), np.int64)}, r"in\.npz: has values for 'j', which is no input of .*gather\.onnx: i"),
        ({"i": np.array([[object()]])}, "cannot be read as an .npz file: it holds Python objects"),
        ({"i": np.zeros(2, np.int64)}, "does not fit input 'i'"),
    ],
)
def test_values_that_do_not_fit_are_refused(gathering, tmp_path, arrays, message):
    with pytest.raises(BenchError, match=message):
        Turns([gathering], with_values(tmp_path / "in.npz", **arrays))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_a_file_that_holds_no_values_is_refused(gathering, tmp_path, content):
    (tmp_path / "in.npz").write_bytes(content)
    with pytest.raises(BenchError, match=r"in\.npz: (cannot be read as|is not) an \.npz file"):
        Turns([gathering], Conditions("cpu", 2, 1, inputs=str(tmp_path / "in.npz")))


FLOATS = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])


def save_loop(tmp_path, step, times=None, nested=False):
    """A Loop whose condition stays true, in the main graph or inside an If; `step` makes v+1 (w) of v."""

    def floats(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4])

    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    before, after = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("c", "again"))
    steps = [helper.make_node("Identity", ["c"], ["again"]), step]
    body = helper.make_graph(steps, "body", [count, before, floats("v")], [after, floats("w")])
    loop = helper.make_node("Loop", ["" if times is None else "times", "true", "x"], ["y"], body=body)
    weights = [numpy_helper.from_array(np.array(True), "true"), numpy_helper.from_array(np.array(times or 0), "times")]
    if not nested:
        return graph_of(tmp_path, "plain.onnx", [FLOATS], [loop], [floats("y")], weights)
    then = helper.make_graph([loop], "then", [], [floats("y")])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["z"])], "else", [], [floats("z")])
    choice = helper.make_node("If", ["true"], ["o"], then_branch=then, else_branch=other)
    return graph_of(tmp_path, "nested.onnx", [FLOATS], [choice], [floats("o")], weights)


NEGATED = helper.make_node("Neg", ["v"], ["w"])
DOUBLED = helper.make_node("Concat", ["v", "v"], ["w"], axis=0)


def test_a_loop_is_watched_where_values_are_for_several_files(tmp_path, save_linear, monkeypatch):
    monkeypatch.setattr(memory, "_LOOP_SECONDS", 1.5)
    other = save_linear("other.onnx", ["N", 13])
    model = onnx.load(other)
    model.graph.input[0].name = model.graph.node[0].input[0] = "z"
    onnx.save(model, other)
    np.savez(tmp_path / "in.npz", x=np.zeros((5, 4), np.float32), z=np.zeros((5, 13), np.float32))
    conditions = Conditions("cpu", 5, 1, shapes={"z": ["N", 13]}, inputs=str(tmp_path / "in.npz"))
    with pytest.raises(BenchError, match=r"plain\.onnx: a run of batch=5 was not over after 1\.5 s"):
        Turns([save_loop(tmp_path, NEGATED), other], conditions)


@pytest.mark.parametrize("nested", [False, True])
def test_a_loop_without_an_end_is_given_up(tmp_path, monkeypatch, nested):
    monkeypatch.setattr(memory, "_LOOP_SECONDS", 1.5)
    path = save_loop(tmp_path, NEGATED, nested=nested)
    with pytest.raises(BenchError, match=r"was not over after 1\.5 s, and the model has a Loop, which may have no end"):
        Turns([path], CPU)
    measured = memory.measure_memory(path, CPU)
    assert (measured.refused, measured.host_bytes) == (2, None)


@pytest.mark.skipif(sys.platform != "linux", reason="where the system does not say what a process takes")
def test_a_loop_that_fills_the_memory_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_LOOP_BYTES", 2**29)
    with pytest.raises(BenchError, match=r"took more than 0\.5 GiB of memory, and the model has a Loop"):
        Turns([save_loop(tmp_path, DOUBLED, times=60)], CPU)


def test_a_loop_that_ends_is_measured(tmp_path):
    (entrant,) = Turns([save_loop(tmp_path, NEGATED, times=3)], CPU).entrants
    assert entrant.inputs[0].shape == (5, 4)


def test_a_model_without_a_loop_may_take_its_time(save_linear, monkeypatch):
    monkeypatch.setattr(memory, "_LOOP_SECONDS", 0.0)
    assert len(Turns([save_linear()], CPU).entrants) == 1


def test_an_output_that_is_listed_twice_is_one(tmp_path):
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    path = graph_of(tmp_path, "twice.onnx", [FLOATS], [helper.make_node("Neg", ["x"], ["y"])], [y, y])
    one = Turns([path], CPU)
    one.run(2)
    assert len(one.entrants[0].binding.get_outputs()) == 1
    assert len(one.wall_ms[0]) == 2


def test_an_input_that_may_have_any_number_of_axes_takes_what_is_given(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    path = graph_of(tmp_path, "any.onnx", [x], [helper.make_node("Neg", ["x"], ["y"])], [y])
    (entrant,) = Turns([path], Conditions("cpu", 2, 1, shapes={"x": ["N", 7]})).entrants
    assert entrant.inputs[0].shape == (2, 7)


def test_values_that_would_fill_the_memory_are_not_unpacked(gathering, tmp_path):
    np.savez_compressed(tmp_path / "in.npz", i=np.zeros(2**24))
    with pytest.raises(BenchError, match=r"in\.npz: has .* bytes and unpacks to 134,\d+,\d+, more than 100 times"):
        Turns([gathering], Conditions("cpu", 2, 1, inputs=str(tmp_path / "in.npz")))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_values_from_a_pipe_are_not_waited_for(gathering, tmp_path):
    os.mkfifo(tmp_path / "in.npz")
    with pytest.raises(BenchError, match=r"in\.npz is not a file"):
        Turns([gathering], Conditions("cpu", 2, 1, inputs=str(tmp_path / "in.npz")))


def test_a_loop_with_weights_beside_its_file_may_take_more_than_its_file_says(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_LOOP_BYTES", 0)
    path = save_loop(tmp_path, NEGATED, times=3)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(10**6, np.float32), "unused"))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=1000)
    assert path.stat().st_size < 10_000 < (tmp_path / "weights.bin").stat().st_size
    assert len(Turns([path], CPU).entrants) == 1
