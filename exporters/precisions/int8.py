"""Int8: static quantisation in QDQ form, by ONNX Runtime's own tools.

Which integer types are fast depends on the machine: the dot products of x86 CPUs multiply unsigned activations by
signed weights, TensorRT wants both signed. So a scheme is chosen by measuring (`scheme_choice`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError
from compressor.exporters.conversion import converting
from compressor.files import replace_atomic
from compressor.recipe.precision import Precision

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray
    from torch import nn

_BY_CHANNEL = 13  # operator set from which on a weight may have a scale for each channel
_FORMING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger")


@dataclass(frozen=True)
class Scheme:
    """How numbers become integers.

    Attributes:
        activations: "u8" (any zero point) or "s8" (zero point 0, as TensorRT asks for)
        weights: "s8" or "u8"
        per_channel: a scale for every output channel of a weight, rather than one
        reduced: weights of 7 bits, which cannot overflow on x86 CPUs without VNNI instructions
    """

    activations: str
    weights: str
    per_channel: bool = False
    reduced: bool = False

    @property
    def name(self) -> str:
        """Such as "u8s8 per-channel"."""
        return f"{self.activations}{self.weights}{' 7-bit' * self.reduced}{' per-channel' * self.per_channel}"


SCHEMES = {
    scheme.name: scheme
    for per_channel in (False, True)
    for scheme in (
        Scheme("u8", "s8", per_channel),
        Scheme("u8", "s8", per_channel, reduced=True),
        Scheme("s8", "s8", per_channel),
        Scheme("u8", "u8", per_channel),
    )
}


def to_int8(source: Path, target: Path, scheme: Scheme, samples: Sequence[NDArray[Any]]) -> None:
    """Quantise a file statically, with QuantizeLinear and DequantizeLinear nodes around what becomes integer.

    Args:
        source: a float32 file with one input
        target: of the quantised file; written whole or not at all
        scheme: types of the integers
        samples: inputs of the network, batches; the ranges of activations are theirs

    Raises:
        ExportError: ONNX Runtime cannot quantise it
    """
    import onnx
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from compressor.exporters.onnx_network import OnnxNetwork
    from compressor.models.onnx_reading import opset_in

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            network = OnnxNetwork(source, threads=1)
            self._feeds = (network.feed(torch.from_numpy(batch)) for batch in samples)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._feeds, None)

    types = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
    with tempfile.TemporaryDirectory(prefix="compressor-", dir=target.parent) as folder, converting("int8", source):
        version = opset_in(onnx.load_model(source, load_external_data=False))
        if scheme.per_channel and version < _BY_CHANNEL:  # ONNX Runtime would write it, and read it
            raise ExportError(
                f"export.precision: int8: operator set {version} has no scales by channel; valid: export.opset of "
                f"{_BY_CHANNEL} or more"
            )
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        # In 8 bits probabilities near 0 would be 0, and those of a sample would not add up to 1.
        kept = _last_softmax(onnx.load_model(prepared, load_external_data=False).graph)
        quantize_static(
            str(prepared),
            str(made),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=scheme.per_channel,
            reduce_range=scheme.reduced,
            activation_type=types[scheme.activations],
            weight_type=types[scheme.weights],
            nodes_to_exclude=kept,
            extra_options={"ActivationSymmetric": scheme.activations == "s8"},
        )
        proto = onnx.load_model(made)
        _drop_unused_domains(proto)
        known = {entry.key: entry.value for entry in onnx.load_model(source).metadata_props}
        onnx.helper.set_model_props(proto, known)
        onnx.checker.check_model(proto)
    replace_atomic(target, lambda beside: onnx.save_model(proto, beside))


def _last_softmax(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that make probabilities of what a graph gives, whatever brings these into form behind."""
    makers = {name: node for node in graph.node for name in node.output}
    found = []
    for value in graph.output:
        node = makers.get(value.name)
        while node is not None and node.op_type in _FORMING:
            node = makers.get(node.input[0])
        if node is not None and node.op_type == "Softmax" and node.name:
            found.append(node.name)
    return found


def _drop_unused_domains(proto: onnx.ModelProto) -> None:
    """Take off operator sets that the preparation adds and no node is of."""
    import onnx

    from compressor.exporters.graph_names import nodes_of

    graphs = [proto.graph, *(onnx.helper.make_graph(function.node, "", [], []) for function in proto.functions)]
    used = {"", "ai.onnx", *(node.domain for graph in graphs for node in nodes_of(graph))}
    kept = [entry for entry in proto.opset_import if entry.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def _recognise(graph: onnx.GraphProto) -> bool:
    return any(node.op_type in _QUANTISED for node in graph.node)


def _remark(path: Path, provider: str, measured: Mapping[str, Any]) -> str | None:
    times = measured["fp32"]["median_ms"] / measured["schemes"][measured["chosen"]]["median_ms"]
    return f"int8 takes {1 / times:.2f} times as long as fp32 on this provider" if times < 1 else None


def _simulated(model: nn.Module) -> AbstractContextManager[Any]:
    from compressor.training.fake_quantization import fake_quantized

    return fake_quantized(model)


PRECISION = Precision(
    name="int8",
    title="8-bit integers",
    bytes_of_value=1,
    convert=to_int8,
    schemes=SCHEMES,
    largest=tuple(name for name, scheme in SCHEMES.items() if scheme.per_channel and not scheme.reduced),
    # A file of a trained network has a node more or less than that of an untrained one: where a range of activations
    # begins at 0, the ReLU before it is left out.
    spare=8,
    recognise=_recognise,
    remark=_remark,
    simulated=_simulated,
)
