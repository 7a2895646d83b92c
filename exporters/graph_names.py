"""Names within an ONNX graph: free ones for what is added, and renaming."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx


def free_name(graph: onnx.GraphProto, wanted: str, reserved: Collection[str] = ()) -> str:
    """A name that nothing in a graph has, neither a value nor a node: the wanted one if it is free.

    Args:
        graph: its sub-graphs, which may read its values, count as well
        wanted: the name
        reserved: names that are not free either
    """
    taken = {*reserved, *_names(graph)}
    while wanted in taken:
        wanted += "_"
    return wanted


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of sub-graphs behind their own."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inside in (attribute.g, *attribute.graphs):
                yield from nodes_of(inside)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in nodes_of(graph):
        yield from (node.name, *node.input, *node.output)
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        yield value.name


def rename_uses(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let nodes read another value."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def rename_makers(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give what makes a value, a node or an initializer, another name for it; what is known of its shape goes."""
    for node in graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
    for weight in graph.initializer:
        weight.name = new if weight.name == old else weight.name
    kept = [value for value in graph.value_info if value.name != old]
    del graph.value_info[:]
    graph.value_info.extend(kept)
