"""What is read off a node of an ONNX graph by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from compressor.models.from_onnx.values import Host, UnsupportedError, host_of


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values; constants as host values."""
    found = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, TensorProto):
            value = host_of(value)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif isinstance(value, (tuple, list)):
            value = [one.decode(errors="replace") if isinstance(one, bytes) else one for one in value]
        found[attribute.name] = value
    return found


def read_by(node: onnx.NodeProto) -> list[str]:
    """What a node reads, within its graphs too."""
    inside = [body for one in node.attribute for body in (one.g, *one.graphs)]
    return [*node.input, *(name for body in inside for inner in body.node for name in read_by(inner))]


def named(node: onnx.NodeProto) -> str:
    """What errors call a node."""
    return f"node {node.name or '/'.join(node.output)} ({node.op_type})"


def is_static(kind: str, place: int) -> bool:
    """Whether an input is a setting of its operator rather than data."""
    first = {"Reshape": 1, "Expand": 1, "Slice": 1, "Pad": 1, "Resize": 1, "Upsample": 1, "Tile": 1, "TopK": 1}
    first |= {"Squeeze": 1, "Unsqueeze": 1, "Split": 1, "CumSum": 1, "Trilu": 1, "OneHot": 1, "Clip": 1}
    first |= {"ConstantOfShape": 0, "Range": 0}
    return place >= first.get(kind, 1 if kind.startswith("Reduce") else 99)


def constant_of(attributes: Mapping[str, Any]) -> Host:
    """What a Constant holds.

    Raises:
        UnsupportedError: a text, or a sparse tensor
    """
    for name, value in attributes.items():
        if name == "value":
            return np.asarray(value)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, dtype=np.int64)
        raise UnsupportedError(f"attribute {name}")
    raise UnsupportedError("no value")
