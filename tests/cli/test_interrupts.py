"""Signals while a command works."""

import contextlib
import os
import signal
import sys
from types import SimpleNamespace

import click
import pytest

from compressor.cli import working
from compressor.cli.interrupts import Interrupts, silence_all_but_first
from compressor.errors import ExportError, RunError
from compressor.failures import Failure, reported

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows ends a process that is sent a signal")


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """A process in the background of a shell ignores SIGINT, one under nohup SIGHUP, and so do their children."""
    before = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in before.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def swallowing():
    """Code of others that takes an interrupt for a failure of its own, and fails later."""
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    raise ImportError("initialization failed")


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("kind", [ImportError, ExportError])
def test_a_failure_of_code_that_swallowed_the_interrupt_is_an_interrupt(listening, kind):
    @reported
    def command():
        with Interrupts() if listening else contextlib.nullcontext():
            try:
                swallowing()
            except ImportError as error:
                raise kind("torch.onnx cannot export: initialization failed") from error

    with pytest.raises(Failure, match=r"^interrupted; ") as raised:
        command()
    assert raised.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_failure_without_a_signal_is_what_it_is():
    @reported
    def command():
        with Interrupts():
            raise ExportError("so")

    with pytest.raises(Failure, match=r"^so$") as raised:
        command()
    assert raised.value.exit_code == 2


class Ended:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_goes_no_further_is_a_wish(capsys):
    before = sys.unraisablehook
    with Interrupts() as interrupts:
        Ended()  # what a destructor raises Python only shows
        assert interrupts.pressed
    assert sys.unraisablehook is before
    assert "Traceback" not in capsys.readouterr().err


def test_while_somebody_asks_the_first_signal_is_a_wish():
    with Interrupts() as interrupts:
        assert not interrupts()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupt_that_was_caught_is_still_a_wish():
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts()


@pytest.mark.parametrize("variables", [{"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "first"}])
def test_what_torchrun_would_not_give_is_refused(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        RunError, match=r"^the environment variable (WORLD_SIZE|RANK) is '(two|first)'; valid: a number"
    ):
        silence_all_but_first()


def test_an_empty_variable_says_nothing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "")
    assert silence_all_but_first() == 1


def test_a_signal_is_heard_though_the_terminal_has_gone(monkeypatch):
    class Gone:
        def write(self, text):
            raise OSError(5, "Input/output error")

        flush = write

    interrupts = Interrupts()
    with interrupts:
        interrupts()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Gone())
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts()
        os.kill(os.getpid(), signal.SIGHUP)  # from the shell, which goes as well
        assert interrupts()


def test_tables_are_written_of_a_run_that_missed_its_budget(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(working, "tables_of", written.append)
    monkeypatch.setattr("compressor.report.summary_lines", lambda report: [])
    recipe = SimpleNamespace(device="cpu")
    with pytest.raises(click.exceptions.Exit), click.Context(click.Command("report")):
        working.carry_out(recipe, tmp_path, "report", lambda *_: {"budget": {"met": False}}, False, True)
    assert written == [tmp_path / "report.html"]
