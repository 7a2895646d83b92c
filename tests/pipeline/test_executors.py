"""Calls give the same wherever they run, a killed worker is told from a call that fails, nothing stays behind."""

import gc
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import calls
import pytest

from compressor.errors import RunError, UnavailableError
from compressor.pipeline.executors import LocalPool, RayTasks, SlurmJobs
from compressor.pipeline.scheduler import Task, run_tasks


def local(folder):
    return LocalPool(2, 1)


def slurm(folder):
    pytest.importorskip("submitit", reason="submitit is not installed")
    return SlurmJobs(folder, {"cluster": "local", "timeout_min": "5"}, cpus=1, gpus=0)


def ray(folder):
    pytest.importorskip("ray", reason="Ray is not installed")
    return RayTasks("local", cpus=1, gpus=0)


@pytest.fixture(autouse=True)
def _support_can_be_imported_in_other_processes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(calls.__file__).parent), prepend=os.pathsep)


@pytest.fixture(autouse=True)
def _processes_left_unwaited():
    """Submitit never waits for the processes that it starts on this machine; Python warns when it forgets them."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


EVERYWHERE = pytest.mark.parametrize("executor", [local, slurm, ray], ids=["local", "slurm", "ray"])


def tasks(*arguments):
    return [Task(str(place), own) for place, own in enumerate(arguments)]


@EVERYWHERE
def test_calls_return_what_they_return_here(executor, tmp_path):
    found = run_tasks(calls.double, tasks((1,), (2,), (3,)), executor(tmp_path))
    assert found == {"0": 2, "1": 4, "2": 6}


@EVERYWHERE
def test_errors_are_those_of_the_call(executor, tmp_path):
    with pytest.raises(ValueError, match="no 7"):
        run_tasks(calls.refuse, tasks((7,)), executor(tmp_path))


@EVERYWHERE
def test_a_killed_worker_is_replaced(executor, tmp_path):
    marker = str(tmp_path / "marker")
    found = run_tasks(calls.die_at_first, tasks((marker, 1), (marker, 2)), executor(tmp_path / "own"))
    assert found == {"0": 2, "1": 4}


def test_a_call_that_kills_every_worker_is_named(tmp_path):
    with pytest.raises(RunError, match=r"0: its worker ended 3 times \(killed by signal 9\)"):
        run_tasks(calls.die, tasks((1,)), local(tmp_path))


def test_an_error_that_cannot_be_sent_is_told(tmp_path):
    with pytest.raises(RunError, match="OddError: 5 and 5"):
        run_tasks(calls.odd, tasks((5,)), local(tmp_path))


def test_an_error_that_cannot_be_read_here_is_told(tmp_path):
    with pytest.raises(RunError, match="ElsewhereError: no 5"):
        run_tasks(calls.raise_elsewhere, tasks((5,)), local(tmp_path))


def test_an_error_says_where_it_came_from(tmp_path):
    with pytest.raises(ValueError, match="no 7") as caught:
        run_tasks(calls.refuse, [Task("uniform 0.5x", (7,))], local(tmp_path))
    notes = "".join(caught.value.__notes__)
    assert "calls.py" in notes
    assert "In uniform 0.5x." in notes


def test_calls_may_have_processes_of_their_own(tmp_path):
    assert run_tasks(calls.in_a_child, tasks((4,)), local(tmp_path)) == {"0": 8}


def test_what_a_killed_worker_started_ends_with_it(tmp_path):
    marker = tmp_path / "marker"
    with pytest.raises(RunError, match="its worker ended"):
        run_tasks(calls.leave_a_child, tasks((str(marker),)), local(tmp_path))
    until = time.monotonic() + 5
    while alive(int(marker.read_text())) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(int(marker.read_text()))


def test_jobs_of_a_command_that_was_killed_are_ended(tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed")
    marker, jobs = tmp_path / "marker", tmp_path / "jobs"
    script = (
        "import calls, pathlib, sys, time\n"
        "from compressor.pipeline.executors import SlurmJobs\n"
        "settings = {'cluster': 'local', 'timeout_min': '5'}\n"
        "SlurmJobs(pathlib.Path(sys.argv[1]), settings, cpus=1, gpus=0).submit(calls.wait_for_ever, (sys.argv[2],))\n"
        "time.sleep(600)\n"
    )
    command = subprocess.Popen([sys.executable, "-c", script, str(jobs), str(marker)], start_new_session=True)
    await_(lambda: marker.exists() and marker.read_text())
    command.kill()
    command.wait()
    assert alive(int(marker.read_text()))
    slurm(jobs)  # the same command again
    await_(lambda: not alive(int(marker.read_text())))
    assert not alive(int(marker.read_text()))


def await_(true, seconds=30):
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.05)


def test_each_process_has_its_share_of_the_cores(tmp_path):
    found = run_tasks(calls.threads, tasks(("OMP_NUM_THREADS",)), LocalPool(2, 3))
    assert found == {"0": "3"}


def test_no_process_outlives_an_error(tmp_path):
    marker = tmp_path / "marker"

    def fail(states):
        if marker.exists() and marker.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks(calls.wait_for_ever, tasks((str(marker),)), local(tmp_path), fail)
    assert not alive(int(marker.read_text()))


def test_no_process_outlives_its_parent(tmp_path, monkeypatch):
    from compressor.pipeline import executors

    ended = threading.Event()
    monkeypatch.setattr(executors, "_PARENT_SECONDS", 0.01)
    monkeypatch.setattr(executors.os, "_exit", lambda status: ended.set())
    monkeypatch.setattr(executors.os, "killpg", lambda group, signal: None)
    watcher = threading.Thread(target=executors._die_with, args=(os.getppid(),), daemon=True)
    watcher.start()
    time.sleep(0.1)
    assert not ended.is_set()  # the parent lives
    executors._die_with(-1)
    assert ended.is_set()


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_settings_that_slurm_does_not_know_are_one_sentence(tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed")
    with pytest.raises(RunError, match=r"--slurm: .*partitions"):
        SlurmJobs(tmp_path, {"cluster": "local", "partitions": "gpu"}, cpus=1, gpus=0)
    with pytest.raises(UnavailableError, match="cluster 'slurms' does not work here"):
        SlurmJobs(tmp_path, {"cluster": "slurms"}, cpus=1, gpus=0)
