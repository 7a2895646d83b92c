"""The gate behind the pytest plugin: the limits that a test's markers set, and `onnx_latency.check`.

onnxruntime and numpy are imported by the first check, so that a run without one does not wait for them.
"""

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from .errors import BenchError
from .providers import PROVIDERS

if TYPE_CHECKING:
    from .baseline import Baseline, BaselineStore
    from .gate import Comparison
    from .latency import Latency

__all__ = ["MARK", "Limits", "LimitsError", "OnnxLatency", "Record", "Settings", "limits_of", "node_of"]

MARK: Final = "onnx_latency"
FIXTURE: Final = "onnx_latency"
_LOOKS: Final = (8, 16, 32)  # sessions after which a latency is held against its limit
_BLOCK_MS: Final = 250.0  # of measuring in a session, where 5 to 100 runs take that long
_SECONDS: Final = 120.0  # after which no further look is taken
_LEVEL: Final = 0.99  # of the interval of the median, at every look
_PASSING: Final = ("ok", "improvement", "saved")
_FAILING: Final = ("regression", "too slow", "inconclusive")  # the worst first


class LimitsError(ValueError):
    """A marker has arguments that mean nothing."""


@dataclass(frozen=True)
class Limits:
    """What the markers of a test ask for.

    Attributes:
        batch: inputs in one run
        max_ms: what the median of the wall time may be, milliseconds for a whole batch; None: anything
        max_regression: share by which a file may be slower than its baseline, 0.02 for 2 %; None: not compared
        provider: one of `compressor.bench.PROVIDERS`
        threads: intra-op threads; None leaves the count to ONNX Runtime
        shapes: sizes for symbolic axes, or whole shapes of inputs (see `Conditions`)
        inputs: an .npz file with values for some inputs, by their names; None: all are drawn at random
    """

    batch: int = 100
    max_ms: float | None = None
    max_regression: float | None = None
    provider: str = "auto"
    threads: int | None = 1
    shapes: Mapping[str, Sequence[int | str]] | None = None
    inputs: str | os.PathLike[str] | None = None

    @property
    def values(self) -> str | None:
        """Path of the .npz file."""
        return None if self.inputs is None else os.fspath(self.inputs)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_shapes(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(shape, list | tuple) for name, shape in value.items()
    )


_VALID: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "batch": ("a whole number, 1 or more", _count),
    "max_ms": ("milliseconds, above 0", lambda value: value is None or _number(value)),
    "max_regression": (
        "a share above 0 and below 10 (0.02 is 2 %)",
        lambda value: value is None or (_number(value) and value < 10),
    ),
    "provider": (f"one of {', '.join(PROVIDERS)}", lambda value: value in PROVIDERS),
    "threads": ("a whole number, 1 or more, or None for ONNX Runtime's choice", lambda v: v is None or _count(v)),
    "shapes": (
        "a dictionary of shapes, for example {'tokens': ('N', 128)}",
        lambda value: value is None or _is_shapes(value),
    ),
    "inputs": ("the path of an .npz file", lambda value: value is None or isinstance(value, str | os.PathLike)),
}


def limits_of(item: pytest.Item) -> Limits:
    """Read the markers of a test; those nearer to it win, argument by argument.

    Raises:
        LimitsError: an argument that is unknown, without a name, or of a bad value
    """
    given: dict[str, Any] = {}
    for mark in item.iter_markers(MARK):
        if mark.args:
            raise LimitsError(
                f"{item.nodeid}: @pytest.mark.{MARK} got {', '.join(map(repr, mark.args))} without a name; "
                f"its arguments have names: {', '.join(_VALID)}"
            )
        given = {**mark.kwargs, **given}
    for name, value in given.items():
        if name not in _VALID:
            raise LimitsError(f"{item.nodeid}: {name!r} is no argument of @pytest.mark.{MARK}: {', '.join(_VALID)}")
        wanted, is_valid = _VALID[name]
        if not is_valid(value):
            raise LimitsError(f"{item.nodeid}: @pytest.mark.{MARK}({name}={value!r}): {name} is {wanted}")
    return Limits(**given)


@dataclass(frozen=True)
class Settings:
    """What a run of pytest says about all of its checks.

    Attributes:
        folder: of the baselines
        update: save baselines instead of comparing with them
        workers: processes of pytest-xdist that run tests at the same time
        command: that saves the baselines of the test
        exists: whether a node id still has a test
    """

    folder: Path
    update: bool
    workers: int
    command: str
    exists: Callable[[str], bool]


@dataclass(frozen=True)
class Record:
    """What one check found; every time is in milliseconds for a whole batch.

    Attributes:
        test: node id
        key: the name of its baseline
        path: the file as given
        limits: those of the test
        verdict: "ok", "improvement", "saved" (its baseline); or a failure: "regression", "too slow", "inconclusive",
            "error" (no verdict)
        message: why it failed, "" where it passed
        note: what to know about the numbers of the baseline
        median_ms: wall time where `max_ms` asked for it, otherwise by the clock of the comparison; None: no measurement
        interval_ms: its bootstrap interval
        latencies: measurements of the file alone
        comparison: with the baseline
    """

    test: str
    key: str
    path: str
    limits: Limits
    verdict: str = "ok"
    message: str = ""
    note: str = ""
    median_ms: float | None = None
    interval_ms: tuple[float, float] | None = None
    latencies: tuple["Latency", ...] = field(default=(), repr=False)
    comparison: "Comparison | None" = field(default=None, repr=False)

    @property
    def passed(self) -> bool:
        """Whether the check lets the test pass."""
        return self.verdict in _PASSING

    def to_json(self) -> dict[str, Any]:
        """Give the record as JSON types, samples included."""
        plain = {name: getattr(self, name) for name in ("test", "key", "path", "verdict", "message", "note")}
        shapes = self.limits.shapes and {name: list(shape) for name, shape in self.limits.shapes.items()}
        return {
            **plain,
            "passed": self.passed,
            "limits": asdict(replace(self.limits, shapes=None)) | {"shapes": shapes, "inputs": self.limits.values},
            "median_ms": self.median_ms,
            "interval_ms": None if self.interval_ms is None else list(self.interval_ms),
            "latencies": [latency.to_json() for latency in self.latencies],
            "comparison": None if self.comparison is None else self.comparison.to_json(),
        }


class OnnxLatency:
    """The fixture `onnx_latency`.

    Attributes:
        records: of the checks so far
    """

    def __init__(self, test: str, limits: Limits, settings: Settings) -> None:
        self.records: list[Record] = []
        self._test, self._limits, self._settings = test, limits, settings

    def check(self, path: str | os.PathLike[str], *, name: str | None = None) -> Record:
        """Measure an ONNX file and fail the test where it misses a limit of its marker.

        Args:
            path: the file
            name: distinguishes several checks of one test; letters, digits, "_", "-" and "."

        Returns:
            what was measured; a failing check raises instead, and its record is the last of `records`
        """
        __tracebackhide__ = True
        record = Record(
            self._test, self._test if name is None else f"{self._test}#{name}", os.fspath(path), self._limits
        )
        try:
            self._refuse(record, name)
            record = self._gate(record)
        except BenchError as error:
            record = replace(record, verdict="error", message=str(error))
        self.records.append(record)
        if not record.passed:
            pytest.fail(record.message, pytrace=False)
        return record

    def _refuse(self, record: Record, name: str | None) -> None:
        """Raise where a check cannot mean anything."""
        if self._limits.max_ms is None and self._limits.max_regression is None:
            raise BenchError(
                f"{self._test} has no limit, so nothing would be checked; mark it with "
                f"@pytest.mark.{MARK}(max_ms=...), or max_regression=..., or both"
            )
        if self._settings.workers > 1:
            raise BenchError(
                f"latency cannot be measured while {self._settings.workers} workers of pytest-xdist run tests beside "
                "each other; run with -n 0, or measure in a job of its own with --onnx-latency-only -n 0 and give "
                "--onnx-latency-skip to this one"
            )
        if name is not None and not re.fullmatch(r"[\w.-]+", name):
            raise BenchError(f"name={name!r} of a check may have letters, digits, '_', '-' and '.' only")
        if any(record.key == earlier.key for earlier in self.records):
            raise BenchError(
                f"{record.key} was already checked in this test; give each of its checks a name: "
                f"{FIXTURE}.check({record.path!r}, name=...)"
            )
        if not Path(record.path).is_file():
            raise BenchError(f"{record.path} is not a file")

    def _gate(self, record: Record) -> Record:
        """Measure what the limits ask for."""
        if self._limits.max_regression is None:
            return self._limited(record)
        if self._settings.update:
            return self._saved(self._limited(record))
        baseline = self._baseline(record)  # before minutes are spent on measuring
        return self._compared(self._limited(record), baseline)

    def _limited(self, record: Record) -> Record:
        """Hold the file against `max_ms`, if there is one: measure until its interval leaves the limit."""
        if self._limits.max_ms is None:
            return record
        import numpy as np

        from .pairs import block_interval

        begun = time.monotonic()
        first = self._measure(record, warmup=2, runs=5)
        runs = min(100, max(5, round(_BLOCK_MS / first.median)))
        latencies: list[Latency] = []
        for look in _LOOKS:
            # Each in a session of its own: where a session's memory lies moves its latency for as long as it lives.
            while len(latencies) < look:
                latencies.append(self._measure(record, warmup=max(2, runs // 5), runs=runs))
            samples = np.array([latency.samples for latency in latencies])
            low, high = block_interval(samples, _LEVEL, latencies[0].seed)
            if not low <= self._limits.max_ms < high or time.monotonic() - begun > _SECONDS:
                break
        record = replace(
            record, median_ms=float(np.median(samples)), interval_ms=(low, high), latencies=tuple(latencies)
        )
        return _judged(record, self._limits.max_ms)

    def _measure(self, record: Record, warmup: int = 20, runs: int = 80) -> "Latency":
        from . import latency

        limits = self._limits
        return latency.measure_latency(
            record.path,
            provider=limits.provider,
            batch=limits.batch,
            threads=limits.threads,
            shapes=limits.shapes,
            inputs=limits.values,
            warmup=warmup,
            runs=runs,
        )

    def _saved(self, record: Record) -> Record:
        """Make the file the baseline, unless it misses the other limit."""
        from .baseline import BaselineStore

        if not record.passed:
            return replace(record, message=f"{record.message}; it was not saved as a baseline")
        latency = self._measure(record)
        saved = BaselineStore(self._settings.folder).save(record.key, record.path, [latency])
        return replace(
            record,
            verdict="saved",
            note=f"saved in {self._settings.folder} as sha256 {saved.sha256[:12]}…",
            median_ms=latency.median if record.median_ms is None else record.median_ms,
            interval_ms=latency.interval if record.interval_ms is None else record.interval_ms,
            latencies=record.latencies or (latency,),
        )

    def _compared(self, record: Record, baseline: "Baseline") -> Record:
        """Measure the file and its baseline in turns; what the baseline's record says is only shown."""
        from . import gate

        limits = self._limits
        assert limits.max_regression is not None
        comparison = gate.compare_latency(
            baseline.model,
            record.path,
            max_regression=limits.max_regression,
            provider=limits.provider,
            batch=limits.batch,
            threads=limits.threads,
            shapes=limits.shapes,
            inputs=limits.values,
        )
        note = _foreign(baseline, comparison)
        messages = [record.message] * (not record.passed)
        if comparison.verdict not in _PASSING:
            messages.append(f"{record.path}: {comparison.sentence()}; {self._advice(comparison.verdict)}")
        verdicts = {record.verdict, comparison.verdict}
        alone = record.median_ms is not None
        return replace(
            record,
            verdict=next((bad for bad in _FAILING if bad in verdicts), comparison.verdict),
            message="\n".join([*messages, *[note] * bool(messages and note)]),
            note=note,
            median_ms=record.median_ms if alone else comparison.candidate.median_ms,
            interval_ms=record.interval_ms if alone else comparison.candidate.interval_ms,
            comparison=comparison,
        )

    def _advice(self, verdict: str) -> str:
        if verdict == "regression":
            return f"if it is meant to be slower, make it the baseline: {self._settings.command}"
        return "too near the limit, or too busy a machine, for a verdict: measure on a quieter machine"

    def _baseline(self, record: Record) -> "Baseline":
        """Load the baseline.

        Raises:
            BenchError: there is none, with the command that makes it and those that a renamed test left behind
        """
        from .baseline import BaselineStore, UnknownBaseline

        store = BaselineStore(self._settings.folder)
        try:
            return store.load(record.key)
        except UnknownBaseline:
            left = self._left_behind(store, record)
        message = f"{record.key} has no baseline in {self._settings.folder}; save one: {self._settings.command}"
        if left:
            message += f"; baselines there without a test, should it have been renamed: {', '.join(left)}"
            message += f" (then: compressor baseline rename OLD '{record.key}' --baselines {self._settings.folder})"
        raise BenchError(message)

    def _left_behind(self, store: "BaselineStore", record: Record) -> list[str]:
        """Baselines that may be this check's under an earlier name, those of the same content first."""
        from compressor.files import sha256_of

        sha256, checked = sha256_of(Path(record.path)), {one.key for one in self.records}
        found = []
        for key in set(store.names()) - checked:
            node = node_of(key)
            if "::" not in node:
                continue  # not saved by a test
            same, gone = _content(store, key) == sha256, not self._settings.exists(node)
            if (same and (gone or node == self._test)) or (gone and _file_of(node) == _file_of(self._test)):
                found.append((not same, f"{key} (the same file)" if same else key))
        return [text for _, text in sorted(found)]


def _judged(record: Record, max_ms: float) -> Record:
    """Judge a measured file by its interval: the whole of it within the limit, or the whole above."""
    assert record.median_ms is not None
    assert record.interval_ms is not None
    (low, high), latency = record.interval_ms, record.latencies[0]
    if high <= max_ms:
        return record
    found = (
        f"{record.path}: median {record.median_ms:.4g} ms ({100 * _LEVEL:g} % interval {low:.4g} to {high:.4g}) at "
        f"batch {latency.batch} ({latency.provider}, {_threads(latency.threads)})"
    )
    if low > max_ms:
        return replace(record, verdict="too slow", message=f"{found} is over max_ms={max_ms:g}")
    sessions, runs = len(record.latencies), sum(len(one.samples) for one in record.latencies)
    return replace(
        record,
        verdict="inconclusive",
        message=f"{found} is neither clearly within nor clearly over max_ms={max_ms:g} after {runs} runs in {sessions} "
        "sessions; measure on a quieter machine, or keep more distance to the limit",
    )


def node_of(key: str) -> str:
    """The node id in the name of a baseline: what stands before "#name"."""
    return re.sub(r"#[\w.-]+$", "", key)


def _content(store: "BaselineStore", key: str) -> str | None:
    try:
        return store.load(key).sha256
    except BenchError:
        return None  # damaged: the test that uses it reports that


def _file_of(node: str) -> str:
    return node.partition("::")[0]


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


def _foreign(baseline: "Baseline", comparison: "Comparison") -> str:
    """Tell that the numbers of a baseline are from another machine; "" where they are from this one."""
    differences = baseline.differs_from(comparison.machine)
    if not differences:
        return ""
    medians = [f"{one['median_ms']:.4g} ms" for one in baseline.latencies if one["batch"] == comparison.batch]
    stored = f"median there {medians[0]}, " if medians else ""
    return (
        f"baseline from another machine ({stored}saved {baseline.date}; {'; '.join(differences)}): "
        "its model was measured here, its numbers were not used"
    )
