"""ONNX graphs that no exporter of torch writes: made by hand, in the manner of Keras' converter and of old tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """A graph that grows node by node."""

    def __init__(self, opset: int, seed: int = 0) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.draw = np.random.default_rng(seed)

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """An initializer of given values; returns its name."""
        name = f"const_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """An initializer of random values."""
        spread = scale if scale is not None else 1.4 / np.sqrt(max(1, int(np.prod(shape[1:]))))
        return self.constant(self.draw.normal(0, spread, shape), np.float32)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output; returns that."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def model(self, inputs: dict[str, Sequence[int | str]], outputs: dict[str, Sequence[int | str]]) -> onnx.ModelProto:
        """The finished model; outputs are the names that nodes gave."""
        ports = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in side.items()]
            for side in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, "hand_made", *ports, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def _axes(graph: Graph, kind: str, x: str, axes: Sequence[int], since: int = 13, **more: Any) -> str:
    """An operator whose axes are an attribute before an operator set and an input since."""
    if graph.opset >= since:
        return graph.add(kind, x, graph.constant(list(axes)), **more)
    return graph.add(kind, x, axes=list(axes), **more)


def keras_style(opset: int) -> onnx.ModelProto:
    """Images (N, H, W, C), turned for every convolution and back; pads of their own; a dense layer with transB=0."""
    graph = Graph(opset)
    x = "images"
    channels = 3
    for width, stride in ((12, 2), (16, 1), (20, 2)):
        x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
        x = graph.add("Pad", x, graph.constant([0, 0, 0, 0, 0, 0, 1, 1]), mode="constant")
        x = graph.add(
            "Conv",
            x,
            graph.weight(width, channels, 3, 3),
            graph.weight(width),
            strides=[stride] * 2,
            kernel_shape=[3, 3],
        )
        x = graph.add("Clip", x, graph.constant(0.0, np.float32), graph.constant(6.0, np.float32))
        x = graph.add("Transpose", x, perm=[0, 2, 3, 1])
        channels = width
    x = _axes(graph, "ReduceMean", x, [1, 2], since=18, keepdims=0)
    x = graph.add("MatMul", x, graph.weight(20, 24, scale=0.3))
    x = graph.add("Add", x, graph.weight(24))
    x = graph.add("LeakyRelu", x, alpha=0.2)
    x = graph.add("Gemm", x, graph.weight(24, 10, scale=0.3), graph.weight(10), transB=0)
    return graph.model({"images": ("N", 32, 32, 3)}, {x: ("N", 10)})


def hard_swish(opset: int) -> onnx.ModelProto:
    """MobileNetV3's activation and gate written out, SAME pads, depth-wise convolutions, a frozen batch of 1."""
    graph = Graph(opset)
    x = graph.add(
        "Conv",
        "x",
        graph.weight(16, 3, 3, 3),
        graph.weight(16),
        strides=[2, 2],
        auto_pad="SAME_UPPER",
        kernel_shape=[3, 3],
    )
    three, six, zero = (graph.constant(value, np.float32) for value in (3.0, 6.0, 0.0))

    def swished(y: str) -> str:
        gate = graph.add("Clip", graph.add("Add", y, three), zero, six)
        return graph.add("Mul", y, graph.add("Div", gate, six))

    x = swished(x)
    wide = swished(graph.add("Conv", x, graph.weight(32, 16, 1, 1), graph.weight(32)))
    wide = graph.add(
        "Conv", wide, graph.weight(32, 1, 5, 5), graph.weight(32), group=32, auto_pad="SAME_LOWER", kernel_shape=[5, 5]
    )
    squeezed = graph.add("GlobalAveragePool", swished(wide))
    squeezed = graph.add("Relu", graph.add("Conv", squeezed, graph.weight(8, 32, 1, 1), graph.weight(8)))
    squeezed = graph.add("Conv", squeezed, graph.weight(32, 8, 1, 1), graph.weight(32))
    gate = graph.add("HardSigmoid", squeezed, alpha=1 / 6, beta=0.5)
    narrow = graph.add("Conv", graph.add("Mul", wide, gate), graph.weight(16, 32, 1, 1), graph.weight(16))
    x = graph.add("GlobalAveragePool", graph.add("Add", x, narrow))
    x = graph.add("Reshape", x, graph.constant([1, 16]))
    x = graph.add("Gemm", x, graph.weight(10, 16), graph.weight(10), transB=1)
    return graph.model({"x": (1, 3, 32, 32)}, {x: (1, 10)})


def grouped_signal(opset: int) -> onnx.ModelProto:
    """A signal (N, C, T): grouped and dilated convolutions over one axis, batch-norms, a reshape to a literal batch."""
    graph = Graph(opset)
    x = graph.add("Conv", "signal", graph.weight(16, 4, 5), pads=[2, 2], kernel_shape=[5])
    for dilation in (1, 2):
        y = graph.add(
            "Conv", x, graph.weight(16, 4, 3), group=4, dilations=[dilation], pads=[dilation] * 2, kernel_shape=[3]
        )
        y = graph.add(
            "BatchNormalization",
            y,
            graph.constant(np.linspace(0.5, 1.5, 16), np.float32),
            graph.weight(16, scale=0.1),
            graph.weight(16, scale=0.1),
            graph.constant(np.linspace(0.5, 2, 16), np.float32),
        )
        x = graph.add("Add", x, graph.add("Relu", y))
    x = graph.add("MaxPool", x, kernel_shape=[2], strides=[2])
    x = graph.add("Reshape", x, graph.constant([-1, 16 * 16]))
    x = graph.add("MatMul", x, graph.weight(16 * 16, 10, scale=0.1))
    return graph.model({"signal": ("N", 4, 32)}, {x: ("N", 10)})


def decoder(opset: int) -> onnx.ModelProto:
    """A segmentation network: strided convolutions, ConvTranspose, Resize, two branches joined, a class per pixel."""
    graph = Graph(opset)
    first = graph.add("Relu", graph.add("Conv", "x", graph.weight(8, 3, 3, 3), graph.weight(8), pads=[1] * 4))
    down = graph.add("Conv", first, graph.weight(16, 8, 3, 3), graph.weight(16), pads=[1] * 4, strides=[2, 2])
    down = graph.add("Relu", down)
    up = graph.add(
        "ConvTranspose",
        down,
        graph.weight(16, 8, 3, 3),
        graph.weight(8),
        strides=[2, 2],
        pads=[1] * 4,
        output_padding=[1, 1],
    )
    empty = "" if graph.opset >= 13 else graph.constant([], np.float32)
    scales = graph.constant([1, 1, 2, 2], np.float32)
    other = graph.add("Conv", down, graph.weight(6, 16, 1, 1), graph.weight(6))
    other = graph.add("Resize", other, empty, scales, mode="linear", coordinate_transformation_mode="half_pixel")
    x = graph.add("Concat", graph.add("Relu", up), other, first, axis=1)
    x = graph.add("Conv", x, graph.weight(5, 22, 1, 1), graph.weight(5))
    return graph.model({"x": ("batch", 3, 32, 32)}, {x: ("batch", 5, 32, 32)})


GRAPHS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "keras-style": keras_style,
    "hard-swish": hard_swish,
    "grouped-signal": grouped_signal,
    "decoder": decoder,
}


def arrays(model: onnx.ModelProto, batch: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Inputs for a model, drawn at random."""
    draw = np.random.default_rng(seed)
    found = {}
    for port in model.graph.input:
        sizes = [dim.dim_value or batch for dim in port.type.tensor_type.shape.dim]
        found[port.name] = draw.normal(size=sizes).astype(np.float32)
    return found
