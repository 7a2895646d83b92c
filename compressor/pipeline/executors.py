"""Where the runs of a sweep run: processes on this machine, tasks of a Ray cluster, or jobs of Slurm.

All of them are `compressor.pipeline.scheduler.Executor`; none imports torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from compressor.bench.machine import usable_cores
from compressor.errors import RunError, UnavailableError
from compressor.files import keep_known, read_known
from compressor.pipeline.scheduler import Lost

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_LAST_SECONDS = 10.0  # that processes have to end
_PARENT_SECONDS = 1.0  # between two looks whether the parent lives
_SLURM_POLL = 0.2  # seconds between two looks; submitit asks Slurm's controller less often than that
_SLURM_POLL_EACH = 0.01  # … and for each job: every look touches files of the shared file system
_SLURM_SLOTS = 1000  # jobs in the queue


# processes of this machine --------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: Any
    idle: bool = True
    answer: tuple[str, Any] | None = None


@dataclass
class LocalPool:
    """Processes on this machine, each with its share of the cores; they are kept from call to call.

    A process may have children of its own, such as loaders of data: it leads a group that ends with it.

    Attributes:
        slots: processes
        threads: OMP_NUM_THREADS of each, which torch goes by where the call itself does not say
    """

    slots: int
    threads: int
    _workers: list[_Worker] = field(default_factory=list)

    def submit(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> _Worker:
        """Give a call to an idle process, or to a new one."""
        worker = next((one for one in self._workers if one.idle and one.process.is_alive()), None) or self._started()
        worker.idle, worker.answer = False, None
        try:
            worker.pipe.send((function, arguments))
        except (BrokenPipeError, ConnectionResetError):  # it is found out when the call is waited for
            worker.answer = ("lost", _how(worker.process))
        return worker

    def _started(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        own, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, os.getpid()))
        # Threads are read when torch is imported, which the main module of the child may do; Ctrl-C is for the parent.
        with _environment({name: str(self.threads) for name in _THREADS}), _without_interrupts():
            process.start()
        other.close()
        worker = _Worker(process, own)
        self._workers.append(worker)
        return worker

    def ended(self, handles: Sequence[_Worker], seconds: float) -> list[_Worker]:
        """The processes that have answered, or are gone."""
        known = [worker for worker in handles if worker.answer is not None]
        if known:
            return known
        places = {worker.pipe: worker for worker in handles}
        places |= {worker.process.sentinel: worker for worker in handles}
        found = dict.fromkeys(places[place] for place in connection.wait(list(places), seconds))
        for worker in found:
            worker.answer = self._answer(worker)
        return list(found)

    def _answer(self, worker: _Worker) -> tuple[str, Any]:
        try:
            if not worker.pipe.poll():  # it may have answered, and ended since
                return "lost", _how(worker.process)
            kind, packed, text = worker.pipe.recv()
        except (EOFError, OSError):
            return "lost", _how(worker.process)
        try:
            return kind, pickle.loads(packed)
        except Exception:  # of a class that is not known here
            return "raised", RunError(text)

    def result(self, handle: _Worker) -> Any:
        """See `Executor.result`."""
        assert handle.answer is not None
        kind, value = handle.answer
        if kind == "lost":
            self._workers.remove(handle)
            self._end([handle])
            raise Lost(value)
        handle.idle = True
        if kind == "raised":
            raise value
        return value

    def stop(self) -> None:
        """End all processes; idle ones end by themselves, once nothing can be asked of them."""
        for worker in self._workers:
            if worker.idle:
                worker.pipe.close()
            else:
                worker.process.terminate()
        self._end(self._workers)
        self._workers.clear()

    def _end(self, workers: Sequence[_Worker]) -> None:
        until = time.monotonic() + _LAST_SECONDS
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
                os.killpg(worker.process.pid, signal.SIGKILL)  # what is left of its group
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back; a process that is started meanwhile never gets it, until it says otherwise."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(process: Any) -> str:
    process.join(1)
    code = process.exitcode
    if code is None:
        return "it does not answer"
    return f"killed by signal {-code}" if code < 0 else f"it ended with status {code}"


def _serve(pipe: Any, parent: int) -> None:
    """What a process of a `LocalPool` does: calls, until the pipe or the parent is gone."""
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, arguments = pipe.recv()
            kind, value = _outcome(function, arguments)
            pipe.send((kind, pickle.dumps(value), f"{type(value).__name__}: {value}" if kind == "raised" else ""))


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "done", function(*arguments)
    except Exception as error:  # it is raised again where the call came from
        error.add_note(f"In the worker:\n{traceback.format_exc()}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return "raised", RunError(f"{type(error).__name__}: {error}")
        return "raised", error


# Ray ------------------------------------------------------------------------------------------------------------------


class RayTasks:
    """Tasks of a Ray cluster.

    Args:
        address: HOST:PORT, "auto" for a cluster that runs here, "local" to start one on this machine
        cpus: of each task
        gpus: of each task

    Raises:
        UnavailableError: Ray is not installed, or no cluster answers
    """

    def __init__(self, address: str, *, cpus: int, gpus: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise UnavailableError(
                "--ray needs Ray, which is not installed: pip install 'onnx-compressor[ray]'"
            ) from error
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                **({"include_dashboard": False} if address == "local" else {}),
            )
        except Exception as error:  # of the network, of Ray, of its C++ core
            reason = " ".join(str(error).split())[:200]
            raise UnavailableError(
                f"--ray: {address!r} does not answer ({reason}); valid: HOST:PORT, auto, local"
            ) from error
        self._ray, self._options = ray, {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        self.slots = max(1, int(ray.cluster_resources().get("CPU", 1)) // max(1, cpus))
        nodes = [node.get("Resources", {}) for node in ray.nodes() if node.get("Alive")]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            ray.shutdown()
            raise UnavailableError(
                f"--ray: no machine of {address!r} has {cpus} CPUs and {gpus} GPUs, which a run asks for; valid: fewer "
                "threads, another device, or another cluster"
            )

    def submit(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Begin a task."""
        return self._ray.remote(function).options(**self._options).remote(*arguments)

    def ended(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """The tasks that are over."""
        done, _ = self._ray.wait(list(handles), num_returns=1, timeout=seconds)
        return list(done)

    def result(self, handle: Any) -> Any:
        """See `Executor.result`."""
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(handle)
        except exceptions.RayTaskError as error:
            raise (error.cause or error) from None
        except (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError) as error:
            raise Lost(" ".join(str(error).split())[:200]) from error

    def stop(self) -> None:
        """Leave the cluster, which ends the tasks that still run."""
        self._ray.shutdown()


# Slurm ----------------------------------------------------------------------------------------------------------------


class SlurmJobs:
    """Jobs of Slurm, each a call, by submitit; its folder must lie on a file system that all machines share.

    Args:
        folder: for what submitit writes: calls, logs and results
        settings: of `submitit.AutoExecutor.update_parameters`, such as {"slurm_partition": "gpu"}; "cluster": "local"
            runs them as processes of this machine
        cpus: of each job
        gpus: of each job

    Raises:
        UnavailableError: submitit is not installed, or there is no Slurm here
        RunError: no such settings
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], *, cpus: int, gpus: int) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UnavailableError(
                "--slurm needs submitit, which is not installed: pip install 'onnx-compressor[slurm]'"
            ) from error
        given: dict[str, Any] = {key: _number(value) for key, value in settings.items()}
        cluster = given.pop("cluster", "slurm")
        self._submitit, self._running = submitit, list[Any]()
        self._here = cluster != "slurm"
        self.slots = max(1, usable_cores() // max(1, cpus)) if self._here else _SLURM_SLOTS
        self._jobs = folder / "jobs.json"
        self._cancel_earlier()
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=str(cluster))
        except (RuntimeError, ValueError) as error:
            raise UnavailableError(
                f"--slurm: cluster {cluster!r} does not work here ({error}); valid: slurm where there is one, local"
            ) from error
        own = {"cpus_per_task": cpus, "gpus_per_node": gpus, "name": "compressor"}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # it says in one that a name is not right
                self._executor.update_parameters(**{key: value for key, value in own.items() if value} | given)
        except (NameError, TypeError, ValueError, AssertionError, Warning) as error:
            raise RunError(f"--slurm: {' '.join(str(error).split())[:300]}") from error

    def submit(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Put a job into the queue."""
        try:
            job = self._executor.submit(_outcome, function, arguments)
        except self._submitit.core.utils.FailedSubmissionError as error:
            raise UnavailableError(f"--slurm: the job was not taken: {' '.join(str(error).split())[:300]}") from error
        self._running.append(job)
        keep_known(self._jobs, {str(job.job_id): self._here})
        return job

    def _cancel_earlier(self) -> None:
        """End jobs of an earlier command that was killed: they work in the same run folders."""
        earlier = read_known(self._jobs)
        self._jobs.unlink(missing_ok=True)
        for job, here in earlier.items():
            if not here:
                with contextlib.suppress(OSError):  # there is no Slurm any more
                    subprocess.run(["scancel", job], check=False, capture_output=True)
            elif self._is_ours(job):
                for process in _with_descendants(int(job)):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(process, signal.SIGKILL)

    def _is_ours(self, job: str) -> bool:
        """Whether a process of this machine still is the job that it was."""
        try:
            command = Path(f"/proc/{int(job)}/cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            return False
        return "submitit" in command and str(self._jobs.parent) in command

    def ended(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """The jobs that are over."""
        until = time.monotonic() + seconds
        while not (found := [job for job in handles if job.done()]) and time.monotonic() < until:
            time.sleep(max(_SLURM_POLL, _SLURM_POLL_EACH * len(handles)))
        return found

    def result(self, handle: Any) -> Any:
        """See `Executor.result`."""
        self._running.remove(handle)
        error = handle.exception()
        if isinstance(error, self._submitit.core.utils.FailedJobError):  # not of the call, which `_outcome` catches
            raise RunError(f"--slurm: {' '.join(str(error).split())[-500:]}")
        if error is not None:
            raise Lost(" ".join(str(error).split())[:200])
        kind, value = handle.result()
        if kind == "raised":
            raise value
        return value

    def stop(self) -> None:
        """Cancel the jobs that are not over."""
        for job in self._running:
            job.cancel(check=False)
        self._running.clear()


def _with_descendants(process: int) -> list[int]:
    """A process and all that it has started, and they, by /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [process]
    for one in found:
        found += children.get(one, [])
    return found


def _number(value: str) -> int | str:
    return int(value) if value.isdigit() else value
