"""What an ONNX file says of itself: inputs, outputs, size, precision, and the story that `compressor` put into it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import onnx

from compressor.files import parse_json
from compressor.models.onnx_reading import read_onnx
from compressor.recipe.precision import precisions

_PREFIX = "compressor."
_SHOWN = 8  # classes, and kinds of operators


def inspect_file(path: Path) -> dict[str, Any]:
    """Read a file of ours or of anyone else.

    Returns:
        JSON values: file, bytes, inputs and outputs (name, dtype, shape), opset, producer, weights (their number of
        values, sizes of reshapes and the like left out), precision, operators ({kind: count}) and metadata, our own
        entries parsed and without their prefix

    Raises:
        ModelError: there is no such file, or it is no ONNX model
    """
    proto = read_onnx(path)
    graph = proto.graph
    weights = {weight.name for weight in graph.initializer}
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "inputs": [_tensor(value) for value in graph.input if value.name not in weights],
        "outputs": [_tensor(value) for value in graph.output],
        "opset": next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), None),
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "weights": sum(math.prod(w.dims) for w in graph.initializer if w.data_type != onnx.TensorProto.INT64),
        "precision": _precision(graph),
        "operators": dict(Counter(node.op_type for node in graph.node).most_common()),
        "metadata": {entry.key.removeprefix(_PREFIX): _parsed(entry) for entry in proto.metadata_props},
    }


def inspection_lines(facts: dict[str, Any]) -> list[str]:
    """The same for people."""
    operators = list(facts["operators"].items())
    kinds = ", ".join(f"{count} {kind}" for kind, count in operators[:_SHOWN])
    lines = [
        f"{facts['file']}: {facts['bytes']:,} bytes, {facts['weights']:,} weights, {facts['precision']}, "
        f"opset {facts['opset']}",
        *(_tensor_line("input", value) for value in facts["inputs"]),
        *(_tensor_line("output", value) for value in facts["outputs"]),
        f"operators: {kinds}{' and others' if len(operators) > _SHOWN else ''}",
    ]
    metadata = facts["metadata"]
    if "recipe" not in metadata:
        return [*lines, "no story: it was not made by compressor"]
    return [*lines, *_story(metadata)]


def _story(metadata: dict[str, Any]) -> list[str]:
    lines = []
    if taken := metadata.get("input"):
        size = "any size" if taken["size"] is None else " x ".join(str(size) for size in taken["size"])
        where = "inside" if taken["dtype"] == "uint8" else "not inside: (x - mean) / std of values from 0 to 1"
        lines.append(
            f"images: {taken['dtype']} {taken['layout']}, {size}, values {taken['range'][0]} to {taken['range'][1]}; "
            f"normalisation {where}, mean {_rounded(taken['mean'])}, std {_rounded(taken['std'])}"
        )
    lines.append(f"gives: {metadata.get('output', 'logits')}")
    classes = metadata.get("classes") or []
    more = f" and {len(classes) - _SHOWN:,} more" if len(classes) > _SHOWN else ""
    lines.append(f"classes: {len(classes):,}: {', '.join(map(str, classes[:_SHOWN]))}{more}")
    limits = ", ".join(f"{name} at most {limit:,.10g}" for name, limit in (metadata.get("budget") or {}).items())
    lines.append(f"budget: {limits or 'none'}")
    metric = metadata.get("metric") or {}
    accuracy = metadata.get("accuracy") or {}
    lines.append(
        f"{metric.get('name', 'accuracy')}: {metric.get('onnx', math.nan):.4f} on this file, "
        f"{metric.get('torch', math.nan):.4f} in PyTorch, {accuracy.get('samples', 0):,} test samples"
    )
    architecture = metadata.get("architecture") or {}
    lines.append(f"network: {metadata.get('network')} of {architecture.get('model')}, task {metadata.get('task')}")
    versions = metadata.get("versions") or {}
    lines.append("made with: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return lines


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return {"name": value.name, "dtype": {"float": "float32"}.get(dtype, dtype), "shape": shape}


def _tensor_line(kind: str, value: dict[str, Any]) -> str:
    return f"{kind}: {value['name']} {value['dtype']} ({', '.join(str(size) for size in value['shape'])})"


def _precision(graph: onnx.GraphProto) -> str:
    """Of the precisions that recognise the graph, the one of the fewest bits."""
    found = [one for one in precisions().values() if one.recognise(graph)]
    return min(found, key=lambda one: one.bytes_of_value).name


def _parsed(entry: onnx.StringStringEntryProto) -> Any:
    if not entry.key.startswith(_PREFIX):
        return entry.value
    try:
        return parse_json(entry.value)
    except ValueError:
        return entry.value


def _rounded(values: list[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
