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


def opset_in(proto: onnx.ModelProto) -> int:
    """The operator set of a file, of ONNX's own domain; 1 where it names none."""
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold weights of it, in the order of their names; one may be missing.

    Raises:
        ModelError: it is no ONNX model
    """
    from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

    try:
        bare = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's own classes
        raise ModelError(f"{path}: is not a valid ONNX model: {' '.join(str(error).split())[:200]}") from error
    tensors = _get_all_tensors(bare)  # those of nodes and sub-graphs as well
    names = {ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor)}
    return [path.parent / name for name in sorted(names)]
