"""Baselines: a folder that keeps models by their content, each under names, with the numbers of the day.

    .onnx-baselines/
      models/<sha256>.onnx                 the model itself, kept once however many names it has
      tests-test_x.py-test_y-a-1-<hash>.json    one baseline: name, sha256, date, machine, latencies

The *model* is what a gate needs: it is measured anew beside the candidate. The numbers are there to be shown.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from compressor.errors import CompressorError
from compressor.files import read_json, replace_atomic, sha256_of

from .errors import BenchError
from .latency import Latency
from .machine import machine_fingerprint
from .session import open_session

__all__ = ["FOLDER", "Baseline", "BaselineStore", "UnknownBaseline"]

FOLDER: Final = ".onnx-baselines"
_FORMAT: Final = 1
_SAMPLES: Final = ("samples_ms", "cpu_samples_ms")
_KEYS: Final = {"name": str, "sha256": str, "source": str, "date": str, "machine": dict, "latencies": list}
_SLUG: Final = 60  # characters of a name that its file name repeats
# What moves a latency, in the words of `machine_fingerprint`.
_SHOWN: Final = ("cpu", "isa", "usable_cores", "physical_cores", "logical_cores", "gpu", "gpu_driver", "onnxruntime")


class UnknownBaseline(BenchError):  # noqa: N818 (it is what its name says, and BenchError's child)
    """The store has no baseline of this name."""


@dataclass(frozen=True)
class Baseline:
    """A model to compare with, and what is known about it.

    Attributes:
        name: as given, however its file is called
        model: the ONNX file in the store
        sha256: of that file, which holds its weights, whatever the saved one did
        source: path of the file that was saved, as given
        date: when it was saved, UTC, ISO 8601
        machine: fingerprint of the machine that the latencies are from
        latencies: one record for each batch, as `Latency.to_json` gives them but without the samples
    """

    name: str
    model: Path
    sha256: str
    source: str
    date: str
    machine: Mapping[str, str | int]
    latencies: tuple[Mapping[str, Any], ...]

    def differs_from(self, here: Mapping[str, str | int]) -> list[str]:
        """Tell in what the baseline's machine differs from `here`; empty where their latencies may be compared."""
        if self.machine.get("id") == here.get("id"):
            return []
        keys = [key for key in _SHOWN if self.machine.get(key) != here.get(key)]
        return [f"{key}: {self.machine.get(key, 'unknown')}, here {here.get(key, 'unknown')}" for key in keys] or [
            f"id: {self.machine.get('id', 'unknown')}, here {here.get('id', 'unknown')}"
        ]


class BaselineStore:
    """Baselines in a folder, which need not exist before the first one is saved."""

    def __init__(self, folder: str | os.PathLike[str] = FOLDER) -> None:
        self.folder = Path(folder)

    def __contains__(self, name: str) -> bool:
        return self._file(name).is_file()

    def names(self) -> list[str]:
        """Name the baselines, sorted.

        Raises:
            BenchError: a file of the folder is damaged
        """
        records, damaged = self._records()
        if damaged:
            raise damaged[0]
        return sorted(str(record["name"]) for record in records)

    def save(
        self,
        name: str,
        model: str | os.PathLike[str],
        latencies: Sequence[Latency] = (),
        machine: Mapping[str, str | int] | None = None,
    ) -> Baseline:
        """Keep a model under a name; what had the name before is replaced.

        Args:
            name: anything but the empty text
            model: an ONNX file; weights in other files are brought into one with it
            latencies: what was measured on it, none is allowed
            machine: that they were measured on; None: this one

        Raises:
            BenchError: no such file, not an ONNX model, one whose weights cannot be had, or latencies of another
                content
        """
        if not name.strip():
            raise BenchError("the name of a baseline is empty; give it at least one letter")
        source = Path(model)
        if not source.is_file():
            raise BenchError(f"{source} is not a file")
        own = sha256_of(source)
        for latency in latencies:
            if latency.sha256 != own:
                raise BenchError(f"{source} is not the file that was measured: sha256 {own}, not {latency.sha256}")
        with _whole(source) as whole:
            return self._save(name, whole, os.fspath(model), latencies, machine)

    def _save(
        self,
        name: str,
        whole: Path,
        source: str,
        latencies: Sequence[Latency],
        machine: Mapping[str, str | int] | None,
    ) -> Baseline:
        sha256 = sha256_of(whole)
        record = {
            "format": _FORMAT,
            "name": name,
            "sha256": sha256,
            "source": source,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": dict(machine or machine_fingerprint()),
            "latencies": [_without_samples(latency) for latency in latencies],
        }
        before = self._sha256_of(name)
        self._keep(whole, sha256, latencies[0].provider if latencies else "cpu")
        _write(self._file(name), lambda beside: _dump(record, beside))
        if not self._model(sha256).is_file():  # dropped by another process, for it had no name until now
            self._keep(whole, sha256, None)
        if before not in (None, sha256):
            self._drop(str(before))
        return self.load(name)

    def load(self, name: str) -> Baseline:
        """Give the baseline of a name; its model is checked against its hash.

        Raises:
            UnknownBaseline: there is none of this name
            BenchError: its file is damaged, or its model is missing or was changed
        """
        file = self._file(name)
        if not file.is_file():
            raise self._unknown(name)
        record = _read(file)
        model = self._model(record["sha256"])
        if not model.is_file():
            raise BenchError(f"{model}, the model of baseline {name!r}, is missing; save the baseline again")
        found = sha256_of(model)
        if found != record["sha256"]:
            raise BenchError(
                f"{model}, the model of baseline {name!r}, was changed (its sha256 is {found}); save the baseline again"
            )
        return Baseline(
            name=record["name"],
            model=model,
            sha256=record["sha256"],
            source=record["source"],
            date=record["date"],
            machine=record["machine"],
            latencies=tuple(record["latencies"]),
        )

    def rename(self, name: str, new: str) -> Baseline:
        """Give a baseline another name: the model stays, for a test that was renamed, say.

        Raises:
            UnknownBaseline: there is none of this name
            BenchError: the new name is empty or taken, or the baseline is damaged
        """
        if not new.strip():
            raise BenchError("the name of a baseline is empty; give it at least one letter")
        if new in self:
            raise BenchError(f"baseline {new!r} is in {self.folder} already; remove it first, or choose another name")
        self.load(name)
        record = _read(self._file(name)) | {"name": new}
        _write(self._file(new), lambda beside: _dump(record, beside))
        self._file(name).unlink(missing_ok=True)
        return self.load(new)

    def remove(self, name: str) -> None:
        """Forget a baseline, and its model where no other name needs it.

        Raises:
            UnknownBaseline: there is none of this name
        """
        if name not in self:
            raise self._unknown(name)
        sha256 = self._sha256_of(name)
        self._file(name).unlink(missing_ok=True)
        if sha256 is not None:
            self._drop(sha256)

    def _unknown(self, name: str) -> UnknownBaseline:
        known = ", ".join(sorted(str(record["name"]) for record in self._records()[0]))
        return UnknownBaseline(
            f"baseline {name!r} is not in {self.folder}, which has {known or 'none yet'}; "
            "save it with: compressor baseline save MODEL --name NAME"
        )

    def _file(self, name: str) -> Path:
        """Where a baseline lies: readable, fit for every file system, and apart from that of any other name."""
        slug = re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-.")[:_SLUG]
        mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        return self.folder / f"{slug or 'baseline'}-{mark}.json"

    def _model(self, sha256: str) -> Path:
        return self.folder / "models" / f"{sha256}.onnx"

    def _records(self) -> tuple[list[dict[str, Any]], list[BenchError]]:
        """Read every baseline; returns those that can be read, and what is wrong with the others."""
        records, damaged = [], []
        for file in sorted(self.folder.glob("*.json")):
            try:
                records.append(_read(file))
            except BenchError as error:
                damaged.append(error)
        return records, damaged

    def _sha256_of(self, name: str) -> str | None:
        """Tell which model a name stands for; None where there is no such name or its file is damaged."""
        try:
            return str(_read(self._file(name))["sha256"])
        except BenchError:
            return None

    def _keep(self, source: Path, sha256: str, provider: str | None) -> None:
        """Put the model into the store; a `provider` first proves that it opens."""
        target = self._model(sha256)
        if target.is_file() and sha256_of(target) == sha256:
            return
        if provider is not None:
            open_session(source, provider=provider)
        _write(target, lambda beside: shutil.copyfile(source, beside))

    def _drop(self, sha256: str) -> None:
        """Remove a model that no baseline refers to any more."""
        records, damaged = self._records()
        if not damaged and all(record["sha256"] != sha256 for record in records):
            self._model(sha256).unlink(missing_ok=True)


@contextmanager
def _whole(source: Path) -> Iterator[Path]:
    """The file, or one that holds the weights as well, where these lie in other files beside it.

    Raises:
        BenchError: it is no ONNX model, a file of weights is missing, or they are too large for one file
    """
    import onnx  # takes a fifth of a second
    from onnx.external_data_helper import uses_external_data

    try:
        bare = onnx.load_model(source, load_external_data=False)
    except Exception as error:  # protobuf has classes of its own
        raise BenchError(f"{source} is not an ONNX model: {' '.join(str(error).split())[:200]}") from error
    tensors = onnx.external_data_helper._get_all_tensors(bare)  # those of nodes and sub-graphs as well
    if not any(uses_external_data(tensor) for tensor in tensors):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        whole = Path(folder) / source.name
        try:
            onnx.save_model(onnx.load_model(source), whole)
            open_session(whole, provider="cpu")
        except Exception as error:  # a file that is not there, protobuf's limit of 2 GiB, a place outside the folder
            raise BenchError(
                f"{source} keeps weights in other files, which cannot be brought into one: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        yield whole


def _without_samples(latency: Latency) -> dict[str, Any]:
    return {key: value for key, value in latency.to_json().items() if key not in _SAMPLES}


def _read(file: Path) -> dict[str, Any]:
    """Read the record of a baseline; its sha256 becomes the name of a file, so nothing else may stand there."""
    try:
        record = read_json(file)
    except CompressorError as error:
        raise BenchError(f"{file} is not a readable baseline ({error}); remove it or save it again") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT or not set(_KEYS) <= set(record):
        raise BenchError(f"{file} is not a baseline of format {_FORMAT}; remove it or save it again")
    for key, kind in _KEYS.items():
        if not isinstance(record.get(key), kind):
            found = f"{record[key]!r:.80}"
            raise BenchError(
                f"{file} is not a whole baseline: {key} is {found}, not a {kind.__name__}; remove it or save it again"
            )
    if not re.fullmatch(r"[0-9a-f]{64}", record["sha256"]):
        raise BenchError(
            f"{file}: sha256 is {record['sha256']!r:.80}, not 64 hexadecimal digits; remove it or save it again"
        )
    if not all(isinstance(latency, dict) for latency in record["latencies"]):
        raise BenchError(f"{file}: latencies are not a list of objects; remove it or save it again")
    return record


def _dump(record: Mapping[str, Any], file: Path) -> None:
    file.write_text(json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _write(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file beside `path`, flush it to the disk, then rename it: whole or not at all."""
    try:
        replace_atomic(path, fill)
    except CompressorError as error:
        raise BenchError(str(error)) from error
