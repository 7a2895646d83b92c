"""A file with the inputs and outputs, the operator set and the metadata of the one that its network was made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper

from compressor.models.from_onnx.file import Port
from compressor.models.from_onnx.interface import TO_CHANNELS_LAST, Interface

from .graph_names import free_name, rename_makers, rename_uses

_BATCH = "batch"
_PLAIN = 1e-4  # the tolerance where none is asked for
_HALF = 1e-2  # what a file gives in 16 bits is compared within


def as_original(proto: onnx.ModelProto, interface: Interface, names: Sequence[str]) -> None:
    """Give a graph the names, types and layout of another file's inputs and outputs, in place.

    A batch that was fixed there stays free: whoever fed that batch may go on.

    Args:
        proto: as torch exports it, with inputs and outputs in the same order, in float32 and (N, C, H, W)
        interface: of the other file
        names: of the inputs, in that order; what nothing reads torch leaves out
    """
    graph = proto.graph
    _add_unread(graph, interface, names)
    ports = {port.name for port in (*interface.inputs, *interface.outputs)}
    _free_names(graph, ports)
    before, behind = list[onnx.NodeProto](), list[onnx.NodeProto]()
    for value, port in zip(graph.input, interface.inputs, strict=True):
        last, own = port.name, value.name
        kind = value.type.tensor_type.elem_type
        if port.kind != kind:
            cast = free_name(graph, f"{own}_cast", ports)
            before.append(helper.make_node("Cast", [last], [cast], cast, to=kind))
            last = cast
        dims: list[Any] = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if interface.channels_last:
            inverse = [TO_CHANNELS_LAST.index(axis) for axis in range(4)]
            turned = free_name(graph, f"{own}_turned", ports)
            before.append(helper.make_node("Transpose", [last], [turned], turned, perm=inverse))
            last, dims = turned, [dims[axis] for axis in TO_CHANNELS_LAST]
        rename_uses(graph, own, last)
        _set(value, port, dims)
    if interface.softmax:
        value, inside = graph.output[0], free_name(graph, f"{graph.output[0].name}_logits", ports)
        rename_uses(graph, value.name, inside)
        rename_makers(graph, value.name, inside)
        graph.node.append(helper.make_node("Softmax", [inside], [value.name], free_name(graph, "softmax"), axis=1))
    for value, port in zip(graph.output, interface.outputs, strict=True):
        own, kind = value.name, value.type.tensor_type.elem_type
        dims = [dim.dim_param or dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        if port.kind != kind:
            cast = free_name(graph, f"{own}_cast", ports)
            behind.append(helper.make_node("Cast", [own], [port.name], cast, to=port.kind))
        else:
            rename_uses(graph, own, port.name)
            rename_makers(graph, own, port.name)
        _set(value, port, dims)
    nodes = [*before, *graph.node, *behind]
    del graph.node[:]
    graph.node.extend(nodes)
    for name, value in interface.about.items():
        setattr(proto, name, value)
    graph.name = interface.graph or graph.name
    known = {entry.key: entry.value for entry in proto.metadata_props}
    helper.set_model_props(proto, {**interface.metadata, **known})


def _add_unread(graph: onnx.GraphProto, interface: Interface, names: Sequence[str]) -> None:
    known = {value.name: value for value in graph.input}
    if len(known) == len(interface.inputs):
        return
    inputs = []
    for name, port in zip(names, interface.inputs, strict=True):
        inputs.append(known.get(name, helper.make_tensor_value_info(name, port.kind, [_BATCH, *port.sizes[1:]])))
    del graph.input[:]
    graph.input.extend(inputs)


def _set(value: onnx.ValueInfoProto, port: Port, dims: list[Any]) -> None:
    """Name, type and sizes; what an axis that varies is called is the other file's."""
    names = [size if isinstance(size, str) and size else None for size in port.sizes]
    sizes = list[Any]()
    for place, size in enumerate(dims):
        own = port.sizes[place] if place < len(port.sizes) else None
        if isinstance(size, str) or size is None:  # torch's older exporter leaves sizes open that it does not infer
            sizes.append(own if place and isinstance(own, int) else (own or size))
        else:
            sizes.append(size)
    if sizes and (isinstance(dims[0], str) or dims[0] is None):
        sizes[0] = (names[0] if names else None) or _BATCH
    value.CopyFrom(helper.make_tensor_value_info(port.name, port.kind, sizes))


def _free_names(graph: onnx.GraphProto, wanted: set[str]) -> None:
    """Give other names to what a graph calls by names that its inputs and outputs will have."""
    for number, value in enumerate(graph.input):
        other = free_name(graph, f"taken_{number}_inside", wanted)
        rename_uses(graph, value.name, other)
        value.name = other
    made = {name for node in graph.node for name in node.output} | {weight.name for weight in graph.initializer}
    for name in sorted(wanted & made):
        other = free_name(graph, f"{name}_inside", wanted)
        rename_uses(graph, name, other)
        rename_makers(graph, name, other)
        for value in graph.output:
            value.name = other if value.name == name else value.name


def tolerance_of(interface: Interface | None, asked: float) -> float:
    """The largest relative error of a file: what is asked for; if that is not strict, more where numbers have 16 bits.

    Args:
        interface: of the original, if there is one
        asked: for
    """
    return max(asked, _HALF) if interface is not None and interface.is_half and asked >= _PLAIN else asked


def opset_of(interface: Interface | None, asked: int | None, usual: int, known: tuple[int, int]) -> int:
    """The operator set of a file to be written: what is asked for, else that of the original, else the usual one.

    Args:
        interface: of the original, if there is one
        asked: for; None: nothing is
        usual: otherwise
        known: the least and the largest that can be written
    """
    if asked is not None:
        return asked
    return usual if interface is None else min(max(interface.opset, known[0]), known[1])
