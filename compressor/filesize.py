"""The size of the ONNX file as a cost: estimated from the parameter count, corrected by files really exported.

An export takes seconds, and a search asks for a cost hundreds of times. So a search works with an estimate of 4 bytes
a parameter and an offset (graph and names; batch-norms folded away or not). The network that it finds is exported,
untrained; the offset becomes what that file really has, and the search's last step is repeated until the network found
is one whose size is known.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from compressor import cost
from compressor.architecture import Architecture
from compressor.exporters import export_onnx, write_metadata
from compressor.initialise import noise_like, scatter_
from compressor.models import build, example_input

_BYTES = 4  # of a float32 parameter
_CLOSE = 16  # bytes by which an estimate may be too large
_TRUSTED = 5  # exports after which the offset only rises and any estimate is close enough that is not too small


class FileSize:
    """Bytes of the ONNX file of an architecture; a cost like any other.

    Args:
        measure: exports an architecture and gives the true size; called by `calibrate` alone
        params: parameter count of an architecture
    """

    def __init__(
        self, measure: Callable[[Architecture], int], params: Callable[[Architecture], int] = cost.params
    ) -> None:
        self._measure, self._params = measure, params
        self._known: dict[str, int] = {}
        self._offset = 0

    def __call__(self, architecture: Architecture) -> float:
        """The true size where it is known, else an estimate."""
        known = self._known.get(architecture.to_json())
        return known if known is not None else _BYTES * self._params(architecture) + self._offset

    def begin(self, least: Architecture) -> None:
        """Measure the least network of a search."""
        self.calibrate(least)

    def calibrate(self, architecture: Architecture) -> bool:
        """Export an architecture, unless that was done before, and correct the offset by its true size.

        Returns:
            whether its cost was its true size already, or a little more: what was found within a limit is within it
        """
        key = architecture.to_json()
        if key in self._known:
            return True
        estimate = self(architecture)
        self._known[key] = true = self._measure(architecture)
        offset = true - _BYTES * self._params(architecture)
        self._offset = max(offset, self._offset) if len(self._known) > _TRUSTED else offset
        spare = estimate - true
        return spare >= 0 and (spare <= _CLOSE or len(self._known) > _TRUSTED)


def exported_bytes(architecture: Architecture, opset: int, metadata: Mapping[str, str]) -> int:
    """Export an untrained network with its metadata, and count the bytes of the file.

    Args:
        architecture: what to build
        opset: ONNX operator set
        metadata: as long as what the shipped file will hold

    Raises:
        ExportError: torch cannot export it
    """
    model = build(architecture)
    scatter_(model)
    inputs = noise_like(example_input(architecture))
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        path = Path(folder) / "untrained.onnx"
        export_onnx(model, path, [inputs], opset=opset, tolerance=float("inf"))
        write_metadata(path, metadata)
        return path.stat().st_size
