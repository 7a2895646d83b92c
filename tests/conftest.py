"""Fixtures that several test files share."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compressor.data import DataSet, load_data

SUPPORT = Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))
from quick import blocks, exporting_by_tracing, exporting_for_real, leaving_out_figures  # noqa: E402


def pytest_collection_finish():
    """Keep the collector from walking over torch's own objects, of which there are millions, again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


pytest_plugins = "pytester"  # for tests of our own plugin; pytest takes it from the root conftest only


@pytest.fixture(autouse=True)
def _one_thread():
    """Results must not depend on how many cores happen to be free."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_our_own(tmp_path_factory):
    """What tests measure must not reach the user's cache, nor what is in there the tests.

    Widths are aligned to what the machine computes at once; here it is 8 channels on every machine.
    """
    cache = tmp_path_factory.mktemp("cache")
    (cache / "latency").mkdir()
    (cache / "latency" / "blocks.json").write_text(json.dumps(blocks(8)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSOR_CACHE", str(cache))
        yield


@pytest.fixture(scope="session")
def digits() -> Callable[..., DataSet]:
    """Make a small data set of real images: scikit-learn's digits at 8×8 or larger."""

    def make(limit: int = 256, image_size: int = 8, seed: int = 0) -> DataSet:
        config = SimpleNamespace(
            name="digits",
            path=None,
            download=False,
            image_size=image_size,
            channels=None,
            validation=0.125,
            limit=limit,
            memory_gib=1.0,
        )
        return load_data(config, seed=seed)

    return make


@pytest.fixture(scope="module")
def quick_export():
    """Export by tracing, in a second instead of ten: for modules whose tests are not about the export."""
    with pytest.MonkeyPatch.context() as patch:
        exporting_by_tracing(patch.setattr)
        yield


@pytest.fixture(scope="module")
def no_figures():
    """Fill the figures of reports, but do not draw them: for modules whose tests are not about the pages."""
    with pytest.MonkeyPatch.context() as patch:
        leaving_out_figures(patch.setattr)
        yield


@pytest.fixture
def traced_export(monkeypatch):
    """`quick_export` of one test."""
    exporting_by_tracing(monkeypatch.setattr)


@pytest.fixture(scope="session")
def real_export():
    """A context in which files are made by the exporter that ships them, in a module that takes the quick one."""

    @contextmanager
    def real():
        with pytest.MonkeyPatch.context() as patch:
            exporting_for_real(patch.setattr)
            yield

    return real


class CommandLine:
    """One call of the command line in a process of its own."""

    def __init__(self, ask, arguments, log, folder=None, environment=None):
        self._ask, self.returncode = ask, None
        job = {"run": [str(argument) for argument in arguments], "log": str(log)}
        folder = None if folder is None else str(folder)
        self.pid = ask(job | {"folder": folder, "environment": environment or {}})["pid"]

    def poll(self):
        """Its exit code, negative if a signal ended it, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._ask({"poll": self.pid})["exit"]
        return self.returncode

    def wait(self, seconds=300):
        """Wait for its end; the exit code."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"still running after {seconds} s")
            time.sleep(0.01)
        return self.returncode

    def kill(self):
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()


@pytest.fixture(scope="session")
def start_command():
    """Call `compressor` as `quick_export` and `no_figures` make it, in a process of its own.

    Takes arguments and log file; folder, environment.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SUPPORT / "zygote.py")]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as zygote:

        def ask(question):
            zygote.stdin.write(json.dumps(question) + "\n")
            zygote.stdin.flush()
            return json.loads(zygote.stdout.readline())

        yield partial(CommandLine, ask)
        zygote.stdin.close()
