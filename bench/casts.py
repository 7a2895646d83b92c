"""Whether a provider runs half-precision arithmetic as it is, or casts it to float32."""

import os
import tempfile
from pathlib import Path
from typing import Final

import onnxruntime as ort

from .errors import BenchError
from .providers import providers
from .session import open_session, reason

__all__ = ["runs_in_float32"]

_INSERTED: Final = b"InsertedPrecisionFreeCast"  # name of the casts around nodes without a float16 kernel


def runs_in_float32(path: str | os.PathLike[str], provider: str = "auto") -> bool:
    """Whether ONNX Runtime casts any of a file's float16 arithmetic to float32, for want of kernels.

    Args:
        path: the ONNX file, at most 2 GB.
        provider: as `open_session`.

    Raises:
        ProviderError, BenchError: as `open_session`.
    """
    _, chosen = open_session(path, provider=provider)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Later optimisations fold the casts of weights away, and with them the trace.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory(prefix="onnx-bench-") as folder:
        placed = Path(folder) / "placed.onnx"
        options.optimized_model_filepath = str(placed)
        try:
            ort.InferenceSession(str(path), options, providers=list(providers()[chosen].chain))
        except Exception as error:  # of pybind, without a common base
            raise BenchError(f"{path}: {provider} cannot place it: {reason(error)}") from error
        return _INSERTED in placed.read_bytes()
