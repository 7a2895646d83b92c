"""Names within an ONNX graph: free ones for what is added, and renaming."""

from __future__ import annotations

import onnx


def free_name(graph: onnx.GraphProto, wanted: str) -> str:
    """A name that nothing in a graph has, neither a value nor a node: the wanted one if it is free."""
    taken = {node.name for node in graph.node}
    taken.update(name for node in graph.node for name in (*node.input, *node.output))
    taken.update(value.name for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info))
    while wanted in taken:
        wanted += "_"
    return wanted


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
