"""A model in a process of its own, `python -m compressor.bench.memory '{...}'`: the memory that it takes, and its end.

A process that has measured before holds memory that it would not need, and torch alone is hundreds of MiB. And a model
with a Loop may have no end, or fill the memory; only a process can be ended from outside while it runs.
"""

import ctypes
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import BenchError

if TYPE_CHECKING:
    from .turns import Conditions

__all__ = ["Memory", "check_ends", "measure_memory"]

_MODULE: Final = "compressor.bench.memory"
_RUNS: Final = 3
_KILLED: Final = 9  # signal.SIGKILL, which Windows lacks
_LOOP: Final = b"Loop"  # the operator, and perhaps other things of that name
_LOOP_SECONDS = 15.0  # that the first run of a model with a Loop may take
_LOOP_BYTES = 2 * 2**30  # that it may take beside four times its file; with weights elsewhere, half of what is free
_LOCATION: Final = b"location"  # the key of the name of a file of weights
_OPENED: Final = "opened"
_POLL_SECONDS: Final = 0.05
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG of Linux's prctl
_PROC: Final = Path("/proc")
_PEAK_RESET: Final = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Memory:
    """What opening and running a model takes beyond the process that does it; None where it is not known.

    Attributes:
        host_bytes: growth of the resident set from before the session is created to its highest after a few runs;
            weights, activations, inputs and the provider's libraries are in it
        device_bytes: growth of all GPUs' used memory as nvidia-smi reports it, at the end of the runs; what other
            processes take or free meanwhile is in it
        problem: why nothing was measured, a sentence
        killed: whether the system ended the process, as Linux does where memory runs out
        refused: exit code of the error that opening or running the model ended with, which `problem` says: it cannot
            be measured here at all
    """

    host_bytes: int | None
    device_bytes: int | None = None
    problem: str | None = None
    killed: bool = False
    refused: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the record as JSON types."""
        return asdict(self)


def measure_memory(
    path: str | os.PathLike[str], conditions: "Conditions", *, runs: int = _RUNS, timeout: float = 1800
) -> Memory:
    """Open and run a model in a fresh process, and measure how much memory that took there.

    Whatever goes wrong there (the system ends it for want of memory, say) is reported in `Memory.problem`.

    Args:
        path: the ONNX file
        conditions: how it is run
        runs: after the one that finds the outputs' shapes
        timeout: seconds until the process is given up
    """
    try:
        check_ends(path, conditions)
        done = _child(_command(path, conditions, runs), timeout)
    except BenchError as error:
        return Memory(None, problem=str(error), refused=error.exit_code)
    except (OSError, subprocess.SubprocessError) as error:
        cause = f"took more than {timeout:g} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
        return Memory(None, problem=f"the process that measures memory {cause}")
    try:
        return Memory(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        return Memory(None, problem=_reason(done), killed=done.returncode == -_KILLED)


def _plain(conditions: "Conditions") -> dict[str, Any]:
    fields = vars(conditions) | {"shapes": {name: list(sizes) for name, sizes in conditions.shapes.items()}}
    return dict(fields)


def _child(command: Sequence[str], timeout: float) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
    )


def check_ends(path: str | os.PathLike[str], conditions: "Conditions") -> None:
    """Run a model that has a Loop once, in a process that can be ended; whatever else is wrong the caller will see.

    What it takes is known, and so limited, on Linux only.

    Raises:
        BenchError: the run was not over in time, or took too much memory
    """
    if not _holds(path, _LOOP):
        return
    said = f"{os.fspath(path)}: a run of batch={conditions.batch}"
    advice = (
        "the model has a Loop, which may have no end; give a smaller batch, or values for inputs with which it ends"
    )
    most = _LOOP_BYTES + 4 * Path(path).stat().st_size
    if _holds(path, _LOCATION):
        from .inputs import available_bytes  # numpy

        most = max(most, (available_bytes() or 0) // 2)
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(
        _command(path, conditions, None), stdin=nowhere, stdout=subprocess.PIPE, stderr=nowhere, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()  # to open a model may take minutes, but it has an end
        begun = time.monotonic()
        while process.poll() is None:
            if time.monotonic() - begun > _LOOP_SECONDS:
                raise BenchError(f"{said} was not over after {_LOOP_SECONDS:g} s, and {advice}")
            if (_status("RssAnon", process.pid) or 0) > most:
                raise BenchError(f"{said} took more than {most / 2**30:.1f} GiB of memory, and {advice}")
            time.sleep(_POLL_SECONDS)
    finally:
        process.kill()
        process.communicate()


def _holds(path: str | os.PathLike[str], name: bytes) -> bool:
    """Whether a name occurs in a file."""
    file = Path(path)
    if not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(name) >= 0


def _command(path: str | os.PathLike[str], conditions: "Conditions", runs: int | None) -> list[str]:
    """To measure memory over some runs; or, with None, to run once and no more."""
    asked = {"path": os.fspath(path), "conditions": _plain(conditions), "runs": runs, "parent": os.getpid()}
    # -P: a folder named compressor where the user stands is not this package.
    return [sys.executable, "-P", "-m", _MODULE, json.dumps(asked)]


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """Make a sentence of a process that ended without an answer."""
    if done.returncode < 0:
        cause = ": memory ran out, most likely" if done.returncode == -_KILLED else ""
        return f"the process that measures memory was ended by signal {-done.returncode}{cause}"
    last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
    return f"the process that measures memory ended with exit code {done.returncode}: {last}"


def _main(argument: str) -> None:
    """Measure in this process, and write the record to stdout."""
    asked = json.loads(argument)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if asked.get("parent") not in (None, os.getppid()):
            return  # it has gone already
    if asked["runs"] is None:
        _run_once(asked["path"], asked["conditions"])
        return
    try:
        record = _measure(asked["path"], asked["conditions"], asked["runs"])
    except BenchError as error:
        record = Memory(None, problem=str(error), refused=error.exit_code)
    except MemoryError as error:
        record = Memory(None, problem=f"out of memory: {error}")
    print(json.dumps(record.to_json()))


def _run_once(path: str, conditions: Mapping[str, Any]) -> None:
    from .turns import Conditions, run_once

    run_once(path, Conditions(**conditions), opened=lambda: print(_OPENED, flush=True))


def _measure(path: str, conditions: Mapping[str, Any], runs: int) -> Memory:
    from .turns import Conditions, open_entrant  # before the first look: what the libraries take is not the model's

    given = Conditions(**conditions)
    device_before = None if given.provider == "cpu" else _device_bytes()
    _forget_peak()
    before = _resident_bytes()
    entrant = open_entrant(path, given)
    for _ in range(runs):
        entrant.run()
    peak = _peak_bytes()
    device_after = None if entrant.opened.provider == "cpu" else _device_bytes()
    host = None if before is None or peak is None else max(0, peak - before)
    device = None if device_before is None or device_after is None else max(0, device_after - device_before)
    return Memory(host, device)


def _forget_peak() -> None:
    """Let the peak begin here, where Linux allows it; elsewhere imports may hide some of the growth."""
    try:
        _PEAK_RESET.write_text("5")
    except OSError:
        return


def _resident_bytes() -> int | None:
    """Resident set now; the highest so far where only that is known (macOS)."""
    return _status("VmRSS") or _highest()


def _peak_bytes() -> int | None:
    return _status("VmHWM") or _highest()


def _status(field: str, process: int | str = "self") -> int | None:
    try:
        lines = (_PROC / str(process) / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 2**10 for line in lines if line.startswith(f"{field}:")), None)


def _highest() -> int | None:
    if sys.platform == "win32":
        return None
    import resource  # Unix only

    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device_bytes() -> int | None:
    """Memory used on all GPUs as nvidia-smi reports it; None without it."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(int(mebibytes) for mebibytes in printed) * 2**20 if printed and all(map(str.isdigit, printed)) else None


if __name__ == "__main__":
    _main(sys.argv[1])
