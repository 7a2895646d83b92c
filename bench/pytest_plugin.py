"""pytest plugin: a test that hands an ONNX file to `onnx_latency.check` fails when the file has become slow.

Options, markers, the summary and which tests were collected are here, the gate itself in `pytest_gate`. A run whose
tests do not use the fixture imports neither onnxruntime nor numpy.
"""

import ast
import os
import shlex
from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from compressor.errors import CompressorError
from compressor.files import read_json, write_json

from .pytest_gate import FIXTURE, MARK, LimitsError, OnnxLatency, Settings, limits_of, node_of

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter  # pytest 8.0 has no public name for it

__all__ = ["OnnxLatency"]

_FOLDER: Final = ".onnx-baselines"
_STATE: Final = pytest.StashKey["_State"]()
_GATE: Final = pytest.StashKey[OnnxLatency]()
_MARKER_HELP: Final = (
    f"{MARK}(batch=100, max_ms=None, max_regression=None, provider='auto', threads=1, shapes=None, inputs=None): "
    f"limits for the ONNX files that the test hands to the fixture {FIXTURE}: a median in milliseconds for the whole "
    "batch, and/or how much slower than its baseline a file may be (0.02 is 2 %)."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("onnx_latency", "latency of ONNX models")
    group.addoption(
        "--onnx-latency-baseline",
        metavar="DIR",
        help=f"Folder of the baselines. Default: ini option onnx_latency_baseline, {_FOLDER} beside the ini file.",
    )
    group.addoption(
        "--onnx-latency-update",
        action="store_true",
        help="Save each checked file as the new baseline instead of comparing it; max_ms still holds.",
    )
    group.addoption(
        "--onnx-latency-only",
        action="store_true",
        help="Run only tests with the marker or the fixture onnx_latency.",
    )
    group.addoption(
        "--onnx-latency-skip",
        action="store_true",
        help="Skip tests with the marker or the fixture onnx_latency.",
    )
    group.addoption("--onnx-latency-json", metavar="FILE", help="Write all measurements as JSON here.")
    parser.addini("onnx_latency_baseline", f"Folder of the latency baselines (default: {_FOLDER}).", default=_FOLDER)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and refuse options that cannot work."""
    config.addinivalue_line("markers", _MARKER_HELP)
    if config.getoption("onnx_latency_only") and config.getoption("onnx_latency_skip"):
        raise pytest.UsageError("--onnx-latency-only and --onnx-latency-skip leave no test to run; give one of them")
    folder = _folder(config)
    if folder.exists() and not folder.is_dir():
        raise pytest.UsageError(f"--onnx-latency-baseline: {folder} is not a folder")
    target = _json_file(config)
    if target is not None and (target.is_dir() or not target.parent.is_dir()):
        raise pytest.UsageError(f"--onnx-latency-json: {target} cannot be written: no such folder, or itself one")
    state = config.stash[_STATE] = _State(config)
    config.pluginmanager.register(state, "onnx_latency_state")


def _folder(config: pytest.Config) -> Path:
    given = config.getoption("onnx_latency_baseline")
    if given:
        return config.invocation_params.dir / str(given)
    return (config.inipath.parent if config.inipath else config.rootpath) / str(config.getini("onnx_latency_baseline"))


def _json_file(config: pytest.Config) -> Path | None:
    given = config.getoption("onnx_latency_json")
    return config.invocation_params.dir / given if given else None


class _State:
    """What a session knows: which tests there are, and what was measured.

    Attributes:
        tests: node ids of all collected tests, before any were deselected; None where nothing was collected here
        gated: those with the marker or the fixture
        complete: whether all tests of the named files and folders were collected
        passed: node ids whose call phase passed
        records: `Record.to_json()` of all checks, in their order
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.tests: frozenset[str] | None = None
        self.gated: frozenset[str] = frozenset()
        self.complete = not any(
            config.getoption(name, None) for name in ("lf", "deselect", "ignore", "ignore_glob", "pyargs")
        )
        self.passed: set[str] = set()
        self.records: list[dict[str, Any]] = []
        self._named = [(config.invocation_params.dir / arg).resolve() for arg in config.args if "::" not in arg]

    def exists(self, node: str) -> bool:
        """Tell whether a stored node id still has a test, from what was collected, otherwise from the source."""
        if self.tests is not None and node in self.tests:
            return True
        file = self._file(node)
        if not file.is_file() or (self.complete and self._covers(file)):
            return False
        return node.split("::")[-1].partition("[")[0] in _functions(file)

    def orphans(self, baselines: Iterable[str]) -> list[str]:
        """Those baselines that no test uses, as far as the collected files show."""
        if self.tests is None or not self.complete:
            return []
        used = {record["key"] for record in self.records if record["limits"]["max_regression"] is not None}
        return [
            key
            for key in baselines
            if "::" in key and self._covers(self._file(node_of(key)))
            # A test that ended well and did not ask for one of its baselines needs it no longer.
            if node_of(key) not in self.gated or (node_of(key) in self.passed and key not in used)
        ]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect records and passed tests, from this process or from a worker."""
        self.records += getattr(report, "onnx_latency", [])
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)

    def _file(self, node: str) -> Path:
        return self.config.rootpath / node.partition("::")[0]

    def _covers(self, file: Path) -> bool:
        """Tell whether the command line asked for all tests of a file."""
        return any(file.resolve().is_relative_to(place) for place in self._named)


def _functions(file: Path) -> set[str]:
    """Names of all functions that a Python file defines; empty where it cannot be read."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def _is_gated(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARK) is not None or FIXTURE in getattr(item, "fixturenames", ())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note which tests there are, then carry out --onnx-latency-only and --onnx-latency-skip."""
    state = config.stash[_STATE]
    state.tests = frozenset(item.nodeid for item in items)
    state.gated = frozenset(item.nodeid for item in items if _is_gated(item))
    if config.getoption("onnx_latency_skip"):
        for item in filter(_is_gated, items):
            item.add_marker(pytest.mark.skip(reason="latency is not measured: --onnx-latency-skip"))
    if config.getoption("onnx_latency_only"):
        others = [item for item in items if not _is_gated(item)]
        items[:] = [item for item in items if _is_gated(item)]
        config.hook.pytest_deselected(items=others)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Note that -k, -m and their like left out tests of ours."""
    for item in filter(_is_gated, items):
        item.config.stash[_STATE].complete = False


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Note that a file could not be collected."""
    report = yield
    if report.failed:
        collector.config.stash[_STATE].complete = False
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker with bad arguments before anything of the test runs."""
    try:
        limits_of(item)
    except LimitsError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def onnx_latency(request: pytest.FixtureRequest) -> OnnxLatency:
    """Gate ONNX files: `onnx_latency.check(path)` fails the test where the file misses the limits of its marker."""
    config, item = request.config, request.node
    gate = OnnxLatency(
        item.nodeid,
        limits_of(item),
        Settings(
            folder=_folder(config),
            update=config.getoption("onnx_latency_update"),
            workers=getattr(config, "workerinput", {}).get("workercount", 1),
            command=_update_command(config, item.nodeid),
            exists=config.stash[_STATE].exists,
        ),
    )
    item.stash[_GATE] = gate
    return gate


def _update_command(config: pytest.Config, node: str) -> str:
    """The command line that saves the baselines of a test."""
    file, colons, test = node.partition("::")
    here = os.path.relpath(config.rootpath / file, config.invocation_params.dir)
    folder = config.getoption("onnx_latency_baseline")
    words = ["pytest", here + colons + test, "--onnx-latency-update"]
    return shlex.join(words + (["--onnx-latency-baseline", folder] if folder else []))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a marked test that measured nothing: a gate that never measured must not pass."""
    yield
    gate = item.stash.get(_GATE, None)
    measured = gate is not None and any(record.verdict != "error" for record in gate.records)
    if item.get_closest_marker(MARK) is not None and not measured:
        pytest.fail(
            f"{item.nodeid} is marked {MARK} but measured nothing; call onnx_latency.check(path) of the fixture "
            f"{FIXTURE} in it, or remove the marker",
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the records travel with the report of the teardown, which pytest-xdist sends to its controller."""
    report = yield
    gate = item.stash.get(_GATE, None)
    if call.when == "teardown" and gate is not None:
        vars(report)["onnx_latency"] = [record.to_json() for record in gate.records]
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the file of --onnx-latency-json."""
    config = session.config
    target = _json_file(config)
    if target is None or hasattr(config, "workerinput"):
        return
    content = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "records": config.stash[_STATE].records}
    write_json(target, content)


def pytest_terminal_summary(terminalreporter: "TerminalReporter", config: pytest.Config) -> None:
    """Show the measurements, and the baselines that no test uses."""
    state = config.stash[_STATE]
    orphans = state.orphans(_stored(_folder(config)))
    if not state.records and not orphans:
        return
    terminalreporter.write_sep("=", "onnx latency")
    rows = [_row(record) for record in state.records]
    for index, line in enumerate(_aligned([_HEAD, *rows]) if rows else []):
        failed = index > 0 and not state.records[index - 1]["passed"]
        terminalreporter.write_line(line, red=failed, bold=index == 0)
    for record in state.records:
        if record["note"]:
            terminalreporter.write_line(f"{record['key']}: {record['note']}")
    if orphans:
        notice = "baselines that no test uses (renamed or removed?); remove one with: compressor baseline remove NAME"
        terminalreporter.write_line(f"{_folder(config)} has {notice}", yellow=True)
    for key in orphans:
        terminalreporter.write_line(f"  {key}", yellow=True)


_HEAD: Final = ("check", "batch", "median ms", "ratio [interval]", "verdict", "limit")


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    limits, ratio = record["limits"], (record["comparison"] or {}).get("ratio")
    limit = [] if limits["max_regression"] is None else [f"{100 * limits['max_regression']:+g} %"]
    limit += [] if limits["max_ms"] is None else [f"{limits['max_ms']:g} ms"]
    return (
        record["key"],
        str(limits["batch"]),
        "-" if record["median_ms"] is None else f"{record['median_ms']:.4g}",
        f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else "-",
        record["verdict"],
        ", ".join(limit) or "none",
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad the columns; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in (1, 2) else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _stored(folder: Path) -> list[str]:
    """Names of the stored baselines; read here, since `baseline` imports onnxruntime. Damaged ones are left out."""
    names = []
    for file in folder.glob("*.json"):
        try:
            names.append(str(read_json(file)["name"]))
        except (CompressorError, KeyError, TypeError, IndexError):
            continue
    return sorted(names)
