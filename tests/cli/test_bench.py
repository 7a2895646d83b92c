"""`compressor bench` as a shell sees it."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from compressor import bench, files
from compressor.bench import BenchError, Memory, open_session
from compressor.bench.protocol import PROTOCOLS
from compressor.cli import root as cli
from compressor.cli.bench import _below, _cells, _line, _Row

QUICK = ("--provider", "cpu", "--warmup", "0", "--runs", "3")


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run `compressor bench` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli.main, ["bench", *map(str, words)])


@pytest.fixture
def no_child(monkeypatch):
    """Measure no memory, which would take a process for each batch."""
    monkeypatch.setattr(bench, "measure_memory", lambda model, conditions: Memory(3 * 2**20))


def save(nodes, inputs, name="model.onnx", initializers=()):
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    values = [helper.make_tensor_value_info(key, kind, shape) for key, (kind, shape) in inputs.items()]
    graph = helper.make_graph(nodes, "g", values, [y], list(initializers))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), name)
    return Path(name)


def save_relu(shape=("N", 3), name="model.onnx"):
    return save([helper.make_node("Relu", ["x"], ["y"])], {"x": (TensorProto.FLOAT, shape)}, name)


def save_tokens():
    """Embed tokens (B, seq), times mask (B, seq): int64 and float inputs, symbolic lengths."""
    table = numpy_helper.from_array(np.ones((11, 8), np.float32), "table")
    axis = numpy_helper.from_array(np.array([2]), "axis")
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["e"]),
        helper.make_node("Unsqueeze", ["mask", "axis"], ["m"]),
        helper.make_node("Mul", ["e", "m"], ["y"]),
    ]
    inputs = {"tokens": (TensorProto.INT64, ["B", "seq"]), "mask": (TensorProto.FLOAT, ["B", "seq"])}
    return save(nodes, inputs, "tokens.onnx", [table, axis])


def one_line(result, code=2):
    """The error message, once it is sure that it is all there is."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def table(result):
    """Column names and the rows of numbers."""
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    split = [re.split(r"\s{2,}", line.strip()) for line in lines[1:]]
    return split[0], split[1:]


def test_a_row_for_each_batch_and_all_samples_in_the_file(call):
    result = call(save_relu(), *QUICK, "--batch", "1,4", "--threads", 1, "--json", "new/latency.json")
    names, rows = table(result)
    assert "peak MiB" in names
    assert [row[0] for row in rows] == ["1", "4"]
    assert result.stdout.startswith("model.onnx: cpu, 1 thread, 0 warm-up and 3 measured runs; at batch 1: x [1, 3]")
    written = json.loads(Path("new/latency.json").read_text())
    assert set(written) == {"machine", "preset", "measurements", "memory", "profile"}
    assert [one["batch"] for one in written["measurements"]] == [1, 4]
    assert [len(one["samples_ms"]) for one in written["measurements"]] == [3, 3]
    assert [len(one["cpu_samples_ms"]) for one in written["measurements"]] == [3, 3]
    assert [one["batch"] for one in written["memory"]] == [1, 4]
    assert [one["problem"] for one in written["memory"]] == [None, None]
    assert written["machine"]["id"]
    assert (written["preset"], written["profile"]) == ("paper", None)


def test_columns_stand_under_their_names(call, no_child):
    lines = call(save_relu(), *QUICK, "--batch", "1,4", "--threads", 1).stdout.splitlines()[1:]
    assert len({len(line) for line in lines}) == 1
    names = "batch median ms 95 % interval mean p90 p99 inputs/s CPU ms 95 % of CPU session ms peak MiB"
    assert " ".join(lines[0].split()) == names
    assert all(line.endswith(" 3.0") for line in lines[1:])


def test_cpu_time_is_told_of_one_thread_only(call, no_child):
    assert "CPU ms" in call(save_relu(), *QUICK, "--threads", 1).stdout
    assert "CPU ms" not in call(save_relu(), *QUICK, "--threads", 2).stdout


@pytest.fixture
def asked(monkeypatch, no_child):
    """Note what the measurement is asked for."""
    log = []
    measure = bench.measure_latency

    def noted(model, **options):
        log.append(options)
        return measure(model, **(options | {"provider": "cpu", "warmup": 0, "runs": 1, "cuda_graph": False}))

    monkeypatch.setattr(bench, "measure_latency", noted)
    return log


def chosen(asked):
    return [(one["batch"], one["warmup"], one["runs"], one["threads"]) for one in asked]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [(100, 20, 80, None)]),
        (["--preset", "paper"], [(100, 20, 80, None)]),
        (["--preset", "serving"], [(1, 20, 80, 1), (8, 20, 80, 1), (100, 20, 80, 1)]),
        (["--preset", "serving", "--threads", 2], [(1, 20, 80, 2), (8, 20, 80, 2), (100, 20, 80, 2)]),
        (["--preset", "serving", "--threads", 0, "--batch", 2], [(2, 20, 80, None)]),
        (["--warmup", 0, "--runs", 7, "--batch", "3, 5"], [(3, 0, 7, None), (5, 0, 7, None)]),
    ],
)
def test_options_win_over_the_preset(call, asked, options, expected):
    assert call(save_relu(), *options).exit_code == 0
    assert chosen(asked) == expected


def test_provider_shapes_and_cuda_graph_are_handed_on(call, asked):
    shapes = ("--shape", "tokens=N,7", "--shape", "seq=7")
    assert call(save_tokens(), "--provider", "tensorrt", "--cuda-graph", *shapes).exit_code == 0
    assert (asked[0]["provider"], asked[0]["cuda_graph"]) == ("tensorrt", True)
    assert asked[0]["shapes"] == {"tokens": ("N", 7), "seq": (7,)}


def test_the_help_names_every_preset_and_the_defaults():
    told = " ".join(CliRunner().invoke(cli.main, ["bench", "--help"]).stdout.split())
    assert all(f"{name}:" in told for name in PROTOCOLS)
    assert (PROTOCOLS["paper"].warmup, PROTOCOLS["paper"].runs) == (20, 80)
    assert "[default: 20]" in told
    assert "[default: 80]" in told


@pytest.mark.parametrize("shapes", [["seq=7"], ["tokens=N,7"], ["tokens=N,7", "mask=N,7"]])
def test_tokens_of_symbolic_length(call, no_child, shapes):
    words = [word for shape in shapes for word in ("--shape", shape)]
    result = call(save_tokens(), *QUICK, "--batch", "1,4", *words, "--json", "out.json")
    assert result.exit_code == 0, result.output
    last = json.loads(Path("out.json").read_text())["measurements"][-1]
    assert last["inputs"] == [
        {"name": "tokens", "shape": [4, 7], "dtype": "int64"},
        {"name": "mask", "shape": [4, 7], "dtype": "float32"},
    ]


def test_scalars_and_models_without_inputs(call, no_child):
    inputs = {"x": (TensorProto.FLOAT, ["N", 3]), "s": (TensorProto.FLOAT, [])}
    assert ", s [] float32" in call(save([helper.make_node("Mul", ["x", "s"], ["y"])], inputs), *QUICK).stdout
    empty = save([helper.make_node("RandomNormal", [], ["y"], shape=[3])], {}, "empty.onnx")
    assert call(empty, *QUICK, "--batch", 1).stdout.splitlines()[0].endswith("at batch 1: no inputs")
    assert "batch=100 is the size of no axis of the inputs: there are none" in one_line(call(empty, *QUICK))


def test_the_profile_shows_the_most_expensive_nodes_and_both_clocks(call, no_child):
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name=f"node{i}") for i in range(11)]
    nodes += [helper.make_node("Add", ["v11", "v11"], ["y"], name="sum")]
    path = save(nodes, {"v0": (TensorProto.FLOAT, ["N", 3])})
    result = call(path, *QUICK, "--batch", "2,4", "--profile", "--json", "out.json")
    assert result.exit_code == 0, result.output
    told = result.stdout.split("\nprofile at batch ")[1:]
    assert [text[0] for text in told] == ["2", "4"]
    written = json.loads(Path("out.json").read_text())["profile"]
    for text, record in zip(told, written, strict=True):
        assert f"{record['clock_ratio']:.3f} times ONNX Runtime's own model_run" in text
        listed = [line.split()[-1] for line in text.splitlines()[2:] if line]
        assert listed == [node["name"] for node in record["nodes"][:10]]
        assert len(record["nodes"]) > 0
        assert len(record["run_ms"]) == 3


def test_memory_that_is_not_known_costs_no_latency(call, monkeypatch):
    monkeypatch.setattr(bench, "measure_memory", lambda model, conditions: Memory(None, problem="the child fell over"))
    result = call(save_relu(), *QUICK, "--json", "out.json")
    assert result.exit_code == 0
    assert result.stdout.endswith("peak memory at batch 100 is not known: the child fell over\n")
    assert result.stdout.splitlines()[2].endswith(" -")
    written = json.loads(Path("out.json").read_text())
    assert len(written["measurements"][0]["samples_ms"]) == 3
    assert written["memory"][0]["problem"] == "the child fell over"


def test_memory_that_the_system_does_not_tell(call, monkeypatch):
    monkeypatch.setattr(bench, "measure_memory", lambda model, conditions: Memory(None))
    assert "at batch 100 is not known: this system does not report it" in call(save_relu(), *QUICK).stdout


def test_memory_that_ran_out_ends_the_command_before_it_ends_the_process(call, monkeypatch):
    ended = Memory(None, problem="the process that measures memory was ended by signal 9", killed=True)
    monkeypatch.setattr(bench, "measure_memory", lambda model, conditions: ended)
    assert "model.onnx: batch=100: the process that measures" in one_line(call(save_relu(), *QUICK))


@pytest.mark.usefixtures("call")  # for its folder
def test_nodes_on_the_cpu_are_named_on_a_gpu():
    plain = bench.measure_latency(save_relu(), provider="cpu", batch=2, warmup=0, runs=3)
    split = replace(plain, provider="cuda", nodes={"cuda": 57, "cpu": 3}, cpu_ops={"Shape": 2, "Gather": 1})
    lines = _below([_Row(split, Memory(2**20, 5 * 2**20), None)])
    assert lines[0] == "nodes on the CPU: 3 of 60 (5.0%): 1 Gather, 2 Shape"
    whole = replace(plain, provider="tensorrt", nodes={"tensorrt": 4}, cpu_ops={})
    assert _below([_Row(whole, Memory(1), None)])[0] == "nodes on the CPU: 0 of 4 (0.0%)"
    old = replace(plain, provider="cuda", nodes={}, cpu_ops={})
    assert "this ONNX Runtime does not report it" in _below([_Row(old, Memory(1), None)])[0]
    cells = _cells(split, Memory(2**20, 5 * 2**20))
    assert (cells["peak MiB"], cells["GPU MiB"]) == ("1.0", "5.0")
    assert _line(cells).endswith(" 1.0       5.0")
    assert _below([_Row(plain, Memory(1), None)]) == []


def test_a_table_of_very_short_times_still_tells_them(call, no_child):
    _, rows = table(call(save_relu(), *QUICK, "--batch", 1))
    assert float(rows[0][1]) > 0


@pytest.mark.parametrize("batch", ["1,,8", "0", "a", "", "1.5", "-3", "8,8"])
def test_a_batch_that_is_none(call, batch):
    assert f"--batch '{batch}': must be different whole numbers" in one_line(
        call(save_relu(), *QUICK, "--batch", batch)
    )


@pytest.mark.parametrize("batch", [10**12, 10**30])
def test_a_batch_that_no_memory_holds(call, batch):
    assert "GiB of memory" in one_line(call(save_relu(), *QUICK, "--batch", batch))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "fast"], "preset 'fast' is not one of paper, serving"),
        (["--provider", "gpu"], "'gpu' is not one of auto, cpu, cuda, tensorrt, openvino, coreml"),
        (["--warmup", "-1"], "warmup=-1 must be 0 or more"),
        (["--runs", "0"], "runs=0 must be 1 or more"),
        (["--threads", "-2"], "threads=-2 must be 1 or more"),
        (["--shape", "x"], "--shape 'x': must look like"),
        (["--shape", "x=N,a"], "--shape 'x=N,a': must look like"),
        (["--shape", "y=3"], "shapes names 'y', which is not one of the inputs x; symbolic axes: N"),
        (["--shape", "x=N,4"], "shape [100, 4] does not fit input 'x', which has ['N', 3]"),
        (["--cuda-graph", "--provider", "cpu"], "cuda_graph needs provider cuda or tensorrt, not 'cpu'"),
    ],
)
def test_options_that_cannot_be(call, no_child, words, message):
    assert message in one_line(call(save_relu(), *words))


def test_a_fixed_batch_refuses_another(call):
    message = one_line(call(save_relu((3, 3)), *QUICK, "--batch", "1,3"))
    assert "input 'x' has a fixed batch of 3, not batch=1; measure with batch=3" in message


def test_a_length_that_is_missing_says_how_to_give_it(call):
    assert "(--shape seq=SIZE)" in one_line(call(save_tokens(), *QUICK))


def test_files_that_are_no_models(call, no_child):
    whole = save_relu().read_bytes()
    Path("half.onnx").write_bytes(whole[: len(whole) // 2])
    Path("text.onnx").write_text("hello\n")
    Path("folder.onnx").mkdir()
    save([helper.make_node("Foo", ["x"], ["y"], domain="my.own")], {"x": (TensorProto.FLOAT, ["N"])}, "domain.onnx")
    assert "half.onnx is not a model" in one_line(call("half.onnx"))
    assert "text.onnx is not a model" in one_line(call("text.onnx"))
    assert "missing.onnx is not a file" in one_line(call("missing.onnx"))
    assert "folder.onnx is not a file" in one_line(call("folder.onnx"))
    assert "my.own:Foo(-1) is not a registered function/op" in one_line(call("domain.onnx"))


def test_external_data_that_is_missing(call, no_child):
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    path = save(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (TensorProto.FLOAT, ["N", 64])}, "w.onnx", [weight]
    )
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=10)
    assert call(path, *QUICK).exit_code == 0
    Path("w.data").unlink()
    assert "w.data" in one_line(call(path, *QUICK))


@pytest.mark.parametrize(("kind", "told"), [(TensorProto.STRING, "string"), (TensorProto.BFLOAT16, "bfloat16")])
def test_inputs_that_cannot_be_drawn(call, no_child, kind, told):
    path = save(
        [helper.make_node("Identity", ["x"], ["z"]), helper.make_node("RandomNormal", [], ["y"], shape=[3])], {}
    )
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("x", kind, ["N"]))
    model.graph.output.append(helper.make_tensor_value_info("z", kind, ["N"]))
    onnx.save(model, path)
    assert f"input 'x' has the type tensor({told}), which is not one of" in one_line(call(path, *QUICK))


@pytest.mark.parametrize("words", [["--provider", "cuda"], ["--provider", "tensorrt"], ["--cuda-graph"]])
def test_a_gpu_that_is_not_there_is_never_replaced(call, no_child, words):
    path = save_relu()
    try:
        open_session(path, provider="cuda")
    except BenchError:
        assert "was asked for but" in one_line(call(path, *words), code=3)
    else:
        pytest.skip("a CUDA session works here")


def test_a_file_that_cannot_be_written_is_refused_before_measuring(call):
    told = one_line(call(save_relu(), *QUICK, "--json", "model.onnx/latency.json"))
    assert told.startswith("error: model.onnx/latency.json: cannot be written: ")


def test_numbers_that_cannot_be_written_in_the_end_are_shown_all_the_same(call, no_child, monkeypatch):
    def full(path, record):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_json", full)
    result = call(save_relu(), *QUICK, "--json", "latency.json")
    assert result.exit_code == 2
    assert result.stderr == "error: latency.json: No space left on device\n"
    assert "median ms" in result.stdout


def test_an_interrupt_is_told(call, monkeypatch):
    def stop(model, conditions):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure_memory", stop)
    assert one_line(call(save_relu(), *QUICK), code=130) == "error: interrupted; nothing was written"


@pytest.mark.gpu
def test_a_gpu_is_measured_from_the_command_line(call):
    path = save_relu()
    try:
        open_session(path, provider="cuda")
    except BenchError as error:
        pytest.skip(f"no CUDA session here: {error}")
    result = call(path, "--provider", "cuda", "--cuda-graph", "--batch", "1,8", "--runs", 5)
    assert result.exit_code == 0, result.output
    assert "model.onnx: cuda, CUDA graph, " in result.stdout
    assert "nodes on the CPU: 0 of " in result.stdout


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("at_once", [False, True])
def test_the_process_that_measures_memory_ends_with_the_command(tmp_path, monkeypatch, sent, at_once):
    monkeypatch.chdir(tmp_path)
    save([helper.make_node("MatMul", ["x", "x"], ["y"])], {"x": (TensorProto.FLOAT, ["N", 512, 512])})
    command = [sys.executable, "-m", "compressor", "bench", "model.onnx", "--batch", "1500", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        while process.poll() is None and not (found := children.read_text().split()):
            time.sleep(0.01)
        working = Path(f"/proc/{found[0]}/maps")
        while not at_once and alive(found[0]) and "onnxruntime" not in working.read_text():
            time.sleep(0.01)
        assert alive(found[0])  # a run takes several seconds
        process.send_signal(sent)
        assert process.wait(timeout=60) == -sent
        latest = time.monotonic() + 5
        while alive(found[0]) and time.monotonic() < latest:
            time.sleep(0.02)
        assert not alive(found[0])
    finally:
        process.kill()
