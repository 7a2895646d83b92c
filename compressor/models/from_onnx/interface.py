"""What a file was like from outside, so that the compressed one can stand in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx import TensorProto
from torch import fx, nn

from compressor.models.from_onnx.file import FLOATS, OnnxFile, Port
from compressor.models.from_onnx.operator import Operator

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_ABOUT = ("doc_string", "domain", "model_version")
_SAME_VALUES = ("Flatten", "Reshape", "Squeeze")  # between a softmax and the output
_KEY = "onnx_interface"  # in the `meta` of a GraphModule, which its copies keep
TO_CHANNELS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True)
class Interface:
    """Inputs, outputs, operator set and metadata of a file.

    Attributes:
        inputs: in the order in which the network takes them
        outputs: in the order in which it gives them
        opset: of the file
        softmax: whether its output is the softmax over axis 1 of what the network gives
        channels_last: whether its images are (N, H, W, C); the network's are (N, C, H, W)
        metadata: the file's own entries
        about: its `doc_string`, `domain` and `model_version`, those that say something
        graph: name of its graph
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    channels_last: bool = False
    softmax: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str | int] = field(default_factory=dict)
    graph: str = ""

    @property
    def is_half(self) -> bool:
        """Whether it takes or gives values of 16 bits."""
        return any(port.kind in _HALVES for port in (*self.inputs, *self.outputs))

    @property
    def is_plain(self) -> bool:
        """Whether it takes float images and gives one tensor, as networks of our own do."""
        taken = self.inputs[0]
        return len(self.inputs) == len(self.outputs) == 1 and taken.is_float and len(taken.sizes) == 4


def is_channels_last(file: OnnxFile, layout: str) -> bool:
    """Whether a file takes images (N, H, W, C).

    Args:
        file: any
        layout: "nchw", "nhwc", or "auto": by which axis has one or three channels
    """
    if not file.takes_images or layout == "nchw":
        return False
    sizes = file.inputs[0].sizes
    return layout == "nhwc" or (sizes[3] in (1, 3) and sizes[1] not in (1, 3))


def keep_interface_(network: fx.GraphModule, file: OnnxFile, *, channels_last: bool) -> None:
    """Note what a file is like from outside in the network made of it; images become (N, C, H, W).

    A softmax over classes at the end, which nothing else reads, is taken off: networks are trained on logits.

    Args:
        network: changed in place
        file: that it was made of
        channels_last: see `is_channels_last`
    """
    if channels_last:
        _turn_images_(network)
    softmax = file.takes_images and len(file.outputs) == 1 and _without_softmax_(network)
    own = {entry.key: entry.value for entry in file.proto.metadata_props}
    metadata = {key: value for key, value in own.items() if not key.startswith("compressor.")}  # of another run of ours
    about = {name: value for name in _ABOUT if (value := getattr(file.proto, name))}
    graph = file.proto.graph.name
    interface = Interface(file.inputs, file.outputs, file.opset, channels_last, softmax, metadata, about, graph)
    network.meta[_KEY] = interface  # which copies keep
    setattr(network, _KEY, interface)  # which pickled ones keep


def interface_of(network: nn.Module) -> Interface | None:
    """What the file was like that a network was made of; None: it is of none."""
    found = getattr(network, "meta", {})
    interface = found.get(_KEY) if isinstance(found, dict) else None
    interface = interface or getattr(network, _KEY, None)
    return interface if isinstance(interface, Interface) else None


def lacks_softmax(network: nn.Module) -> bool:
    """Whether a network gives logits (N, classes) where the file that it was made of gives their softmax."""
    interface = interface_of(network)
    return interface is not None and interface.softmax


def _without_softmax_(network: fx.GraphModule) -> bool:
    """Take off the softmax of (N, classes), or (N, classes, 1, 1) flattened, that a network ends with; whether there
    is one.
    """
    output = next(node for node in network.graph.nodes if node.op == "output")
    shapes = network.meta.get("shapes", {})
    (last,) = output.args
    while isinstance(last, fx.Node) and _keeps_values(network, last) and len(last.users) == 1:
        last = last.args[0]
    if not isinstance(last, fx.Node) or _kind_of(network, last) != "Softmax" or len(last.users) > 1:
        return False
    module = network.get_submodule(str(last.target))
    assert isinstance(module, Operator)
    shape, (before,) = shapes.get(last.name, ()), last.args
    axis = module.attribute("axis", -1 if module.version >= 13 else 1)
    if len(shape) < 2 or any(size != 1 for size in shape[2:]) or axis % len(shape) != 1:
        return False
    if not isinstance(before, fx.Node) or shapes.get(output.args[0].name) != shape[:2]:
        return False
    last.replace_all_uses_with(before)
    network.graph.erase_node(last)
    network.delete_all_unused_submodules()
    network.recompile()
    return True


def _keeps_values(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node gives the values that it takes, in another shape or float type perhaps."""
    kind = _kind_of(network, node)
    module: Any = network.get_submodule(str(node.target)) if kind else None
    return kind in _SAME_VALUES or (kind == "Cast" and module.attribute("to", 0) in FLOATS)


def _kind_of(network: fx.GraphModule, node: fx.Node) -> str:
    """The operator of ONNX that a node is; "": it is none of ours."""
    module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module.kind if isinstance(module, Operator) else ""


def _turn_images_(network: fx.GraphModule) -> None:
    taken = next(node for node in network.graph.nodes if node.op == "placeholder")
    turn = Operator("Transpose", 13, {"perm": list(TO_CHANNELS_LAST)}, ["given"])
    network.add_submodule("to_channels_last", turn.eval())
    with network.graph.inserting_after(taken):
        added = network.graph.call_module("to_channels_last", (taken,))
    taken.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
    network.graph.lint()
    network.recompile()
