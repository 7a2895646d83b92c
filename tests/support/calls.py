"""What tests have workers do; importable without torch."""

import os
import signal
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
