"""Data sets and the loader that feeds them to training.

`load_data` gives a `DataSet` of three `Split`s; `Batches` walks one of them in a seeded random order with
augmentation, `ordered` in order and without. Importing it imports no torch: names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressor.data.dataset import DataSet as DataSet
    from compressor.data.folder import FolderSplit as FolderSplit
    from compressor.data.loader import Batches as Batches
    from compressor.data.loader import ordered as ordered
    from compressor.data.sources import load_data as load_data
    from compressor.data.split import Split as Split
    from compressor.data.split import TensorSplit as TensorSplit

_HOME = {
    "Batches": "loader",
    "DataSet": "dataset",
    "FolderSplit": "folder",
    "Split": "split",
    "TensorSplit": "split",
    "load_data": "sources",
    "ordered": "loader",
}

__all__ = ["Batches", "DataSet", "FolderSplit", "Split", "TensorSplit", "load_data", "ordered"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
