"""Module paths for the nodes of an ONNX graph: those of the network that it was exported from, as far as it tells."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import onnx
from torch import fx, nn

_WEIGHT = (".weight", "_weight", ".kernel", "/kernel", ".w", ".W", "/Conv2D/ReadVariableOp")
_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
_SCOPES = "pkg.torch.onnx.name_scopes"
_RESERVED = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


def module_paths(nodes: Sequence[onnx.NodeProto], weights: Mapping[str, object]) -> list[str]:
    """A path for every node, of which none is the beginning of another.

    Args:
        nodes: of the graph
        weights: names of its constants
    """
    scopes = [_scope(node) for node in nodes]
    outer = {start for scope in scopes for start in _beginnings(scope)}
    heavy = [scope for node, scope in zip(nodes, scopes, strict=True) if scope and node.op_type in _HEAVY]
    counts, layers = Counter(filter(None, scopes)), Counter(heavy)
    # A scope without others in it is a layer: its only node, or the only one with weights, has its path.
    lonely = {s for s, count in counts.items() if s not in outer and (count == 1 or layers[s] == 1)}
    wanted = []
    for node, scope in zip(nodes, scopes, strict=True):
        named = next((path for name in node.input[1:] if name in weights and (path := _of_weight(name))), None)
        if named is None and scope:
            alone = scope in lonely and (counts[scope] == 1 or node.op_type in _HEAVY)
            named = scope if alone else f"{scope}{'_' if scope in lonely else '.'}{node.op_type.lower()}"
        wanted.append(_clean(named or node.name or node.op_type.lower()))
    return _distinct(wanted)


def _of_weight(name: str) -> str | None:
    for tail in _WEIGHT:
        if name.endswith(tail) and len(name) > len(tail) and "::" not in name:
            return name[: -len(tail)]
    return None


def _scope(node: onnx.NodeProto) -> str:
    """The module that a node was in, of /layer1/layer1.0/conv1/Conv: layer1.0.conv1."""
    told = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    if told:  # ['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d_1'] of torch's newer exporter
        inside = re.findall(r"'([^']*)'", told)[:-1]
        return inside[-1] if inside else ""
    if not node.name.startswith("/"):
        return ""
    path: list[str] = []
    for part in node.name.strip("/").split("/")[:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path)


def _clean(text: str) -> str:
    """A module path of it: names with letters, digits and underscores."""
    parts = []
    for part in re.split(r"[./]+", text):
        name = re.sub(r"\W+", "_", part, flags=re.ASCII).strip("_")
        if name:
            parts.append(f"{name}_" if name in _RESERVED or keyword.iskeyword(name) else name)
    return ".".join(parts) or "node"


def _distinct(wanted: Sequence[str]) -> list[str]:
    taken: set[str] = set()
    inner: set[str] = set()  # beginnings of paths
    for path in wanted:
        inner.update(_beginnings(path))
    found = []
    for path in wanted:
        name, count = path, 1
        while name in taken or name in inner or any(start in taken for start in _beginnings(name)):
            name, count = f"{path}_{count}", count + 1
        taken.add(name)
        found.append(name)
    return found


def _beginnings(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
