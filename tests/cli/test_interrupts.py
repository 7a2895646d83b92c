"""Signals while a command works."""

import contextlib
import os
import signal

import pytest

from compressor.cli.interrupts import Interrupts

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows ends a process that is sent a signal")


def swallowing():
    """Code of others that takes an interrupt for a failure of its own, and fails later."""
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    raise AttributeError("module 'torch._dynamo' has no attribute 'exc'")


def test_a_failure_of_code_that_swallowed_the_interrupt_is_an_interrupt():
    with pytest.raises(KeyboardInterrupt) as raised, Interrupts():
        swallowing()
    assert isinstance(raised.value.__cause__, AttributeError)


def test_a_failure_without_a_signal_is_what_it_is():
    with pytest.raises(AttributeError), Interrupts():
        raise AttributeError("so")


def test_while_somebody_asks_the_first_signal_is_a_wish():
    with Interrupts() as interrupts:
        assert not interrupts()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
