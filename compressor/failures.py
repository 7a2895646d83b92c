"""How a command ends when something fails: a line on stderr for each problem, and an exit code. Imports no torch."""

from __future__ import annotations

import functools
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from compressor.errors import CompressorError, on_one_line

_INTERRUPTED = "interrupted; a run goes on with the same command and --resume"
_interrupts: list[int] = []  # the signals that interrupted the command


def reported(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the package's own errors into one line on stderr and their exit code."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with _noting_interrupts():
            return checked(*args, **kwargs)

    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise Failure(_INTERRUPTED, 130) from error
        except CompressorError as error:
            if _interrupts:
                raise Failure(_INTERRUPTED, 130) from error
            raise Failure(str(error), error.exit_code) from error
        except (BrokenPipeError, click.exceptions.Exit):
            raise  # the reader of a pipe has gone, and click ends quietly; or a command has ended as it should
        except SystemExit as error:  # no code of ours raises it within a command
            raise Failure(f"code of others that was called ends the process: {error.code}", 2) from error
        except OSError as error:
            raise Failure(f"{error.filename or 'input or output'}: {error.strerror or error}", 2) from error
        except Exception as error:
            if _interrupts and not isinstance(error, click.ClickException):
                raise Failure(_INTERRUPTED, 130) from error
            if _out_of_memory(error):
                raise Failure(f"out of memory: {str(error).splitlines()[0]}", 3) from error
            # bench imports nothing of compressor, so its errors are known by their exit code.
            code = getattr(error, "exit_code", None)
            if isinstance(code, int) and not isinstance(error, click.ClickException):
                raise Failure(str(error), code) from error
            if isinstance(error, click.ClickException | click.Abort):
                raise
            traceback.print_exc()
            raise Failure(f"a bug in compressor, please report it with the lines above: {error!r}", 70) from error

    return wrapper


def interrupted() -> bool:
    """Whether a signal interrupted the command, which code of others may have taken for a failure of its own."""
    return bool(_interrupts)


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Raise KeyboardInterrupt, and note it: others' code may take it for a failure of its own, a missing part, say."""
    _interrupts.append(number)
    raise KeyboardInterrupt


@contextmanager
def _noting_interrupts() -> Iterator[None]:
    _interrupts.clear()
    noted = threading.current_thread() is threading.main_thread()
    noted = noted and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if noted:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if noted:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _out_of_memory(error: Exception) -> bool:
    # torch has a class of its own for a GPU's lack of memory, but for the CPU's only the text of a RuntimeError.
    return isinstance(error, MemoryError) or any(
        sign in str(error) for sign in ("out of memory", "can't allocate memory")
    )


class Failure(click.ClickException):
    """Ends a command with a line on stderr for each line of the message, and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        vars(self)["exit_code"] = code  # click reads it from the instance, but declares it for the class

    def show(self, file: Any = None) -> None:
        """Write the message to stderr."""
        for problem in self.message.splitlines():
            click.echo(f"error: {on_one_line(problem)}", err=True)
