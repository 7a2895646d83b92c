"""What tests have workers do; importable without torch."""

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path


class OddError(Exception):
    """An error that cannot be made again from what it prints."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def double(number):
    return 2 * number


def refuse(number):
    raise ValueError(f"no {number}")


def odd(number):
    raise OddError(number, number)


def threads(name):
    return os.environ[name]


def die_at_first(marker, number):
    """Be killed the first time, as by a kernel that is out of memory."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return double(number)


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(marker):
    Path(marker).write_text(str(os.getpid()))
    time.sleep(600)


def in_a_child(number):
    """Start a process of one's own, as loaders of data do."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(double, (number,))


def leave_a_child(marker):
    """Start a process that stays, and be killed."""
    child = subprocess.Popen(["sleep", "600"])
    Path(marker).write_text(str(child.pid))
    os.kill(os.getpid(), signal.SIGKILL)


class ElsewhereError(Exception):
    """An error that can be read where it was raised alone."""

    def __reduce__(self):
        return known_to, (os.getpid(),)


def known_to(process):
    if os.getpid() != process:
        raise ModuleNotFoundError("no such module here")
    return ElsewhereError()


def raise_elsewhere(number):
    raise ElsewhereError(f"no {number}")
