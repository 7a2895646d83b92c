"""The size of the ONNX file as a cost: estimated from the parameter count, corrected by files really exported.

An export takes seconds, and a search asks for a cost hundreds of times. So a search works with an estimate of 4 bytes
a parameter (2 of float16, 1 of int8) and an offset (graph and names; batch-norms folded away or not). The network that
it finds is exported, untrained; the offset becomes what that file really has, and the search's last step is repeated
until the network found is one whose size is known.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from compressor.architecture import Architecture
from compressor.costs import params_macs
from compressor.exporters import SCHEMES, Form, export_onnx, finish, write_metadata
from compressor.initialise import noise_like, scatter_
from compressor.models import build, example_input

_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}  # of a parameter
_LARGEST = tuple(scheme for scheme in SCHEMES.values() if scheme.per_channel and not scheme.reduced)
# An int8 file of a trained network has a node more or less than that of an untrained one: where a range of activations
# begins at 0, the ReLU before it is left out.
_SPARE = 8  # bytes for each node
_PLAIN = Form()
_CLOSE = 16  # bytes by which an estimate may be too large
_TRUSTED = 5  # exports after which the offset only rises and any estimate is close enough that is not too small


class FileSize:
    """Bytes of the ONNX file of an architecture; a cost like any other.

    Args:
        measure: exports an architecture and gives the true size; called by `calibrate` alone
        params: parameter count of an architecture
        precision: "fp32", "fp16" or "int8"
    """

    def __init__(
        self,
        measure: Callable[[Architecture], int],
        params: Callable[[Architecture], int] = params_macs.params,
        precision: str = "fp32",
    ) -> None:
        self._measure, self._params, self._bytes = measure, params, _BYTES[precision]
        self._known: dict[str, int] = {}
        self._offset = 0

    def __call__(self, architecture: Architecture) -> float:
        """The true size where it is known, else an estimate."""
        known = self._known.get(architecture.to_json())
        return known if known is not None else self._bytes * self._params(architecture) + self._offset

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
        offset = true - self._bytes * self._params(architecture)
        self._offset = max(offset, self._offset) if len(self._known) > _TRUSTED else offset
        spare = estimate - true
        return spare >= 0 and (spare <= _CLOSE or len(self._known) > _TRUSTED)


def exported_bytes(architecture: Architecture, opset: int, metadata: Mapping[str, str], form: Form = _PLAIN) -> int:
    """Export an untrained network with its metadata, and count the bytes of the file.

    Args:
        architecture: what to build
        opset: ONNX operator set
        metadata: as long as what the shipped file will hold
        form: of the shipped file; of int8 the largest scheme counts

    Raises:
        ExportError: torch cannot export it, or it cannot be brought into that form
    """
    model = build(architecture)
    scatter_(model)
    inputs = noise_like(example_input(architecture))
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        plain, path = Path(folder) / "plain.onnx", Path(folder) / "untrained.onnx"
        export_onnx(model, plain, [inputs], opset=opset, tolerance=float("inf"))
        sizes = []
        for scheme in _LARGEST if form.precision == "int8" else (None,):
            finish(plain, path, form, scheme, [inputs.numpy()])
            write_metadata(path, metadata)
            sizes.append(path.stat().st_size)
        spare = _SPARE * len(onnx.load_model(path).graph.node) if form.precision == "int8" else 0
        return max(sizes) + spare
