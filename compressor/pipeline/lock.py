"""One process at a time in a folder: the folder itself is locked, so that nothing is left behind, not even by a kill.

Where the system has no such locks (Windows, some network file systems) folders are not guarded.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a folder to this process while the context lasts; the folder is made if it is absent.

    Raises:
        RunError: another process works in it, or it cannot be made
    """
    if fcntl is None or (folder.exists() and not folder.is_dir()):  # whoever wants a folder there will say so
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                raise RunError(
                    f"{folder}: another process{_holder(handle)} is working in this folder; wait for it, or name "
                    "another folder"
                ) from error
        yield
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    """Such as " (pid 1234)", where the system knows."""
    inode = os.fstat(handle).st_ino
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split()
        if "FLOCK" in fields and fields[-3].split(":")[-1] == str(inode):
            return f" (pid {fields[-4]})"
    return ""
