"""The plugin as a user's project loads it: pytest in a subprocess.

Verdicts are injected: the project's conftest replaces what measures, and the name of a file says what is found.
"""

import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from compressor.bench import measure_latency
from compressor.bench.baseline import BaselineStore

# As entry point it would be loaded under its other name, too.
PLUGIN = ("-p", "no:onnx_latency", "-p", "compressor.bench.pytest_plugin")
ORPHANS = "*.onnx-baselines has baselines that no test uses (renamed or removed[?]); remove one with: *"

FAKES = """
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from compressor.bench import ProviderError, gate, latency, machine_fingerprint
from compressor.bench.pairs import Ratio
from compressor.bench.turns import Conditions

RATIOS = {  # low, median, high
    "same": (0.99, 1.0, 1.01), "slower": (1.10, 1.12, 1.15), "faster": (0.7, 0.75, 0.8), "unclear": (0.9, 1.1, 1.2)
}
TIMES = {  # medians of the sessions, the last one over and over
    "quick": [4.0], "slow": [9.0], "settles": [4.0, 6.0] * 4 + [4.0], "never": [4.0, 6.0] * 20
}

def compare(base, candidate, *, max_regression, provider, batch, threads, shapes, inputs):
    if provider == "cuda":
        raise ProviderError("provider 'cuda' was asked for but there is none here")
    low, median, high = RATIOS[Path(candidate).stem]
    ratio = Ratio(median, low, high, 0.99)
    times = {base: 3.0, candidate: 3.0 * median}
    sides = [gate.Side(str(path), "", ms, (ms, ms), 1.0, ()) for path, ms in times.items()]
    samples = SimpleNamespace(wall_ms=np.ones((8, 5, 2)), cpu_ms=np.ones((8, 5, 2)))
    return gate.Comparison(
        gate.verdict_of(ratio, max_regression), ratio, max_regression, *sides, Conditions("cpu", batch, threads), "cpu",
        threads, "cpu", 8, 40, 1.0, "2026-01-02", machine_fingerprint(), samples,
    )

def measure(path, *, provider, batch, threads, shapes, inputs, warmup, runs):
    times = TIMES[Path(path).stem]
    median = times.pop(0) if len(times) > 1 else times[0]
    return SimpleNamespace(
        samples=[median] * runs, median=median, batch=batch, provider="cpu", threads=threads, seed=0, to_json=dict
    )

gate.compare_latency, latency.measure_latency = compare, measure
"""

FILES = ["same", "slower", "faster", "unclear"]
GATED = """
import pytest

@pytest.mark.onnx_latency(batch=8, max_regression=0.05)
@pytest.mark.parametrize("file", ["same", "slower", "faster", "unclear"])
def test_gate(onnx_latency, file):
    record = onnx_latency.check(f"{file}.onnx")
    assert (record.path, record.limits.batch, record.comparison.threads) == (f"{file}.onnx", 8, 1)
"""


@pytest.fixture
def run(pytester):
    """Run pytest with the plugin in the project."""

    def start(*args):
        return pytester.runpytest_subprocess(*PLUGIN, "--strict-markers", "-W", "error", *args)

    return start


@pytest.fixture
def project(pytester, save_linear, run):
    """Make a project with fakes, one test file, models, and baselines of a model."""

    def make(source, models=(), baselines=(), fakes=True):
        if fakes:
            pytester.makeconftest(FAKES)
        pytester.makepyfile(test_m=source)
        for name in models:
            (pytester.path / name).parent.mkdir(exist_ok=True)
            save_linear(pytester.path / f"{name}.onnx")
        store = BaselineStore(pytester.path / ".onnx-baselines")
        for name in baselines:
            store.save(name, save_linear(pytester.path / "kept.onnx"))
        return store

    return make


def one_test(marker="max_regression=0.05", body="onnx_latency.check('same.onnx')"):
    return f"import pytest\n\n@pytest.mark.onnx_latency({marker})\ndef test_a(onnx_latency):\n    {body}\n"


def test_entry_point_names_the_plugin():
    found = importlib.metadata.entry_points(group="pytest11", name="onnx_latency")
    assert {entry.value for entry in found} == {"compressor.bench.pytest_plugin"}


def test_installed_it_needs_no_option(pytester):
    pytester.makepyfile(one_test(body="pass"))
    pytester.runpytest_subprocess("--strict-markers", "--onnx-latency-skip").assert_outcomes(skipped=1)


def test_nothing_is_imported_before_the_fixture_is_used(run, project, pytester):
    project(one_test(), baselines=["test_m.py::test_gone"], fakes=False)
    pytester.makepyfile(test_plain="def test_plain():\n    pass\n")
    heavy = "sorted({'numpy', 'onnxruntime'} & set(sys.modules))"
    pytester.makeconftest(f"import sys\n\ndef pytest_unconfigure():\n    print('heavy:', {heavy})\n")
    for args, orphans in ((["--co", "-q"], 1), (["-k", "plain"], 0), (["--onnx-latency-skip"], 1)):
        result = run(*args)
        assert result.ret == 0
        result.stdout.fnmatch_lines(["heavy: []"])
        assert str(result.stdout).count("that no test uses") == orphans


def test_the_failing_test_itself_fails_with_its_numbers(run, project):
    project(
        GATED,
        FILES,
        [f"test_m.py::test_gate[{file}]" for file in FILES],
    )
    result = run()
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "slower.onnx: regression at batch 8: +12 % (99 % interval +10 % to +15 %; allowed +5 %), median 3 → "
            "3.36 ms (*; if it is meant to be slower, make it the baseline: pytest 'test_m.py::test_gate[[]slower[]]' "
            "--onnx-latency-update",
            "unclear.onnx: inconclusive at batch 8: +10 % (99 % interval -10 % to +20 %; allowed +5 %)*quieter machine",
            "*= onnx latency =*",
            "check * batch  median ms  ratio [[]interval[]] * verdict * limit",
            "test_m.py::test_gate[[]same[]]  *  8  * 3  1.000 [[]0.990, 1.010[]]  ok * +5 %",
            "test_m.py::test_gate[[]slower[]] * 8  * 3.36  1.120 [[]1.100, 1.150[]]  regression * +5 %",
            "test_m.py::test_gate[[]faster[]] * improvement  *",
            "test_m.py::test_gate[[]unclear[]] * inconclusive  *",
        ]
    )
    result.stdout.no_fnmatch_line("*def check*")  # no traceback into the plugin
    assert "no test uses" not in str(result.stdout)


def test_max_ms(run, project):
    project(
        """
        import pytest

        @pytest.mark.onnx_latency(batch=3, max_ms=5)
        @pytest.mark.parametrize("file", ["quick", "slow", "settles", "never"])
        def test_gate(onnx_latency, file):
            assert onnx_latency.check(f"{file}.onnx").median_ms == 4.0
        """,
        ("quick", "slow", "settles", "never"),
    )
    result = run()
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "slow.onnx: median 9 ms (99 % interval 9 to 9) at batch 3 (cpu, 1 thread) is over max_ms=5",
            "never.onnx: median 5 ms (99 % interval 4 to 6) at batch 3 (cpu, 1 thread) is neither clearly within nor "
            "clearly over max_ms=5 after 1984 runs in 32 sessions; *",
            "*test_gate[[]slow[]] *  9  -  * too slow  * 5 ms",
            "*test_gate[[]settles[]] *  4  -  * ok  * 5 ms",
        ]
    )


def test_either_limit_fails_the_test_and_both_are_told(run, project, pytester):
    source = one_test("max_regression=0.05, max_ms=5", "onnx_latency.check('slow.onnx')")
    source += source.replace("test_a", "test_b").replace("slow", "never")
    project(source, ["slow", "never"], ["test_m.py::test_a", "test_m.py::test_b"])
    conftest = pytester.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace('"slower"', '"slow"').replace('"faster"', '"never"'))
    result = run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["slow.onnx: median 9 ms*over max_ms=5", "slow.onnx: regression at batch 100*"])
    result.stdout.fnmatch_lines(["test_m.py::test_a *regression * +5 %, 5 ms", "test_m.py::test_b *inconclusive *"])


def test_bad_marker_arguments_are_errors_that_name_the_test(run, project):
    project(one_test("max_msec=5") + one_test("batch=0").replace("test_a", "test_b"), fakes=False)
    result = run()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "test_m.py::test_a: 'max_msec' is no argument of @pytest.mark.onnx_latency: batch, max_ms, *",
            "test_m.py::test_b: @pytest.mark.onnx_latency(batch=0): batch is a whole number, 1 or more",
        ]
    )


def test_markers_of_modules_and_classes_hold_for_their_tests(run, project):
    source = """
        import pytest
        pytestmark = pytest.mark.onnx_latency(max_ms=5, batch=3)

        @pytest.mark.onnx_latency(batch=7)
        class TestA:
            def test_a(self, onnx_latency):
                limits = onnx_latency.check("quick.onnx").limits
                assert (limits.max_ms, limits.batch) == (5, 7)
        """
    project(source, ["quick"])
    run().assert_outcomes(passed=1)


def test_missing_baseline_fails_with_the_command_that_makes_it(run, project, pytester):
    """Really measured: the file beside itself, anything up to ten times as slow allowed."""
    store = project(one_test("max_regression=9, batch=1, provider='cpu'"), ["same"], fakes=False)
    result = run()
    result.assert_outcomes(failed=1)
    line = next(line for line in result.outlines if "has no baseline" in line)
    assert line.startswith(f"test_m.py::test_a has no baseline in {store.folder}; save one: pytest ")
    command = shlex.split(line.partition("save one: ")[2])
    assert command == ["pytest", "test_m.py::test_a", "--onnx-latency-update"]

    result = run(*command[1:])
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test_m.py::test_a * saved *", "test_m.py::test_a: saved in *"])
    (numbers,) = store.load("test_m.py::test_a").latencies
    assert (numbers["batch"], numbers["threads"], numbers["runs"]) == (1, 1, 80)

    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test_m.py::test_a *  +900 %"])


def test_a_much_slower_model_really_fails(run, project, pytester, save_linear):
    project(one_test("max_regression=0.5, batch=1, provider='cpu'"), [], ["test_m.py::test_a"], fakes=False)
    save_linear(pytester.path / "same.onnx", shape=("N", 9000, 13))
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["same.onnx: regression at batch 1: *", "test_m.py::test_a *regression  +50 %"])


def test_a_limit_of_a_minute_really_passes_and_one_of_a_nanosecond_fails(run, project):
    source = one_test("max_ms=6e4, batch=1") + one_test("max_ms=1e-6, batch=1").replace("test_a", "test_b")
    project(source, ["same"], fakes=False)
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["same.onnx: median * is over max_ms=1e-06"])


def test_a_renamed_test_is_told_its_old_baselines(run, project, pytester, save_linear):
    store = project(
        one_test(), ["same"], ["test_m.py::test_old", "test_m.py::test_a#x", "other.py::test_old", "release"]
    )
    save_linear(pytester.path / "wide.onnx", shape=("N", 5, 13))
    for name in ("test_m.py::TestOld::test_other[1]", "elsewhere.py::test_b"):
        store.save(name, pytester.path / "wide.onnx")
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*; baselines there without a test, should it have been renamed: other.py::test_old (the same file), "
            "test_m.py::test_a#x (the same file), test_m.py::test_old (the same file), "
            "test_m.py::TestOld::test_other[[]1[]] "
            "(then: compressor baseline rename OLD 'test_m.py::test_a' --baselines *)",
            ORPHANS,
            "  elsewhere.py::test_b",
            "  other.py::test_old",
            "  test_m.py::TestOld::test_other[[]1[]]",
            "  test_m.py::test_old",
            "=*",
        ]
    )


def test_tests_that_were_not_selected_are_no_orphans(run, project):
    source = one_test() + one_test().replace("test_a", "test_b") + "\nclass TestC:\n    def test_c(self): pass\n"
    project(source, ["same"], ["test_m.py::test_b", "test_m.py::TestC::test_c"])
    for args in (["test_m.py::test_a"], ["-k", "test_a"], ["--deselect", "test_m.py::test_b"], ["--lf"]):
        result = run(*args)
        assert result.parseoutcomes()["failed"] == 1
        result.stdout.fnmatch_lines(["test_m.py::test_a has no baseline in *--onnx-latency-update"])
        assert "no test uses" not in str(result.stdout)
    # A test that lost marker and fixture leaves an orphan, though it exists.
    result = run("--onnx-latency-only")
    result.stdout.fnmatch_lines([ORPHANS, "  test_m.py::TestC::test_c", "=*"], consecutive=True)


def test_no_orphans_are_told_where_a_file_was_not_collected(run, project, pytester):
    project(one_test(), ["same"], ["test_m.py::test_a", "test_broken.py::test_b"])
    pytester.makepyfile(test_broken="1 / 0")
    result = run("--continue-on-collection-errors")
    result.assert_outcomes(passed=1, errors=1)
    assert "no test uses" not in str(result.stdout)


def test_a_name_that_is_checked_no_longer_leaves_an_orphan(run, project):
    body = "onnx_latency.check('same.onnx', name='a')"
    project(one_test(body=body), ["same"], ["test_m.py::test_a#a", "test_m.py::test_a#b"])
    run().stdout.fnmatch_lines([ORPHANS, "  test_m.py::test_a#b", "=*"], consecutive=True)


def test_numbers_of_another_machine_are_shown_and_not_used(run, project, pytester):
    store = project(GATED, FILES)
    for name in ("same", "slower"):
        path = pytester.path / f"{name}.onnx"
        numbers = measure_latency(path, provider="cpu", batch=8, runs=1)
        store.save(f"test_m.py::test_gate[{name}]", path, [numbers], {"id": "0", "cpu": "Elsewhere"})
    result = run("-k", "same or slower")
    result.assert_outcomes(passed=1, failed=1, deselected=2)
    note = "baseline from another machine (median there * ms, saved *cpu: Elsewhere, here *): its model was "
    note += "measured here, its numbers were not used"
    result.stdout.fnmatch_lines(
        ["slower.onnx: regression *", note, "test_m.py::test_gate[[]same[]]: " + note, "*[[]slower[]]: " + note]
    )


@pytest.mark.parametrize(("workers", "outcome"), [(0, {"passed": 1}), (1, {"passed": 1}), (2, {"failed": 1})])
def test_xdist_itself(run, project, workers, outcome):
    pytest.importorskip("xdist")
    project(one_test(), ["same"], ["test_m.py::test_a"])
    result = run("-p", "xdist", "-n", str(workers))
    result.assert_outcomes(**outcome)
    told = "latency cannot be measured while 2 workers of pytest-xdist run tests beside each other; run with -n 0, "
    assert any(told in line for line in result.outlines) == (workers == 2)


def test_what_cannot_be_measured_fails_with_a_sentence(run, project, pytester):
    project(
        """
        import pytest
        pytestmark = pytest.mark.onnx_latency(max_regression=0.05)

        @pytest.mark.onnx_latency(provider="cuda")
        def test_provider(onnx_latency):
            onnx_latency.check("same.onnx")

        def test_missing(onnx_latency):
            onnx_latency.check("nowhere.onnx")
        """,
        ["same"],
        ["test_m.py::test_provider"],
    )
    result = run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["provider 'cuda' was asked for but there is none here", "nowhere.onnx is not a file"])
    result.stdout.fnmatch_lines(["test_m.py::test_provider * -  - *  error * +5 %"])


def test_a_gate_that_never_measured_does_not_pass(run, project):
    project(
        """
        import pytest
        marked = pytest.mark.onnx_latency(max_ms=5)

        def test_no_limit(onnx_latency):
            onnx_latency.check("quick.onnx")

        @marked
        def test_no_fixture():
            pass

        @marked
        def test_no_check(onnx_latency):
            pass

        @marked
        def test_swallowed(onnx_latency):
            with pytest.raises(pytest.fail.Exception):
                onnx_latency.check("nowhere.onnx")

        @marked
        def test_own_failure():
            assert 1 == 2

        @marked
        def test_skipped():
            pytest.skip("not today")
        """,
        ["quick"],
    )
    result = run()
    result.assert_outcomes(failed=5, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "test_m.py::test_no_limit has no limit, so nothing would be checked; mark it with *max_ms=*",
            "test_m.py::test_no_fixture is marked onnx_latency but measured nothing; call onnx_latency.check(path) *",
            "test_m.py::test_no_check is marked *",
            "test_m.py::test_swallowed is marked *",
            "*assert 1 == 2*",
        ]
    )


SELECTED = """
    import pytest

    @pytest.mark.onnx_latency(max_ms=5)
    def test_marked(onnx_latency):
        onnx_latency.check("quick.onnx")

    @pytest.fixture
    def gate(onnx_latency):
        return onnx_latency

    def test_by_fixture(gate):
        pass

    def test_plain():
        pass
"""


def test_only_and_skip(run, project):
    project(SELECTED, ["quick"])
    run("--onnx-latency-only").assert_outcomes(passed=2, deselected=1)
    result = run("--onnx-latency-skip", "-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED * latency is not measured: --onnx-latency-skip"])
    result = run("--onnx-latency-skip", "--onnx-latency-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --onnx-latency-only and --onnx-latency-skip leave no test to run; give one*"])


def test_update_replaces_the_baseline_without_comparing(run, project, pytester, save_linear):
    store = project(one_test("max_regression=0.05, batch=1"), [], ["test_m.py::test_a"], fakes=False)
    before = store.load("test_m.py::test_a").sha256
    save_linear(pytester.path / "same.onnx", shape=("N", 9000, 13))
    run("--onnx-latency-update").assert_outcomes(passed=1)
    assert store.load("test_m.py::test_a").sha256 != before


def test_update_keeps_to_max_ms(run, project):
    source = one_test("max_ms=5", "onnx_latency.check('quick.onnx')")
    source += one_test("max_ms=5, max_regression=0.05", "onnx_latency.check('slow.onnx')").replace("test_a", "test_b")
    store = project(source, ["quick", "slow"])
    result = run("--onnx-latency-update")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["slow.onnx: * is over max_ms=5; it was not saved as a baseline"])
    assert store.names() == []  # without max_regression there is nothing that would need one


def test_folder_by_option_and_ini(run, project, pytester):
    store = project(one_test(), ["same"], ["test_m.py::test_a"])
    store.folder.rename(pytester.path / "kept")
    run("--onnx-latency-baseline", "kept").assert_outcomes(passed=1)
    pytester.makeini("[pytest]\nonnx_latency_baseline = kept\n")
    run().assert_outcomes(passed=1)
    result = run("--onnx-latency-baseline", "same.onnx")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --onnx-latency-baseline: *same.onnx is not a folder"])


def test_the_command_fits_the_folder_that_pytest_was_called_in(project, pytester):
    project(one_test(), ["inner/same"], fakes=False)
    pytester.makeini("[pytest]\n")
    inner = pytester.path / "inner"
    command = [sys.executable, "-m", "pytest", *PLUGIN, "--onnx-latency-baseline", "my kept", ".."]
    done = subprocess.run(command, cwd=inner, capture_output=True, text=True, check=False)
    told = "pytest ../test_m.py::test_a --onnx-latency-update --onnx-latency-baseline 'my kept'"
    assert f"test_m.py::test_a has no baseline in {inner}/my kept; save one: {told}\n" in done.stdout


def test_json(run, project, pytester):
    project(GATED, FILES, ["test_m.py::test_gate[same]"])
    run("--onnx-latency-json", "out.json", "-k", "same or slower").assert_outcomes(passed=1, failed=1, deselected=2)
    written = json.loads((pytester.path / "out.json").read_text())
    same, slower = written["records"]
    assert (same["test"], same["verdict"], same["passed"]) == ("test_m.py::test_gate[same]", "ok", True)
    assert same["comparison"]["ratio"] == {"median": 1.0, "low": 0.99, "high": 1.01, "level": 0.99}
    assert (same["limits"]["batch"], same["limits"]["max_regression"]) == (8, 0.05)
    assert (slower["verdict"], slower["passed"], slower["comparison"]) == ("error", False, None)
    assert "has no baseline" in slower["message"]
    assert [file.name for file in pytester.path.glob("*out.json*")] == ["out.json"]
    result = run("--onnx-latency-json", "nowhere/out.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --onnx-latency-json: *nowhere/out.json cannot be written*"])


def test_the_documentation_is_true(run, pytester):
    page = (Path(__file__).parents[2] / "docs" / "latency-gate.md").read_text(encoding="utf-8")
    (included,) = re.findall(r'--8<-- "(.*)"', page)
    workflow = (Path(__file__).parents[2] / included).read_text(encoding="utf-8")
    steps = yaml.safe_load(workflow)["jobs"]["latency"]["steps"]
    assert [set(step) & {"uses", "run"} for step in steps] == [{"uses"}, {"uses"}, {"run"}, {"run"}, {"uses"}]
    named = set(re.findall(r"--onnx-latency-\w+", page + workflow))
    assert named == set(re.findall(r"--onnx-latency-\w+", str(run("--help").stdout)))
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    pytester.makepyfile(example)
    run().stdout.fnmatch_lines(["models/detector.onnx is not a file"])
