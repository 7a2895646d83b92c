"""Modules of a converted network, and where they stand in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Stored(nn.Module):
    """A constant that is an output."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self) -> Any:
        """The constant."""
        return self.value.clone()  # type: ignore[operator]


def has_module(root: nn.Module, path: str) -> bool:
    """Whether something has this path."""
    try:
        root.get_submodule(path)
    except AttributeError:
        return False
    return True


def put_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module under a path; containers on the way are made."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)
