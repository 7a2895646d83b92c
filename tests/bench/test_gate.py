"""Verdicts on injected times; real sessions only where no verdict is asserted."""

import hashlib
import json

import numpy as np
import pytest

from compressor.bench import BenchError, ProviderError, gate
from compressor.bench.gate import compare_latency, verdict_of
from compressor.bench.inputs import TensorSpec
from compressor.bench.pairs import LOOKS, Pairs, Ratio

X = TensorSpec("x", (100, 13), "float32")


@pytest.fixture
def inject(monkeypatch, save_linear):
    """Compare two files whose ratio is `ratio` with a standard deviation of `noise` from block to block."""

    def compare(ratio=1.0, noise=0.0, most=LOOKS[-1], inputs=((X,), (X,)), clock="cpu", **options):
        def measured(base, candidate, conditions, decided, *, looks, progress, **_):
            rng = np.random.default_rng(conditions.seed)
            logs = np.log(ratio) + rng.normal(0, noise, (most, 1)) + np.zeros((most, 3))
            times = np.stack([np.full((most, 3), 2.0), 2.0 * np.exp(logs)], axis=2)
            for look in (look for look in looks if look <= most):
                progress(look, looks[-1])
                kept, sessions = times[:look], np.full((look, 2), (5.0, 6.0))
                found = Pairs(kept, kept, clock, "cpu", 1, 0.5 * look, conditions.seed, sessions, inputs)
                if decided(found):
                    break
            return found

        monkeypatch.setattr(gate, "measure_pairs", measured)
        return compare_latency(save_linear("base.onnx"), save_linear("candidate.onnx"), **options)

    return compare


@pytest.mark.parametrize(
    ("low", "high", "verdict", "code"),
    [
        (1.021, 1.05, "regression", 1),
        (1.02, 1.05, "inconclusive", 4),
        (0.99, 1.021, "inconclusive", 4),
        (0.9, 1.5, "inconclusive", 4),
        (0.99, 1.02, "ok", 0),
        (1.001, 1.019, "ok", 0),
        (0.9, 0.99, "ok", 0),
        (0.9, 0.97, "improvement", 0),
    ],
)
def test_verdict_by_the_interval(low, high, verdict, code):
    assert verdict_of(Ratio((low + high) / 2, low, high, 0.99), 0.02) == verdict
    assert gate.EXIT_CODES[verdict] == code


def test_the_largest_interval_within_what_is_allowed_is_ok():
    assert verdict_of(Ratio(1.25, 1.0, 1.5, 0.99), 0.5) == "ok"
    assert verdict_of(Ratio(0.5, 0.4, 0.66, 0.99), 0.5) == "improvement"
    assert verdict_of(Ratio(0.5, 0.4, 0.67, 0.99), 0.5) == "ok"


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict", "blocks"),
    [
        (1.0, 0.002, "ok", 8),
        (1.06, 0.005, "regression", 8),
        (0.9, 0.005, "improvement", 8),
        (1.02, 0.03, "inconclusive", 128),
    ],
)
def test_it_measures_until_the_question_is_decided(inject, ratio, noise, verdict, blocks):
    found = inject(ratio, noise)
    assert (found.verdict, found.blocks) == (verdict, blocks)
    assert found.exit_code == gate.EXIT_CODES[verdict]
    assert found.pairs == 3 * blocks


def test_noise_is_measured_away(inject):
    """A candidate slower by 4 %, with blocks that differ by 6 %: clear after some looks, not at the first one."""
    found = inject(1.04, 0.06)
    assert found.verdict == "regression"
    assert 8 < found.blocks <= 128
    assert found.ratio.low > 1.02


def test_ok_does_not_wait_for_improvement(inject):
    found = inject(0.97, 0.02)
    assert (found.verdict, found.blocks) == ("ok", 8)
    assert found.ratio.high > 1 / 1.02


def test_injected_models_are_seldom_judged_wrongly():
    """20 comparisons each: a model with itself is no regression, one that is 6 % slower is one."""
    rng = np.random.default_rng(5)
    for ratio, wrong in ((1.0, "regression"), (1.06, "ok")):
        for _ in range(20):
            logs = np.log(ratio) + rng.normal(0, 0.02, (16, 1)) + rng.normal(0, 0.05, (16, 20))
            times = np.stack([np.ones_like(logs), np.exp(logs)], axis=2)
            found = Pairs(times, times, "wall", "cpu", 1, 1.0, 0, np.ones((16, 2)), ((), ()))
            assert verdict_of(found.ratio(), 0.02) != wrong


def test_sides_tell_what_they_are(inject, tmp_path):
    found = inject(1.06)
    assert (found.base.median_ms, found.candidate.median_ms) == pytest.approx((2.0, 2.12))
    assert found.candidate.interval_ms == pytest.approx((2.12, 2.12))
    assert (found.base.session_ms, found.candidate.session_ms) == (5.0, 6.0)
    assert found.base.path == str(tmp_path / "base.onnx")
    assert found.base.sha256 == hashlib.sha256((tmp_path / "base.onnx").read_bytes()).hexdigest()
    assert (found.batch, found.provider, found.threads, found.clock) == (100, "cpu", 1, "cpu")


def test_sentence_tells_the_numbers(inject):
    assert inject(1.0613, batch=8).sentence() == (
        "regression at batch 8: +6.13 % (99 % interval +6.13 % to +6.13 %; allowed +2 %), median 2 → 2.123 ms "
        "(CPU time, cpu, 1 thread; 24 pairs in 8 blocks, 4 s)"
    )
    told = inject(0.5, max_regression=0.005, clock="wall").sentence()
    assert told.startswith("improvement at batch 100: -50 % (99 % interval -50 % to -50 %; allowed +0.5 %), ")
    assert "CPU time" not in told


def test_different_inputs_are_reported(inject):
    half = TensorSpec("y", (100, 13), "float16")
    found = inject(inputs=((X,), (half,)))
    assert found.note == "inputs differ: base x [100, 13] float32; candidate y [100, 13] float16"
    assert found.sentence().endswith(f"; {found.note}")
    assert inject().note is None


def test_json_holds_every_sample_and_the_machine(inject):
    found = inject(1.06, shapes={"x": ("N", 13)}, seed=3)
    written = found.to_json()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert written["wall_ms"] == found.measured.wall_ms.tolist()
    assert np.shape(written["cpu_ms"]) == (8, 3, 2)
    assert (written["verdict"], written["exit_code"]) == ("regression", 1)
    assert written["ratio"]["median"] == pytest.approx(1.06)
    assert written["shapes"] == {"x": ["N", 13]}
    assert (written["provider"], written["threads"], written["seed"], written["batch"]) == ("cpu", 1, 3, 100)
    assert len(written["machine"]["id"]) == 16
    assert written["candidate"]["inputs"] == [{"name": "x", "shape": [100, 13], "dtype": "float32"}]


def test_progress_is_told(inject):
    told = []
    inject(progress=lambda block, most: told.append((block, most)))
    assert told == [(8, 128)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_regression": 0}, "max_regression=0 must be above 0 and below 10"),
        ({"max_regression": -0.1}, "max_regression=-0.1 must"),
        ({"max_regression": 10}, "max_regression=10 must"),
        ({"max_regression": float("nan")}, "max_regression=nan must"),
        ({"clock": "gpu"}, "clock 'gpu' is not one of auto, wall, cpu"),
        ({"max_seconds": -1}, "max_seconds=-1 must be 0 or more"),
        ({"max_seconds": float("nan")}, "max_seconds=nan must be 0 or more"),
        ({"batch": 0}, "batch=0 must be 1 or more"),
        ({"threads": 0}, "threads=0 must be 1 or more"),
        ({"clock": "cpu", "threads": 2}, "clock 'cpu' needs provider 'cpu' with threads=1"),
        ({"provider": "gpu"}, "provider 'gpu' is not one of auto, cpu"),
    ],
)
def test_bad_arguments(save_linear, options, message):
    path = save_linear()
    with pytest.raises(BenchError, match=message):
        compare_latency(path, path, **{"provider": "cpu"} | options)


def test_a_missing_file_is_named(save_linear, tmp_path):
    with pytest.raises(BenchError, match=r"gone\.onnx is not a file"):
        compare_latency(save_linear(), tmp_path / "gone.onnx", provider="cpu")


def test_a_fixed_batch_is_told(save_linear):
    with pytest.raises(BenchError, match=r"fixed\.onnx: .*fixed batch of 4, not batch=100"):
        compare_latency(save_linear(), save_linear("fixed.onnx", shape=(4, 13)), provider="cpu")


def test_a_provider_that_is_not_there_is_an_environment_error(save_linear, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="'cuda' is not in this build"):
        compare_latency(save_linear(), save_linear(), provider="cuda")


def test_real_models_of_different_inputs(save_linear):
    base, candidate = save_linear(), save_linear("deeper.onnx", shape=("N", 2, 13))
    found = compare_latency(base, candidate, provider="cpu", batch=3, max_seconds=0)
    assert found.blocks == 8
    assert found.verdict in gate.EXIT_CODES
    assert found.note == "inputs differ: base x [3, 13] float32; candidate x [3, 2, 13] float32"
    assert found.clock == "cpu"
    assert min(found.base.median_ms, found.candidate.median_ms, found.base.session_ms) > 0


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_real_models_on_a_gpu(save_linear, cuda_graph):
    path = save_linear()
    found = compare_latency(path, path, provider="cuda", batch=3, cuda_graph=cuda_graph, max_seconds=0)
    assert (found.provider, found.clock, found.blocks) == ("cuda", "wall", 8)
    assert "(cuda; " in found.sentence()
