"""Where the runs of a sweep run: processes on this machine, tasks of a Ray cluster, or jobs of Slurm.

All of them are `compressor.pipeline.scheduler.Executor`; none imports torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from compressor.errors import RunError, UnavailableError
from compressor.pipeline.scheduler import Lost

_PARENT_SECONDS = 1.0  # between two looks whether the parent lives
_SLURM_POLL = 0.2  # seconds between two looks; submitit asks Slurm's controller less often than that
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

    Attributes:
        slots: processes
        threads: of torch and of ONNX Runtime in each, where the call itself does not say
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
        process = context.Process(target=_serve, args=(other, self.threads, os.getpid()), daemon=True)
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
            if worker.pipe.poll():  # it may have answered, and ended since
                answer: tuple[str, Any] = worker.pipe.recv()
                return answer
        except (EOFError, OSError):
            pass
        return "lost", _how(worker.process)

    def result(self, handle: _Worker) -> Any:
        """See `Executor.result`."""
        assert handle.answer is not None
        kind, value = handle.answer
        if kind == "lost":
            self._workers.remove(handle)
            self._end(handle)
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
        for worker in self._workers:
            self._end(worker)
        self._workers.clear()

    def _end(self, worker: _Worker) -> None:
        worker.process.join(10)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.pipe.close()


def _how(process: Any) -> str:
    process.join(1)
    code = process.exitcode
    if code is None:
        return "it does not answer"
    return f"killed by signal {-code}" if code < 0 else f"it ended with status {code}"


def _serve(pipe: Any, threads: int, parent: int) -> None:
    """What a process of a `LocalPool` does: calls, until the pipe or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then ends this process
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is imported, which the first call does
        os.environ[name] = str(threads)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, arguments = pipe.recv()
            pipe.send(_outcome(function, arguments))


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "done", function(*arguments)
    except Exception as error:  # it is raised again where the call came from
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

    slots = _SLURM_SLOTS

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
        return job

    def ended(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """The jobs that are over."""
        until = time.monotonic() + seconds
        while not (found := [job for job in handles if job.done()]) and time.monotonic() < until:
            time.sleep(_SLURM_POLL)
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


def _number(value: str) -> int | str:
    return int(value) if value.isdigit() else value
