"""Precisions of shipped files: what `export.precision` may name, and what the rest of the package asks of each.

A precision is a module in `compressor.exporters.precisions` with a `PRECISION`, and `ExportConfig.precision` lists its
name. Nothing else knows one by its name. Neither this module nor those import torch or onnx before a file is converted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compressor.plugins import built_in

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray
    from torch import nn


class Convert(Protocol):
    """Brings a float32 file into a precision."""

    def __call__(self, source: Path, target: Path, scheme: Any, samples: Sequence[NDArray[Any]]) -> None:
        """Convert a file.

        Args:
            source: a float32 file with one input
            target: of the converted one; written whole or not at all
            scheme: one of the precision's schemes, None if it has none
            samples: inputs of the network, batches, if it has schemes

        Raises:
            ExportError: it cannot be converted
        """


class Variants(Protocol):
    """Schemes that differ from one in one respect."""

    def __call__(self, scheme: Any, source: Path, *, sized: bool, scored: bool) -> Sequence[Any]:
        """Find schemes that may be faster or more accurate for a file.

        Args:
            scheme: the best so far
            source: the float32 file
            sized: none that makes the file larger
            scored: whether accuracy counts; else speed alone
        """


@dataclass(frozen=True)
class Precision:
    """The precision of weights and arithmetic in a file.

    Attributes:
        name: in recipes
        title: in reports
        bytes_of_value: bytes that a weight or an activation takes
        tolerance: largest allowed relative difference to PyTorch where the recipe says nothing; infinite: none is asked
            for, whatever the recipe says, for what counts is the accuracy
        convert: None where the file is what the exporter writes
        schemes: ways to convert, by name, of which the best is found by measuring, with samples; empty if there is one
        suiting: file → those of the schemes that suit it; None: all do
        named: name → scheme, of variants too
        variants: (scheme, file, whether its size counts, whether it is scored) → schemes that differ from it in one
            respect and may suit the file better, each with a `name`; None: there are none
        joined: (scheme, variants of it) → the scheme that has what each of them changes
        largest: names of the schemes that give the largest files
        spare: bytes for each node by which the file of a trained network may be larger than that of an untrained one
        recognise: whether a graph that may come from elsewhere is of this precision
        remark: (file, provider, what measuring the schemes gave) → what to know of the file's speed, or None
        convert_all: likewise, of floating inputs and outputs as well; None: these stay float32
        simulated: a context within which a PyTorch network computes with the rounding of such a file; None: there is
            none, or no need
    """

    name: str
    title: str
    bytes_of_value: int
    tolerance: float = math.inf
    convert: Convert | None = None
    schemes: Mapping[str, Any] = field(default_factory=dict)
    suiting: Callable[[Path], Mapping[str, Any]] | None = None
    named: Callable[[str], Any] = lambda name: None
    variants: Variants | None = None
    joined: Callable[[Any, Sequence[Any]], Any] = lambda scheme, others: scheme
    largest: tuple[str, ...] = ()
    spare: int = 0
    recognise: Callable[[onnx.GraphProto], bool] = lambda graph: True
    remark: Callable[[Path, str, Mapping[str, Any]], str | None] = lambda path, provider, measured: None
    convert_all: Convert | None = None
    simulated: Callable[[nn.Module], AbstractContextManager[Any]] | None = None

    def schemes_for(self, path: Path) -> Mapping[str, Any]:
        """The schemes that suit a float32 file, by name."""
        return self.schemes if self.suiting is None else self.suiting(path)

    @property
    def plain(self) -> bool:
        """Whether the file is what the exporter writes."""
        return self.convert is None


AUTO = "auto"  # in recipes: a run finds out which


@functools.cache
def precisions() -> dict[str, Precision]:
    """All precisions by name, the plain one first."""
    found = built_in("compressor.exporters.precisions", "PRECISION")
    return {one.name: one for one in sorted(found, key=lambda one: (not one.plain, one.name))}
