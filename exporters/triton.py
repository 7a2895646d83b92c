"""A model repository of NVIDIA Triton Inference Server for an ONNX file: the file, its configuration, its classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from compressor.errors import ExportError
from compressor.files import copy_atomic, read_text, write_atomic
from compressor.models.onnx_reading import external_files

_CONFIG, _LABELS = "config.pbtxt", "labels.txt"
_TYPES = {
    onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.UINT16: "UINT16",
    onnx.TensorProto.UINT32: "UINT32",
    onnx.TensorProto.UINT64: "UINT64",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT16: "INT16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.STRING: "STRING",
    onnx.TensorProto.BFLOAT16: "BF16",
}
_ACCELERATED = {"tensorrt": "gpu", "openvino": "cpu"}  # providers that Triton calls accelerators, by where they run


def write_triton(
    source: Path, repository: Path, name: str, *, provider: str, threads: int | None, batch: int, classes: Sequence[str]
) -> Path:
    """Add an ONNX file to a model repository, as the next version of the model of a name.

    Args:
        source: the ONNX file
        repository: a folder, made if it is not there
        name: of the model
        provider: short name of the one that the file was measured on
        threads: intra-op threads; None: ONNX Runtime's choice
        batch: most requests that are run together, if the file takes any batch
        classes: of an output of as many values a sample, by which Triton names what it classifies; none: no names

    Returns:
        the file in the repository: NAME/VERSION/model.onnx

    Raises:
        ExportError: the file has an input or output that Triton knows no type of; or the repository has a model of that
            name with another configuration
    """
    folder = repository / name
    graph = onnx.load_model(source, load_external_data=False).graph
    config = _configuration(graph, name, provider=provider, threads=threads, batch=batch, classes=classes)
    path = folder / _CONFIG
    if path.exists() and read_text(path) != config:
        raise ExportError(
            f"{path}: is the configuration of another model, which later versions must share; name another folder"
        )
    versions = [int(one.name) for one in folder.glob("*") if one.is_dir() and one.name.isdecimal()]
    target = folder / str(max(versions, default=0) + 1) / "model.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    for beside in external_files(source):
        place = target.parent / beside.relative_to(source.parent)
        if not place.resolve().is_relative_to(target.parent.resolve()):
            raise ExportError(f"{source}: has weights in {beside}, outside of its folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        copy_atomic(beside, place)
    copy_atomic(source, target)
    if _labelled(graph, classes):
        write_atomic(folder / _LABELS, "".join(f"{' '.join(str(one).split())}\n" for one in classes))
    write_atomic(path, config)
    return target


def _configuration(
    graph: onnx.GraphProto, name: str, *, provider: str, threads: int | None, batch: int, classes: Sequence[str]
) -> str:
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    shapes = {value.name: _shape(value) for value in (*inputs, *graph.output)}
    batched = all(shape and shape[0] == -1 for shape in shapes.values())
    labelled = _labelled(graph, classes)

    def port(value: onnx.ValueInfoProto) -> dict[str, Any]:
        shape = shapes[value.name][1:] if batched else shapes[value.name]
        kind: Any = value.type.tensor_type.elem_type
        if kind not in _TYPES:
            raise ExportError(f"{value.name}: Triton knows no type of this input or output; valid: tensors of numbers")
        found: dict[str, Any] = {"name": value.name, "data_type": _Word(f"TYPE_{_TYPES[kind]}"), "dims": shape or [1]}
        if not shape:  # Triton has no tensors without axes
            found["reshape"] = {"shape": []}
        return found | ({"label_filename": _LABELS} if value.name == labelled else {})

    values: dict[str, Any] = {
        "name": name,
        "platform": "onnxruntime_onnx",
        "max_batch_size": batch if batched else 0,
        "input": [port(value) for value in inputs],
        "output": [port(value) for value in graph.output],
        "instance_group": [{"kind": _Word("KIND_GPU" if provider in ("cuda", "tensorrt") else "KIND_CPU")}],
    }
    if batched and batch > 1:
        values["dynamic_batching"] = {}
    if where := _ACCELERATED.get(provider):
        values["optimization"] = {"execution_accelerators": {f"{where}_execution_accelerator": [{"name": provider}]}}
    if threads is not None:
        values["parameters"] = [{"key": "intra_op_thread_count", "value": {"string_value": str(threads)}}]
    return "\n".join(_lines(values, "")) + "\n"


def _labelled(graph: onnx.GraphProto, classes: Sequence[str]) -> str:
    """The output whose last axis is that of the classes; "": none is."""
    return next(
        (value.name for value in graph.output if len(_shape(value)) == 2 and _shape(value)[1] == len(classes)), ""
    )


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes of a value's axes; -1 of one that may have any."""
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]


class _Word(str):
    """A value that is written without quotes."""

    __slots__ = ()


def _lines(values: dict[str, Any], indent: str) -> list[str]:
    """Protobuf's text format."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += [f"{indent}{key} {{", *_lines(value, indent + "  "), f"{indent}}}"]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for one in value:
                found += _lines({key: one}, indent)
        else:
            found.append(f"{indent}{key}: {_text(value)}")
    return found


def _text(value: Any) -> str:
    if isinstance(value, _Word):
        return str(value)
    if isinstance(value, list):
        return f"[ {', '.join(map(_text, value))} ]" if value else "[ ]"
    return json.dumps(value)
