"""The form of a shipped file: its precision, and what lies in the graph around the network.

With preprocessing inside, the file takes images as cameras and decoders give them, uint8 (N, H, W, C) from 0 to 255, of
the network's size or of any; with a softmax inside it gives probabilities; its batch can be fixed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.bench import INPUT_SHAPE
from compressor.dependency.inputs import AnyInputs, Inputs
from compressor.errors import ExportError
from compressor.files import replace_atomic
from compressor.models.onnx_reading import opset_in
from compressor.recipe.precision import precisions

from .graph_names import free_name, rename_makers, rename_uses

INPUT, OUTPUT_KIND = "compressor.input", "compressor.output"  # metadata: what goes in and what comes out
PROBABILITIES = "probabilities"
_SOFTMAX_OF_ONE_AXIS = 13  # operator set from which on it is that
_INSIDE = "normalised"  # name that the network's own input gets


@dataclass(frozen=True)
class Form:
    """How a shipped file differs from the plain export.

    Attributes:
        precision: one of `precisions()`
        preprocess: "none": normalised float32 images (N, C, H, W); "uint8": uint8 (N, H, W, C) of the network's size;
            "resize": the same of any size
        mean: per channel, in units of 0..1, that preprocessing takes off
        std: per channel, by which it divides then
        softmax: axis of the classes over which a softmax is taken, unless the network has one; None: none is added
        batch: the only batch that the file takes; None: any
        own_names: the output keeps its name, as that of an ONNX file that was given; else it is called by what it gives
        half_io: whether floating inputs and outputs are of the precision too, if that can be
        refined: whether schemes of the precision are refined for the network, see `scheme_choice.choose`
    """

    precision: str = "fp32"
    preprocess: str = "none"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    softmax: int | None = None
    batch: int | None = None
    own_names: bool = False
    refined: bool = False
    half_io: bool = False

    @property
    def plain(self) -> bool:
        """Whether the file is what the exporter wrote."""
        return self == Form(mean=self.mean, std=self.std, own_names=self.own_names)


def finish(source: Path, target: Path, form: Form, scheme: Any, samples: Sequence[NDArray[Any]]) -> None:
    """Bring an exported file into its form.

    Args:
        source: the plain file
        target: of the finished one; may be the same; written whole or not at all
        form: what to do
        scheme: one of the precision's schemes, None if it has none
        samples: inputs of the plain network, if it has schemes: the ranges of activations are theirs

    Raises:
        ExportError: it cannot be converted
    """
    current = source
    precision = precisions()[form.precision]
    if precision.convert is not None:
        assert bool(precision.schemes) == (scheme is not None), f"{form.precision}: a scheme, if it has any"
        own = precision.convert_all if form.half_io else None
        (own or precision.convert)(source, target, scheme, samples)
        current = target
    if form.plain and source == target:
        return
    proto = onnx.load_model(current)
    wrap(proto, form)
    replace_atomic(target, lambda beside: onnx.save_model(proto, beside))


def samples_of(inputs: AnyInputs) -> list[NDArray[Any]]:
    """Inputs as precisions take them to learn the ranges of activations; none of a network with inputs of its own."""
    return [] if isinstance(inputs, Inputs) else [inputs.numpy()]


def wrap(proto: onnx.ModelProto, form: Form) -> None:
    """Put preprocessing and softmax into a graph and fix its batch, in place.

    Raises:
        ExportError: ONNX's checker refuses the outcome
    """
    if form.preprocess != "none":
        _preprocess(proto, form)
    if form.softmax is not None and not gives_probabilities(proto):
        graph = proto.graph
        output = graph.output[0]
        inside = free_name(graph, f"{output.name}_inside")
        rename_uses(graph, output.name, inside)
        rename_makers(graph, output.name, inside)
        if not form.own_names:
            output.name = free_name(graph, PROBABILITIES)
        _add_softmax(proto, inside, output, form.softmax)
        _put(proto, OUTPUT_KIND, PROBABILITIES)
    if form.batch is not None:
        _fix_batch(proto, form.batch)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the ONNX checker refuses the finished file: {error}") from error


def _add_softmax(proto: onnx.ModelProto, taken: str, output: onnx.ValueInfoProto, axis: int) -> None:
    """Add the nodes that make an output the softmax of a value over an axis."""
    graph, rank = proto.graph, len(output.type.tensor_type.shape.dim)
    if opset_in(proto) >= _SOFTMAX_OF_ONE_AXIS or axis == rank - 1:
        name = free_name(graph, "softmax")
        graph.node.append(helper.make_node("Softmax", [taken], [output.name], name, axis=axis))
        return
    order = [*(place for place in range(rank) if place != axis), axis]  # earlier ones sum over all axes from theirs on
    back = [order.index(place) for place in range(rank)]
    last, turned = free_name(graph, "softmax_turned"), free_name(graph, "softmax_turned_out")
    graph.node.append(helper.make_node("Transpose", [taken], [last], last, perm=order))
    graph.node.append(helper.make_node("Softmax", [last], [turned], free_name(graph, "softmax"), axis=rank - 1))
    graph.node.append(helper.make_node("Transpose", [turned], [output.name], turned, perm=back))


def gives_probabilities(proto: onnx.ModelProto) -> bool:
    """Whether a file says that a softmax is taken in it already, as one made of a file that ends in one does."""
    return any((entry.key, entry.value) == (OUTPUT_KIND, PROBABILITIES) for entry in proto.metadata_props)


def _preprocess(proto: onnx.ModelProto, form: Form) -> None:
    graph = proto.graph
    old = graph.input[0]
    name, sizes, kind = old.name, old.type.tensor_type.shape.dim, old.type.tensor_type.elem_type
    channels, height, width = (dim.dim_value for dim in sizes[1:])
    inside = free_name(graph, _INSIDE)
    rename_uses(graph, name, inside)
    constants = {name: free_name(graph, f"preprocess_{name}") for name in ("gain", "shift", "size", "rows", "pixels")}
    resizes = form.preprocess == "resize"
    size: list[Any] = ["height", "width"] if resizes else [height, width]
    batch = sizes[0].dim_param or sizes[0].dim_value
    graph.input[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, [batch, *size, channels]))
    # (x / 255 - mean) / std as one product and one difference, of whole rows of pixels: three channels at a time take
    # longer than the first convolutions of an int8 file, which ONNX Runtime has take (N, H, W, C).
    gain = 1 / (255 * np.array(form.std, dtype=np.float64))
    shift = np.array(form.mean, dtype=np.float64) / np.array(form.std, dtype=np.float64)
    for constant, values in (("gain", gain), ("shift", shift)):
        graph.initializer.append(
            numpy_helper.from_array(np.tile(values.astype(np.float32), width), constants[constant])
        )
    for constant, shape in (("rows", [0, height, width * channels]), ("pixels", [0, height, width, channels])):
        graph.initializer.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), constants[constant]))
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("Cast", [], {"to": TensorProto.FLOAT})]
    if resizes:  # before the planes are taken apart: ONNX Runtime 1.31 moves a transpose behind it and loses the sizes
        graph.initializer.append(numpy_helper.from_array(np.array([height, width], dtype=np.int64), constants["size"]))
        resize = {"mode": "linear", "antialias": 1, "axes": [1, 2], "coordinate_transformation_mode": "half_pixel"}
        steps.append(("Resize", ["", "", constants["size"]], resize))
    steps += [
        ("Reshape", [constants["rows"]], {}),
        ("Mul", [constants["gain"]], {}),
        ("Sub", [constants["shift"]], {}),
        ("Reshape", [constants["pixels"]], {}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
    ]
    if kind != TensorProto.FLOAT:
        steps.append(("Cast", [], {"to": kind}))
    nodes, last = [], name
    for index, (operator, more, attributes) in enumerate(steps):
        made = inside if index == len(steps) - 1 else free_name(graph, f"preprocess_{operator.lower()}_{index}")
        node = free_name(graph, f"preprocess_{index}")
        nodes.append(helper.make_node(operator, [last, *more], [made], node, **attributes))
        last = made
    own = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *own])
    described = {"dtype": "uint8", "layout": "NHWC", "size": None if resizes else [height, width], "range": [0, 255]}
    _put(proto, INPUT, json.dumps(described | {"mean": list(form.mean), "std": list(form.std)}))
    if resizes:
        _put(proto, INPUT_SHAPE, json.dumps([height, width, channels]))


def _fix_batch(proto: onnx.ModelProto, batch: int) -> None:
    graph = proto.graph
    name = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if name and dim.dim_param == name:
                dim.dim_value = batch


def _put(proto: onnx.ModelProto, key: str, value: str) -> None:
    known = {entry.key: entry.value for entry in proto.metadata_props}
    helper.set_model_props(proto, known | {key: value})


def as_taken(inputs: NDArray[Any], described: dict[str, Any] | None) -> NDArray[Any]:
    """Normalised images (N, C, H, W) as a file takes them: bytes of a file with preprocessing, else as they are.

    Args:
        inputs: of images that were bytes once, or tokens
        described: the file's metadata `INPUT`
    """
    if described is None or described.get("dtype") != "uint8":
        return inputs
    shape = (1, -1, 1, 1)
    mean, std = (np.array(described[key], dtype=np.float64).reshape(shape) for key in ("mean", "std"))
    raw = np.rint((inputs * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(raw.transpose(0, 2, 3, 1))


def in_batches(inputs: NDArray[Any], batch: int | None) -> Sequence[tuple[NDArray[Any], int]]:
    """Inputs in pieces of a fixed batch, the last one filled up with its last sample; and how many of each count."""
    if batch is None:
        return [(inputs, len(inputs))]
    pieces = []
    for first in range(0, len(inputs), batch):
        piece = inputs[first : first + batch]
        filled = np.concatenate([piece, np.repeat(piece[-1:], batch - len(piece), axis=0)])
        pieces.append((filled, len(piece)))
    return pieces
