"""Files that are whole or absent: everything the package writes goes through here."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from compressor.errors import CompressorError, RunError

_MOST_BYTES = 256 * 2**20  # of a JSON or text file
_MOST_DEPTH = 64


def replace_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, flush it to the disk, then rename it to `path`.

    A crash at any moment leaves the old file or the new one, never half of one.

    Raises:
        RunError: the file cannot be written there
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(beside)
            with beside.open("rb+") as handle:
                os.fsync(handle.fileno())
            beside.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def copy_atomic(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    replace_atomic(target, lambda beside: shutil.copyfile(source, beside))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` (text as UTF-8), whole or not at all."""
    raw = data.encode() if isinstance(data, str) else data
    replace_atomic(path, lambda beside: beside.write_bytes(raw))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON with sorted keys; a NaN is an error, not invalid JSON."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_known(path: Path) -> dict[str, Any]:
    """What a cache holds; {} where it is absent, damaged or not to be read."""
    try:
        known = read_json(path)
    except (OSError, CompressorError):
        return {}
    return known if isinstance(known, dict) else {}


def keep_known(path: Path, entries: Mapping[str, Any]) -> str | None:
    """Add entries to a cache, whose folder may be missing; another process may have written meanwhile.

    Returns:
        None; or why they could not be kept: what a cache lacks is found anew
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, read_known(path) | dict(entries))
    except (OSError, CompressorError) as error:
        return str(error)
    return None


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        RunError: it cannot be read, is not text, or is larger than any that the package writes
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # reading from a pipe would wait for good
            raise RunError(f"{path}: is not a file")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise RunError(f"{path}: has {size:,} bytes; files of a run have at most {_MOST_BYTES:,}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunError(f"{path}: file not found") from error
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not a text file in UTF-8: {error}") from error


class _Record(dict[str, Any]):
    """An object of a JSON file; a key that is asked for and not there is the file's fault."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise RunError(f"{self.path}: lacks the key {key!r}; the file was changed or comes from another version")


def read_json(path: Path) -> Any:
    """Read a JSON file; to ask its objects for a key that they lack is a RunError too.

    Raises:
        RunError: it cannot be read or is not JSON
    """
    try:
        return parse_json(read_text(path), object_hook=partial(_Record, path))
    except ValueError as error:
        raise RunError(f"{path}: not valid JSON: {error}") from error


def parse_json(text: str, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read JSON that may come from anywhere.

    Raises:
        ValueError: it is not JSON, nested more deeply than anything that the package writes, or has a number of
            thousands of digits
    """
    try:
        value = json.loads(text, object_hook=object_hook)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    level = [value]
    for _ in range(_MOST_DEPTH):
        inside = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = list(itertools.chain.from_iterable(inside))
        if not level:
            return value
    raise ValueError(f"nested more than {_MOST_DEPTH} deep")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(text: str, digits: int) -> str:
    """The first hexadecimal digits of a text's SHA-256, for names of files that stand for it."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def cache_folder() -> Path:
    """Where findings are kept between runs: $COMPRESSOR_CACHE, else `compressor` in the user's cache folder."""
    if own := os.environ.get("COMPRESSOR_CACHE"):
        return Path(own)
    from platformdirs import user_cache_path

    return user_cache_path("compressor", appauthor=False)
