"""Measuring architectures: what is kept, what is measured again, and how a shipped file is judged."""

import json
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch

from compressor.bench import Conditions, Pairs
from compressor.costs import latency_measurement as runtime
from compressor.costs.latency_measurement import Runtime
from compressor.files import cache_folder, read_json
from compressor.models import reference_architecture

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")  # which have tests of their own

MLP = reference_architecture("mlp", {}, 10, (1, 8, 8), 0.1)
HALF = MLP.with_widths({name: width // 2 for name, width in MLP.widths.items()})
CONDITIONS = Conditions("cpu", 4, 1)


def pairs(base, candidate, blocks=8, clock="cpu"):
    """Pairs whose blocks have these milliseconds: one number, or one for each block."""
    times = np.empty((blocks, 5, 2))
    times[:, :, 0] = np.broadcast_to(np.asarray(base, dtype=float).reshape(-1, 1), (blocks, 5))
    times[:, :, 1] = np.broadcast_to(np.asarray(candidate, dtype=float).reshape(-1, 1), (blocks, 5))
    return Pairs(times, times, clock, "cpu", 1, 0.1, 0, np.ones((blocks, 2)), ((), ()))


@pytest.fixture
def measured(monkeypatch):
    """Stand in for the measurement: `told` are the pairs to give, `asked` the files that were measured."""
    asked, told = [], []

    def measure(base, candidate, conditions, decided, **options):
        assert Path(base).is_file()
        asked.append(Path(candidate).read_bytes())
        for found in told[:-1]:
            if decided(found):
                return found
        return told[-1]

    monkeypatch.setattr(runtime, "measure_pairs", measure)
    return asked, told


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(tmp_path, conditions=CONDITIONS, reference=MLP):
    made = Runtime(reference, conditions, opset=20, folder=tmp_path / "work")
    made._quick_is_true = True  # without asking
    return made


def test_a_ratio_is_measured_once_on_a_machine(tmp_path, cache, measured):
    asked, told = measured
    told.append(pairs(2.0, 1.0))
    first = make(tmp_path).ratio(HALF, 0.7, exact=False)
    again = make(tmp_path / "another run").ratio(HALF, 0.7, exact=False)
    assert first == again
    assert first.median == pytest.approx(0.5)
    assert len(asked) == 1
    (file,) = cache.rglob("*.json")
    assert [entry["blocks"] for entry in read_json(file).values()] == [8]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("conditions", "reference", "exact"),
    [
        (Conditions("cpu", 8, 1), MLP, False),
        (Conditions("cpu", 4, 2), MLP, False),
        (CONDITIONS, HALF, False),
        (CONDITIONS, MLP, True),
    ],
)
def test_other_conditions_are_measured_anew(tmp_path, measured, conditions, reference, exact):
    asked, told = measured
    told.append(pairs(2.0, 1.0))
    make(tmp_path / "a").ratio(HALF, 0.7, exact=False)
    make(tmp_path / "b", conditions, reference).ratio(HALF, 0.7, exact)
    assert len(asked) == 2


@pytest.mark.usefixtures("cache")
def test_what_was_far_from_one_limit_is_measured_better_near_another(tmp_path, measured):
    asked, told = measured
    told += [pairs(2.0, [0.9, 1.1], blocks=2), pairs(2.0, [0.99, 1.01] * 8, blocks=16)]
    rough = make(tmp_path).ratio(HALF, 0.9, exact=False)
    assert (rough.low, rough.high) == (pytest.approx(0.45), pytest.approx(0.55))
    fine = make(tmp_path).ratio(HALF, 0.52, exact=False)
    assert len(asked) == 2
    assert fine.high <= 0.505 + 1e-9
    assert make(tmp_path).ratio(HALF, 0.9, exact=False) == fine
    assert len(asked) == 2


@pytest.mark.usefixtures("cache", "measured")
def test_the_time_of_the_unscaled_network_stays_for_a_run(tmp_path, monkeypatch):
    times = iter([(3.0, (2.9, 3.1)), (5.0, (4.9, 5.1))])
    monkeypatch.setattr(runtime, "median_alone", lambda path, conditions, blocks: next(times))
    assert make(tmp_path).unscaled_ms() == (3.0, 3.1)
    assert make(tmp_path).unscaled_ms() == (3.0, 3.1)
    assert make(tmp_path / "another run").unscaled_ms() == (5.0, 5.1)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("quick", "exports"), [(1.03, 2), (0.95, 3)])
def test_quick_exports_are_only_measured_if_they_are_true(tmp_path, measured, monkeypatch, quick, exports):
    asked, told = measured
    told.append(pairs(1.0, quick))
    exported = []
    export = Runtime._export

    def spy(self, architecture, path, exact):
        exported.append(exact)
        export(self, architecture, path, exact)

    monkeypatch.setattr(Runtime, "_export", spy)
    bench = Runtime(MLP, CONDITIONS, opset=20, folder=tmp_path / "work")
    bench.ratio(HALF, 0.5, exact=False)
    assert len(asked) == 2  # the unscaled network exported quickly, and what was asked for
    assert exported == [True, False, exports == 3]


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1}', None])
def test_a_damaged_cache_is_none(tmp_path, cache, measured, text):
    asked, told = measured
    told.append(pairs(2.0, 1.0))
    make(tmp_path).ratio(HALF, 0.7, exact=False)
    (file,) = cache.rglob("*.json")
    if text is None:
        file.write_text(file.read_text().replace('"blocks": 8', '"blocks": null'))
    else:
        file.write_text(text)
    assert make(tmp_path).ratio(HALF, 0.7, exact=False).median == pytest.approx(0.5)
    assert len(asked) == 2
    make(tmp_path).ratio(HALF, 0.7, exact=False)
    assert len(asked) == 2


def test_a_cache_that_cannot_be_written_is_told(tmp_path, measured, monkeypatch):
    monkeypatch.setenv("COMPRESSOR_CACHE", "/dev/null")
    measured[1].append(pairs(2.0, 1.0))
    told = []
    bench = Runtime(MLP, CONDITIONS, opset=20, folder=tmp_path / "work", progress=told.append)
    bench._quick_is_true = True
    assert bench.ratio(HALF, 0.7, exact=False).median == pytest.approx(0.5)
    assert any("is not kept for other runs" in line for line in told)


@pytest.mark.usefixtures("cache", "measured")
def test_what_another_recipe_left_in_the_folder_is_not_used(tmp_path, monkeypatch):
    times = iter([(3.0, (2.9, 3.1)), (5.0, (4.9, 5.1)), (7.0, (6.9, 7.1))])
    monkeypatch.setattr(runtime, "median_alone", lambda path, conditions, blocks: next(times))
    assert make(tmp_path).unscaled_ms() == (3.0, 3.1)
    assert make(tmp_path, reference=HALF).unscaled_ms() == (5.0, 5.1)
    assert make(tmp_path, Conditions("cpu", 8, 1)).unscaled_ms() == (7.0, 7.1)
    assert make(tmp_path).unscaled_ms() == (3.0, 3.1)


@pytest.mark.usefixtures("cache")
def test_a_network_of_other_code_is_measured_anew(tmp_path, measured, monkeypatch):
    asked, told = measured
    told.append(pairs(2.0, 1.0))
    make(tmp_path / "a").ratio(HALF, 0.7, exact=False)
    build, tanh = runtime.build, torch.nn.Tanh()
    monkeypatch.setattr(runtime, "build", lambda architecture: torch.nn.Sequential(build(architecture), tanh))
    make(tmp_path / "b").ratio(HALF, 0.7, exact=False)
    assert len(asked) == 2


WAVE = [0.95, 1.05] * 4


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("limit_ms", "share", "verdict"),
    [
        (1.2, None, "met"),
        (0.9, None, "missed"),
        (1.0, None, "inconclusive"),
        (9.9, 0.6, "met"),  # the share decides
        (9.9, 0.45, "missed"),
        (9.9, 0.5, "inconclusive"),
    ],
)
def test_a_shipped_file_is_judged_by_its_interval(tmp_path, measured, limit_ms, share, verdict):
    measured[1].append(pairs(2.0, WAVE))
    file = tmp_path / "model.onnx"
    file.write_bytes(b"a model")
    found = make(tmp_path).verify(file, limit_ms, share)
    assert found["verdict"] == verdict
    assert (found["cost_ms"] <= limit_ms) == (verdict == "met")
    assert found["median_ms"] == pytest.approx(1.0)
    assert found["unscaled_ms"] == pytest.approx(2.0)
    assert found["pairs"] == 40
    assert json.loads(json.dumps(found)) == found
    assert measured[0] == [b"a model"]


@pytest.mark.usefixtures("cache")
def test_real_files_on_the_real_runtime(tmp_path):
    wide = reference_architecture("mlp", {}, 10, (1, 32, 32))
    bench = make(tmp_path, Conditions("cpu", 16, 1), wide)
    tiny = wide.with_widths(dict.fromkeys(wide.widths, 1))
    quick, exact = (bench.ratio(tiny, 2.0, exact) for exact in (False, True))
    for ratio in (quick, exact):
        assert 0 < ratio.low <= ratio.median <= ratio.high < 1
    assert bench.unscaled_ms()[0] > 0
    assert not [path for path in (tmp_path / "work").iterdir() if path.is_dir()]  # candidates are gone


def test_the_cache_lies_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("COMPRESSOR_CACHE")
    assert cache_folder() == platformdirs.user_cache_path("compressor", appauthor=False)
