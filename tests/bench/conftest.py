"""Tiny ONNX models, written by hand so that no exporter is needed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.bench import ProviderError, open_session

SaveLinear = Callable[..., Path]
FLOATS = ["float16", "float32", "float64"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES = [*FLOATS, *INTEGERS, "bool"]


@pytest.fixture
def save_linear(tmp_path: Path) -> SaveLinear:
    """Write x (shape, 13 features last) ──MatMul──▶ (…, 7) ──Relu──▶ y as an ONNX file."""

    def save(name: str = "linear.onnx", shape: Sequence[str | int] = ("N", 13)) -> Path:
        weight = numpy_helper.from_array(np.ones((13, 7), np.float32), "w")
        nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        return _save(helper.make_graph(nodes, "linear", [x], [y], [weight]), tmp_path / name)

    return save


@pytest.fixture
def every_dtype(tmp_path: Path) -> Path:
    """Write one Identity for each element type that can be fed, `in_<dtype>` (N, 3) ──▶ `out_<dtype>`."""
    inputs, outputs, nodes = [], [], []
    for dtype in DTYPES:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        inputs.append(helper.make_tensor_value_info(f"in_{dtype}", kind, ["N", 3]))
        outputs.append(helper.make_tensor_value_info(f"out_{dtype}", kind, ["N", 3]))
        nodes.append(helper.make_node("Identity", [f"in_{dtype}"], [f"out_{dtype}"]))
    return _save(helper.make_graph(nodes, "dtypes", inputs, outputs), tmp_path / "dtypes.onnx")


@pytest.fixture
def text_input(tmp_path: Path) -> Path:
    """Write an Identity on strings, which numpy cannot be asked to draw."""
    x = helper.make_tensor_value_info("text", TensorProto.STRING, ["N"])
    y = helper.make_tensor_value_info("y", TensorProto.STRING, ["N"])
    node = helper.make_node("Identity", ["text"], ["y"])
    return _save(helper.make_graph([node], "text", [x], [y]), tmp_path / "text.onnx")


@pytest.fixture
def cuda(save_linear: SaveLinear) -> None:
    """Skip the test where no CUDA session can be opened."""
    try:
        open_session(save_linear("probe.onnx"), provider="cuda")
    except ProviderError as error:
        pytest.skip(f"no CUDA session here: {error}")


def _save(graph: onnx.GraphProto, path: Path) -> Path:
    # An old IR and opset, so that every ONNX Runtime that setup.cfg allows reads it.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path
