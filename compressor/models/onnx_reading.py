"""Reading an ONNX file that may come from anywhere; imports no torch."""

from __future__ import annotations

from pathlib import Path

import onnx

from compressor.errors import ModelError

_MOST_BYTES = 2**31 - 1  # protobuf's own limit; larger weights lie beside the file


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read a file and let ONNX's checker look at it.

    Raises:
        ModelError: there is no such file, or it is no ONNX model
    """
    if not path.is_file():
        raise ModelError(f"{path}: file not found")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ModelError(f"{path}: is not a valid ONNX model: it has {size:,} bytes, at most {_MOST_BYTES:,} are read")
    try:
        proto = onnx.load_model(path)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf, the checker and missing external data each have their own classes
        raise ModelError(f"{path}: is not a valid ONNX model: {' '.join(str(error).split())[:200]}") from error
    return proto
