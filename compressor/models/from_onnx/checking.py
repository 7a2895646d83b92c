"""The proof that a converted network computes what ONNX Runtime computes, and the first node that does not."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import fx

from compressor.bench import open_session
from compressor.errors import ModelError
from compressor.models.from_onnx.file import OnnxFile

_CLOSE, _CLOSE_IN_HALF = 1e-3, 3e-2  # of the largest output: sums in another order differ by less
_BATCHES = (1, 2, 5)


def check_equal(file: OnnxFile, network: fx.GraphModule, size: int) -> None:
    """Compare a network with its file at three batches.

    Args:
        file: that it was made of
        network: in evaluation mode
        size: of images' axes that the file leaves open

    Raises:
        ModelError: ONNX Runtime cannot run the file, or they give other shapes or numbers; the node is named
    """
    try:
        session, _ = open_session(file.path, provider="cpu", threads=1)
    except Exception as error:  # of ours and of pybind
        raise ModelError(f"model.onnx: ONNX Runtime cannot load {file.path}: {_line(error)}") from error
    for batch in _BATCHES:
        inputs = file.examples(batch, size)
        try:
            pieces = _run(session, file, inputs)
        except Exception as error:  # of pybind, without a common base
            raise ModelError(f"model.onnx: ONNX Runtime cannot run {file.path}: {_line(error)}") from error
        try:
            with torch.no_grad():
                made = network(*[one.clone() for one in inputs])
        except Exception as error:  # converted code may fail anywhere
            raise ModelError(f"model.onnx: {file.path}: torch cannot run a batch of {batch}: {_line(error)}") from error
        found = [one.numpy() for one in (made if isinstance(made, tuple) else (made,))]
        expected = [_joined(parts, one.shape) for parts, one in zip(zip(*pieces, strict=True), found, strict=True)]
        for port, one, other in zip(file.outputs, found, expected, strict=True):
            if one.shape != other.shape:
                shapes = f"torch gives {one.shape} for a batch of {batch}, ONNX Runtime {other.shape}"
                raise ModelError(f"model.onnx: {file.path}: output {port.name}: {shapes}")
            off, most = _difference(one, other), _CLOSE_IN_HALF if file.is_half else _CLOSE
            if not off <= most:
                where = _first_wrong(file, network, inputs, most) if batch == (file.batch or batch) else ""
                raise ModelError(
                    f"model.onnx: {file.path}: output {port.name} differs by {off:.2g} of its largest value between "
                    f"torch and ONNX Runtime at a batch of {batch}{where}"
                )


def _joined(parts: Sequence[NDArray[Any]], shape: tuple[int, ...]) -> NDArray[Any]:
    """What several batches gave as one, along the axis in which torch's whole differs; a constant is there once."""
    first = parts[0]
    axis = next((i for i, (one, whole) in enumerate(zip(first.shape, shape, strict=False)) if one != whole), None)
    if axis is None or first.ndim != len(shape):
        return first
    whole = np.concatenate(parts, axis)
    return whole.take(np.arange(min(shape[axis], whole.shape[axis])), axis)


def _run(session: Any, file: OnnxFile, inputs: Sequence[torch.Tensor]) -> list[list[NDArray[Any]]]:
    """What ONNX Runtime gives, batch by batch: of a file of a fixed batch there are as many as it takes."""
    batch = len(inputs[0])
    step = file.batch or batch
    pieces = []
    for first in range(0, batch, step):
        fed = {}
        for port, one in zip(file.inputs, inputs, strict=True):
            piece = one[first : first + step].numpy()
            piece = np.concatenate([piece, np.repeat(piece[-1:], step - len(piece), axis=0)])
            fed[port.name] = piece.astype(onnx.helper.tensor_dtype_to_np_dtype(port.kind))
        pieces.append(session.run(None, fed))
    return pieces


class _Watched(fx.Interpreter):
    """Runs a network and keeps what its nodes give."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.given: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """See `fx.Interpreter`."""
        self.given[n.name] = found = super().run_node(n)
        return found


def _first_wrong(file: OnnxFile, network: fx.GraphModule, inputs: Sequence[torch.Tensor], most: float) -> str:
    """The first node of a file whose output differs, as the end of a sentence; nothing if it cannot be found."""
    names: dict[str, str] = network.meta.get("values", {})
    proto = onnx.ModelProto()
    proto.CopyFrom(file.proto)
    shown = {value.name for value in proto.graph.output}
    wanted = [(node, name) for node in proto.graph.node for name in node.output if name in names]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for _, name in wanted if name not in shown)
    try:
        with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
            path = Path(folder) / "watched.onnx"
            onnx.save_model(proto, path)
            session, _ = open_session(path, provider="cpu", threads=1)
            fed = {
                port.name: one.numpy().astype(onnx.helper.tensor_dtype_to_np_dtype(port.kind))
                for port, one in zip(file.inputs, inputs, strict=True)
            }
            expected = dict(zip([one.name for one in session.get_outputs()], session.run(None, fed), strict=True))
        watched = _Watched(network)
        with torch.no_grad():
            watched.run(*inputs)
    except Exception:  # of pybind; the sentence goes without it
        return ""
    for node, name in wanted:
        made, other = watched.given.get(names[name]), expected.get(name)
        if isinstance(made, torch.Tensor) and isinstance(other, np.ndarray):
            one = made.numpy()
            if one.shape != other.shape or not _difference(one, other) <= most:
                return f"; the first node that does is {node.name or name} ({node.op_type})"
    return ""


def _difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference, as a share of the largest value; values that are not finite must be the same."""
    if not one.size:
        return 0.0
    left, right = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(right)
    if (np.isfinite(left) != finite).any() or not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.abs(left - right)[finite].max() / max(float(np.abs(right[finite]).max()), 1e-6))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
