"""What an ONNX file says of itself: inputs, outputs, size, precision, and the story that `compressor` put into it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
from pydantic import BaseModel, ValidationError

from compressor.errors import on_one_line
from compressor.files import parse_json
from compressor.models.onnx_reading import read_onnx
from compressor.recipe.precision import precisions
from compressor.recipe.stored import Amount, Count, Number, problem_of

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
    story = _story(metadata) if "recipe" in metadata else ["no story: it was not made by compressor"]
    return [on_one_line(line) for line in (*lines, *story)]


class _Taken(BaseModel):
    """compressor.input: the images that a file takes."""

    dtype: str
    layout: str
    size: list[Count] | None
    range: tuple[Number, Number]
    mean: list[Number]
    std: list[Number]


class _Metric(BaseModel):
    name: str = "accuracy"
    onnx: Number = math.nan
    torch: Number = math.nan


class _Samples(BaseModel):
    samples: Count = 0


class _Origin(BaseModel):
    model: str | None = None


class _Story(BaseModel):
    """What `compressor` wrote into a file, which anyone may have changed."""

    input: _Taken | None = None
    output: str = "logits"
    classes: list[str | int] = []
    budget: dict[str, Amount] = {}
    metric: _Metric = _Metric()
    accuracy: _Samples = _Samples()
    network: str | None = None
    architecture: _Origin = _Origin()
    task: str | None = None
    versions: dict[str, str] = {}


def _story(metadata: dict[str, Any]) -> list[str]:
    try:
        story = _Story.model_validate({name: value for name, value in metadata.items() if value is not None})
    except ValidationError as error:
        return [f"its story cannot be read: {problem_of(error)}"]
    lines = []
    if taken := story.input:
        size = "any size" if taken.size is None else " x ".join(map(str, taken.size))
        where = "inside" if taken.dtype == "uint8" else "not inside: (x - mean) / std of values from 0 to 1"
        lines.append(
            f"images: {taken.dtype} {taken.layout}, {size}, values {taken.range[0]} to {taken.range[1]}; "
            f"normalisation {where}, mean {_rounded(taken.mean)}, std {_rounded(taken.std)}"
        )
    own, classes = story.task == "own", story.classes  # the user's own: what it gives only they know
    if not own:
        lines.append(f"gives: {story.output}")
        more = f" and {len(classes) - _SHOWN:,} more" if len(classes) > _SHOWN else ""
        lines.append(f"classes: {len(classes):,}: {', '.join(map(str, classes[:_SHOWN]))}{more}")
    limits = ", ".join(f"{name} at most {limit:,.10g}" for name, limit in story.budget.items())
    lines.append(f"budget: {limits or 'none'}")
    metric = story.metric
    samples = "" if own else f", {story.accuracy.samples:,} test samples"
    lines.append(f"{metric.name}: {metric.onnx:.4f} on this file, {metric.torch:.4f} in PyTorch{samples}")
    lines.append(f"network: {story.network} of {story.architecture.model}, task {story.task}")
    lines.append("made with: " + ", ".join(f"{name} {version}" for name, version in story.versions.items()))
    return lines


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    known = onnx.TensorProto.DataType.values()
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type in known else "unknown"
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
