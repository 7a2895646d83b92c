"""Unfinished training on disk: tensors and plain values in one safetensors file, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from compressor.errors import RunError
from compressor.files import parse_json, replace_atomic

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to go on.

    Attributes:
        tensors: named tensors, on the CPU
        values: JSON values
    """

    tensors: Tensors
    values: dict[str, Any]

    def part(self, prefix: str) -> Tensors:
        """The tensors whose name starts with `prefix/`, without it."""
        start = f"{prefix}/"
        return {name[len(start) :]: tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def named(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Put `prefix/` before every name; `Snapshot.part` takes it off."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot, whole or not at all."""
    save_tensors(path, snapshot.tensors, {"values": json.dumps(snapshot.values)})


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        RunError: it cannot be written (a full disk, a folder that is read-only)
    """
    plain: Tensors = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory, as those of a module registered under two names do.
        plain[name] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    try:
        replace_atomic(path, lambda beside: save_file(plain, beside, metadata=dict(metadata)))
    except SafetensorError as error:
        raise RunError(f"{path}: cannot be written: {error}") from error


def load_tensors(path: Path) -> Tensors:
    """Read the tensors of a safetensors file.

    Raises:
        RunError: the file is absent or damaged
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise RunError(f"{path}: file not found") from error
    except SafetensorError as error:
        raise RunError(f"{path}: damaged ({error}); delete it to train again") from error


def load_snapshot(path: Path) -> Snapshot | None:
    """Read a snapshot; None if there is none.

    Raises:
        RunError: the file is damaged
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values = parse_json((file.metadata() or {}).get("values", "{}"))
            return Snapshot({name: file.get_tensor(name) for name in file.keys()}, values)  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise RunError(f"{path}: damaged checkpoint ({error}); delete it to begin this stage anew") from error
