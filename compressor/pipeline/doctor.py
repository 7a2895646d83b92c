"""Which ONNX Runtime providers really run a model on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from compressor.bench import BenchError, open_session
from compressor.bench.providers import PROVIDERS
from compressor.errors import UnavailableError


def providers() -> dict[str, str]:
    """{provider: "works", or why not}, found by opening a session with a one-node model."""
    answers = {}
    for provider in PROVIDERS[1:]:
        try:
            check_provider(provider)
            answers[provider] = "works"
        except UnavailableError as error:
            answers[provider] = f"does not work: {error}"
    return answers


def check_provider(provider: str) -> None:
    """Open a session with a one-node model.

    Raises:
        UnavailableError: the provider does not run here
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        onnx.save_model(_probe(), path)
        try:
            open_session(path, provider=provider)
        except BenchError as error:
            raise UnavailableError(str(error).replace(f"{path}: ", "")) from error


def _probe() -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
