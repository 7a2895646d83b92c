"""Data sets and the loader that feeds them to training.

`load_data` gives a `DataSet` of three `Split`s; `training_batches` walks the one to train on in a seeded random
order, with augmentation, `ordered` walks any in order and without. Importing it imports no torch: names
load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.lazy import lazily

if TYPE_CHECKING:
    from compressor.data.batching import TrainingBatches as TrainingBatches
    from compressor.data.dataset import DataSet as DataSet
    from compressor.data.dataset import normalised as normalised
    from compressor.data.folder import FolderSplit as FolderSplit
    from compressor.data.loader import Batches as Batches
    from compressor.data.loader import TokenBatches as TokenBatches
    from compressor.data.loader import ordered as ordered
    from compressor.data.loader import training_batches as training_batches
    from compressor.data.masks import MaskSplit as MaskSplit
    from compressor.data.sources import load_data as load_data
    from compressor.data.split import IGNORED as IGNORED
    from compressor.data.split import Split as Split
    from compressor.data.split import TensorSplit as TensorSplit
    from compressor.data.text import TextSplit as TextSplit

_HOME = {
    "Batches": "loader",
    "DataSet": "dataset",
    "FolderSplit": "folder",
    "IGNORED": "split",
    "MaskSplit": "masks",
    "Split": "split",
    "TensorSplit": "split",
    "TextSplit": "text",
    "TokenBatches": "loader",
    "TrainingBatches": "batching",
    "load_data": "sources",
    "normalised": "dataset",
    "ordered": "loader",
    "training_batches": "loader",
}

__all__ = [
    "IGNORED",
    "Batches",
    "DataSet",
    "FolderSplit",
    "MaskSplit",
    "Split",
    "TensorSplit",
    "TextSplit",
    "TokenBatches",
    "TrainingBatches",
    "load_data",
    "normalised",
    "ordered",
    "training_batches",
]


__getattr__, __dir__ = lazily(__name__, _HOME)
