import hashlib
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compressor.bench import BenchError, ProviderError, measure_latencies, measure_latency, open_session, turns
from compressor.bench.inputs import TensorSpec, random_tensor
from compressor.bench.session import Opened, timed_session

QUICK = {"provider": "cpu", "warmup": 1, "runs": 9}


def test_protocol_defaults(save_linear):
    record = measure_latency(save_linear(), provider="cpu")
    assert (record.batch, record.warmup, record.runs, len(record.samples)) == (100, 20, 80, 80)
    assert record.inputs == (TensorSpec("x", (100, 13), "float32"),)


def test_statistics_follow_from_the_samples(save_linear):
    record = measure_latency(save_linear(), batch=5, **QUICK)
    assert len(record.samples) == record.runs == 9
    assert all(sample > 0 for sample in record.samples)
    assert record.mean == pytest.approx(statistics.fmean(record.samples))
    assert record.median == pytest.approx(statistics.median(record.samples))
    assert record.p90 == pytest.approx(np.percentile(record.samples, 90))
    assert record.p99 == pytest.approx(np.percentile(record.samples, 99))
    assert record.std == pytest.approx(statistics.pstdev(record.samples))
    assert record.throughput_per_s == pytest.approx(5 / (record.mean / 1000))


def test_one_run_without_warmup_is_enough(save_linear):
    record = measure_latency(save_linear(), provider="cpu", batch=1, warmup=0, runs=1)
    assert record.samples == (record.mean,) == (record.p99,)
    assert record.std == 0


def test_record_tells_how_it_was_measured(save_linear):
    path = save_linear()
    record = measure_latency(path, batch=5, threads=2, seed=11, **QUICK)
    assert record.path == str(path)
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (record.provider, record.threads, record.threads_given) == ("cpu", 2, True)
    assert (record.seed, record.interleaved) == (11, 1)
    assert record.session_ms > 0


def test_default_threads_are_recorded_as_such(save_linear):
    record = measure_latency(save_linear(), batch=5, **QUICK)
    assert record.threads >= 1
    assert not record.threads_given


def test_json_keeps_every_field_with_its_unit(save_linear):
    record = measure_latency(save_linear(), batch=5, **QUICK)
    written = record.to_json()
    assert json.loads(json.dumps(written)) == written
    in_ms = {"mean", "median", "interval", "p90", "p99", "std", "samples", "cpu_samples", "cpu_median", "cpu_interval"}
    fields = set(record.__dataclass_fields__)
    assert set(written) == {f"{name}_ms" for name in in_ms} | (fields - in_ms) | {"cpu_share"}
    assert written["samples_ms"] == list(record.samples)
    assert written["inputs"] == [{"name": "x", "shape": [5, 13], "dtype": "float32"}]


def test_cpu_time_is_told_where_one_thread_does_all(save_linear):
    record = measure_latency(save_linear(), batch=5, threads=1, **QUICK)
    assert len(record.cpu_samples) == 9
    assert record.cpu_median == pytest.approx(statistics.median(record.cpu_samples))
    assert record.cpu_interval[0] <= record.cpu_median <= record.cpu_interval[1]
    written = record.to_json()
    assert written["cpu_samples_ms"] == list(record.cpu_samples)
    assert written["cpu_interval_ms"] == list(record.cpu_interval)


def test_cpu_time_of_one_thread_of_several_is_not_told(save_linear):
    record = measure_latency(save_linear(), batch=5, threads=2, **QUICK)
    assert (record.cpu_samples, record.cpu_median, record.cpu_interval) == (None, None, None)
    assert record.to_json()["cpu_median_ms"] is None


@pytest.mark.parametrize(
    ("nodes", "share"), [({"cpu": 2}, 1.0), ({"cuda": 3, "cpu": 1}, 0.25), ({"cuda": 3}, 0.0), ({}, None)]
)
def test_share_of_nodes_on_the_cpu(save_linear, nodes, share):
    record = replace(measure_latency(save_linear(), batch=5, **QUICK), nodes=nodes)
    assert record.cpu_share == share
    assert record.to_json()["cpu_share"] == share


@pytest.fixture
def turn_log(monkeypatch):
    """Log the file of every timed run."""
    log = []
    run = turns.Entrant.run

    def logged(model):
        log.append(Path(model.path).name)
        return run(model)

    monkeypatch.setattr(turns.Entrant, "run", logged)
    return log


def test_every_round_runs_every_model_once_in_random_order(save_linear, turn_log):
    names = ["a.onnx", "b.onnx", "c.onnx"]
    records = measure_latencies([save_linear(name) for name in names], batch=5, **QUICK)
    rounds = [tuple(turn_log[start : start + 3]) for start in range(0, len(turn_log), 3)]
    assert len(rounds) == 1 + 9
    assert all(sorted(one) == names for one in rounds)
    assert len(set(rounds)) > 1
    assert [Path(record.path).name for record in records] == names
    assert [(len(record.samples), record.interleaved) for record in records] == [(9, 3)] * 3


def test_seed_decides_the_order(save_linear, turn_log):
    paths = [save_linear(name) for name in ("a.onnx", "b.onnx")]
    for seed in (3, 3, 4):
        measure_latencies(paths, batch=5, seed=seed, provider="cpu", warmup=0, runs=20)
    first, again, other = (turn_log[start : start + 40] for start in (0, 40, 80))
    assert first == again
    assert first != other


def test_same_file_twice_gives_two_records(save_linear):
    path = save_linear()
    first, second = measure_latencies([path, path], batch=5, **QUICK)
    assert first.sha256 == second.sha256
    assert first.samples != second.samples


@pytest.mark.parametrize(("count", "stopped"), [(1, False), (2, True)])
def test_threads_of_waiting_models_do_not_spin(save_linear, monkeypatch, count, stopped):
    asked = []

    def spy(path, **options):
        asked.append(options["stop_spinning"])
        return timed_session(path, **options)

    monkeypatch.setattr(turns, "timed_session", spy)
    measure_latencies([save_linear()] * count, batch=5, **QUICK)
    assert asked == [stopped] * count


def test_auto_that_takes_different_providers_is_refused(save_linear, monkeypatch):
    opened = [timed_session(save_linear(name), provider="cpu") for name in ("a.onnx", "b.onnx")]
    mixed = iter([Opened(opened[0].session, "cuda", 1.0, {}), opened[1]])
    monkeypatch.setattr(turns, "timed_session", lambda *args, **kwargs: next(mixed))
    with pytest.raises(ProviderError, match=r"a\.onnx cuda, b\.onnx cpu"):
        measure_latencies(["a.onnx", "b.onnx"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"batch": 0}, "batch=0 must be 1 or more"),
        ({"warmup": -1}, "warmup=-1 must be 0 or more"),
        ({"runs": 0}, "runs=0 must be 1 or more"),
        ({"threads": 0}, "threads=0 must be 1 or more"),
        ({"threads": 1025}, "threads=1025 must be at most 1024"),
    ],
)
def test_bad_counts_are_refused(save_linear, bad, message):
    with pytest.raises(BenchError, match=message):
        measure_latency(save_linear(), **bad)


def test_no_file_is_refused():
    with pytest.raises(BenchError, match="paths is empty"):
        measure_latencies([])


def test_fixed_batch_must_be_the_one_asked_for(save_linear):
    path = save_linear(shape=[3, 13])
    with pytest.raises(BenchError, match=r"input 'x' has a fixed batch of 3, not batch=100") as caught:
        measure_latency(path, provider="cpu")
    assert str(path) in str(caught.value)
    assert measure_latency(path, batch=3, **QUICK).inputs[0].shape == (3, 13)


def test_shapes_reach_the_inputs(save_linear):
    path = save_linear(shape=["time", "N", 13])
    assert measure_latency(path, batch=5, shapes={"x": (11, "N", 13)}, **QUICK).inputs[0].shape == (11, 5, 13)
    named = measure_latency(path, batch=5, shapes={"time": [7], "N": ["N"]}, **QUICK)
    assert named.inputs[0].shape == (7, 5, 13)


def test_every_dtype_is_fed(every_dtype):
    record = measure_latency(every_dtype, batch=5, **QUICK)
    assert len(record.inputs) == 12
    assert all(spec.name == f"in_{spec.dtype}" and spec.shape == (5, 3) for spec in record.inputs)


def test_type_without_random_values_is_refused(text_input):
    with pytest.raises(BenchError, match=r"input 'text' has the type tensor\(string\)"):
        measure_latency(text_input, batch=5, **QUICK)


def test_model_that_fails_on_its_inputs_is_bad_input(save_linear, capfd):
    # Nothing in the file says that the last axis must be 13; the MatMul finds out.
    path = save_linear(shape=["N", "features"])
    with pytest.raises(BenchError, match="does not run on random inputs") as caught:
        measure_latency(path, batch=5, shapes={"x": [5, 12]}, **QUICK)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_outputs_are_bound_once_and_hold_the_answer(save_linear):
    opened = timed_session(save_linear(), provider="cpu")
    model = turns._bind("linear.onnx", opened, turns.Conditions(batch=5))
    buffer = model.binding.get_outputs()[0].data_ptr()
    model.run()
    model.run()
    (output,) = model.binding.get_outputs()
    assert output.data_ptr() == buffer
    x = random_tensor(model.inputs[0], np.random.default_rng(0))
    expected = np.maximum(x @ np.ones((13, 7), np.float32), 0)
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-4, atol=1e-5)


IMPORTS = """
import sys
from pathlib import Path
import compressor.bench as bench
assert "onnxruntime" not in sys.modules and "numpy" not in sys.modules
assert set(bench.__all__) <= set(dir(bench))
bench.measure_latency(sys.argv[1], provider="auto", batch=5, warmup=0, runs=2)
bench.machine_fingerprint()
assert "torch" not in sys.modules
extra = [m for m in sys.modules if m.startswith("compressor.") and not m.startswith("compressor.bench")]
assert set(extra) <= {"compressor.errors", "compressor.files"}, extra
"""


def test_bench_imports_neither_torch_nor_the_rest_of_compressor(save_linear, tmp_path):
    command = [sys.executable, "-c", IMPORTS, str(save_linear())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_cuda_tensors_stay_on_the_device(save_linear):
    opened = timed_session(save_linear(), provider="cuda")
    model = turns._bind("linear.onnx", opened, turns.Conditions(batch=5))
    model.run()
    (output,) = model.binding.get_outputs()
    assert output.device_name() == "cuda"
    x = random_tensor(model.inputs[0], np.random.default_rng(0))
    expected = np.maximum(x @ np.ones((13, 7), np.float32), 0)
    # TF32 keeps 10 bits of the factors.
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-2, atol=2e-2)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_cuda_is_measured_and_recorded(save_linear):
    paths = [save_linear("a.onnx"), save_linear("b.onnx")]
    for provider in ("cuda", "auto"):
        for record in measure_latencies(paths, provider=provider, warmup=2, runs=9):
            assert record.provider == "cuda"
            assert len(record.samples) == 9
            assert record.throughput_per_s == pytest.approx(100 / (record.mean / 1000))


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_cuda_graph_gives_the_same_answer_and_is_recorded(save_linear):
    path = save_linear()
    record = measure_latencies([path, path], provider="cuda", warmup=2, runs=9, cuda_graph=True)[0]
    assert (record.cuda_graph, record.cpu_ops) == (True, {})
    entrant = turns.open_entrant(path, turns.Conditions("cuda", 5, cuda_graph=True))
    x = random_tensor(entrant.inputs[0], np.random.default_rng(0))
    expected = np.maximum(x @ np.ones((13, 7), np.float32), 0)
    for _ in range(3):
        entrant.run()
        np.testing.assert_allclose(entrant.binding.get_outputs()[0].numpy(), expected, rtol=1e-2, atol=2e-2)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_float16_is_fed_on_cuda(every_dtype):
    # Identity of other types may lie on the CPU; fp16 is fed and comes back all the same.
    entrant = turns.open_entrant(every_dtype, turns.Conditions("cuda", 5))
    entrant.run()
    names = [node.name for node in entrant.opened.session.get_outputs()]
    output = entrant.binding.get_outputs()[names.index("out_float16")]
    assert output.numpy().dtype == np.float16


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_tensorrt_is_measured_and_recorded(save_linear, cuda_graph):
    try:
        open_session(save_linear("probe.onnx"), provider="tensorrt")
    except ProviderError as error:
        pytest.skip(f"no TensorRT session here: {error}")
    record = measure_latency(save_linear(), provider="tensorrt", batch=5, warmup=2, runs=9, cuda_graph=cuda_graph)
    assert (record.provider, record.cuda_graph, len(record.samples)) == ("tensorrt", cuda_graph, 9)
    assert "tensorrt" in record.nodes
