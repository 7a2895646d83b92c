"""One process at a time in a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compressor.errors import RunError
from compressor.pipeline.lock import alone_in

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")  # which have tests of their own

HOLD = (
    "import sys, pathlib\nfrom compressor.pipeline.lock import alone_in\n"
    "with alone_in(pathlib.Path(sys.argv[1])):\n    print('in', flush=True)\n    sys.stdin.read()\n"
)


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "in\n"
    return process


@pytest.mark.parametrize("end", ["leave", "kill"])
def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path, end):
    folder = tmp_path / "run"
    with holder(folder) as first:
        told = rf"{folder}: another process( \(pid {first.pid}\))? is working"
        with pytest.raises(RunError, match=told), alone_in(folder):
            pass
        if end == "kill":
            os.kill(first.pid, signal.SIGKILL)
        else:
            first.stdin.close()
        first.wait(30)
        first.stdout.close()
    with alone_in(folder):
        assert list(folder.iterdir()) == []  # nothing stays behind


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="mine"), alone_in(tmp_path / "run"):
        raise ValueError("mine")
    with alone_in(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_place_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot be written"), alone_in(tmp_path / "file" / "run"):
        pass
    with alone_in(Path(tmp_path / "file")):  # who claims it refuses it
        assert (tmp_path / "file").read_text() == "x"
