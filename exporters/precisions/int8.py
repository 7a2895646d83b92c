"""Int8: quantisation by ONNX Runtime's own tools, static in QDQ form, or of LSTMs and matrix products dynamic.

Which integer types are fast depends on the machine: the dot products of x86 CPUs multiply unsigned activations by
signed weights, TensorRT wants both signed. So a scheme is chosen by measuring (`scheme_choice`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
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
_NORMS, _MEANS = (
    ("BatchNormalization", "InstanceNormalization", "LayerNormalization"),
    ("GlobalAveragePool", "ReduceMean"),
)
_BESIDE = (  # operators that ONNX Runtime quantises beside the convolutions and matrix products
    *("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Relu", "Resize", "Sigmoid"),
    *("Softmax", "Where", *_NORMS),
)
_SQUEEZED = "squeeze-excite Conv"
_QUANTISED = (
    *("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"),
    *("DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"),
)
_DYNAMIC, _DYNAMICALLY = "dynamic", ("LSTM", "MatMul", "Gemm", "Gather")


@dataclass(frozen=True)
class Scheme:
    """How numbers become integers.

    Attributes:
        activations: "u8" (any zero point) or "s8" (zero point 0, as TensorRT asks for); "dynamic": 8 bits in the range
            of each input as it comes, of LSTMs and matrix products alone
        weights: "s8" or "u8"
        per_channel: a scale for every output channel of a weight, rather than one
        reduced: weights of 7 bits, which cannot overflow on x86 CPUs without VNNI instructions
        calibration: how ranges follow from what samples give: "minmax"; "entropy" and "percentile" cut off what is rare
        floats: kinds of nodes that stay float32, as `_kind` names them
    """

    activations: str
    weights: str
    per_channel: bool = False
    reduced: bool = False
    calibration: str = "minmax"
    floats: tuple[str, ...] = ()

    @property
    def dynamic(self) -> bool:
        """Whether ranges of activations are found when the file runs."""
        return self.activations == _DYNAMIC

    @property
    def name(self) -> str:
        """Such as "u8s8 per-channel, entropy, float Add and Mul"."""
        types = f"{self.activations}{' ' * self.dynamic}{self.weights}"
        parts = [f"{types}{' 7-bit' * self.reduced}{' per-channel' * self.per_channel}"]
        if self.calibration != "minmax":
            parts.append(self.calibration)
        if self.floats:
            parts.append(f"float {' and '.join(self.floats)}")
        return ", ".join(parts)

    @classmethod
    def named(cls, name: str) -> Scheme:
        """The scheme of a name."""
        kinds, *more = name.split(", ")
        types, *flags = kinds.removeprefix(f"{_DYNAMIC} ").split(" ")
        activations = _DYNAMIC if kinds.startswith(_DYNAMIC) else types[:2]
        floats = next((part.removeprefix("float ") for part in more if part.startswith("float ")), "")
        return cls(
            activations,
            types if activations == _DYNAMIC else types[2:],
            per_channel="per-channel" in flags,
            reduced="7-bit" in flags,
            calibration=next((part for part in more if part in CALIBRATIONS), "minmax"),
            floats=tuple(floats.split(" and ")) if floats else (),
        )


SCHEMES = {
    scheme.name: scheme
    for per_channel in (False, True)
    for scheme in (
        Scheme("u8", "s8", per_channel),
        Scheme("u8", "s8", per_channel, reduced=True),
        Scheme("s8", "s8", per_channel),
        Scheme("u8", "u8", per_channel),
        Scheme(_DYNAMIC, "s8", per_channel),
        Scheme(_DYNAMIC, "s8", per_channel, reduced=True),
    )
}


def schemes_of(source: Path) -> dict[str, Scheme]:
    """The schemes that suit a file: dynamic ones make convolutions slow, and static ones leave an LSTM in float32."""
    import onnx

    from compressor.exporters.graph_names import nodes_of

    kinds = {node.op_type for node in nodes_of(onnx.load_model(source, load_external_data=False).graph)}
    dynamic, static = "LSTM" in kinds or "Conv" not in kinds, "LSTM" not in kinds or "Conv" in kinds
    return {name: one for name, one in SCHEMES.items() if (dynamic if one.dynamic else static)}


CALIBRATIONS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}  # our name: ONNX Runtime's


def variants(scheme: Scheme, source: Path, *, sized: bool, scored: bool) -> list[Scheme]:
    """Schemes that differ from one in one respect and may be more accurate or faster for this file.

    Other ways to find ranges, and kinds of nodes in float32: each kind of convolution and norm, and all operators
    beside these together, for alone they would only have integers on both sides again. Squeeze-excite means lose
    accuracy, and depth-wise convolutions and elementwise operators may take longer in integers than in float32. Where
    the size of the file counts, nothing more stays float32; where no scores are taken, ranges make no difference.
    """
    import onnx

    if scheme.dynamic:
        return []
    others = [replace(scheme, calibration=name) for name in CALIBRATIONS if scored and name != scheme.calibration]
    if sized:
        return others
    graph = onnx.load_model(source, load_external_data=False).graph
    kinds = {kind for kind in _kinds(graph).values() if kind is not None} - set(scheme.floats)
    together = kinds & {*_BESIDE, _SQUEEZED}
    sets = [{kind} for kind in sorted(kinds - set(_BESIDE))] + [{kind} for kind in _NORMS if kind in kinds]
    if together and together not in sets:
        sets.append(together)
    return others + [replace(scheme, floats=tuple(sorted({*scheme.floats, *some}))) for some in sets]


def joined(best: Scheme, others: Sequence[Scheme]) -> Scheme:
    """A scheme that has of several ones what each changes; the first one's calibration that is another counts."""
    floats = {kind for one in (best, *others) for kind in one.floats}
    calibrations = [one.calibration for one in others if one.calibration != best.calibration]
    return replace(best, floats=tuple(sorted(floats)), calibration=next(iter(calibrations), best.calibration))


def _kinds(graph: onnx.GraphProto) -> dict[str, str | None]:
    """{name of a node: its kind, if it may stay float32}; the convolutions and products that are the work have none."""
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    pooled: set[str] = set()  # values that are means over a map, and what follows from these alone
    found: dict[str, str | None] = {}
    for node in graph.node:
        within = [name for name in node.input if name and name not in shapes]
        squeezed = bool(within) and pooled.issuperset(within)
        if node.op_type in _MEANS or squeezed:
            pooled.update(node.output)
        found[node.name] = _SQUEEZED if squeezed and node.op_type == "Conv" else _kind(node, shapes)
    return found


def _kind(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    if node.op_type != "Conv":
        return node.op_type if node.op_type in _BESIDE else None
    shape = shapes.get(node.input[1], ())
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    if groups > 1:
        return "depth-wise Conv" if shape[1:2] == (1,) else "grouped Conv"
    return "1x1 Conv" if shape[2:] and set(shape[2:]) == {1} else None


def to_int8(source: Path, target: Path, scheme: Scheme, samples: Sequence[NDArray[Any]]) -> None:
    """Quantise a file: statically, with QuantizeLinear and DequantizeLinear nodes around what becomes integer; or
    dynamically, where LSTMs become ONNX Runtime's own operators.

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
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from compressor.exporters.onnx_network import OnnxNetwork
    from compressor.models.onnx_reading import opset_in

    # Histograms of batches of several sizes are refused; ranges are not.
    taken = [batch for batch in samples if scheme.calibration == "minmax" or batch.shape == samples[0].shape]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            network = OnnxNetwork(source, threads=1)
            self._feeds = (network.feed(torch.from_numpy(batch)) for batch in taken)

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
        bare = onnx.load_model(prepared)
        graph = bare.graph
        kept = [*_last_softmax(graph), *(name for name, kind in _kinds(graph).items() if kind in scheme.floats)]
        how: dict[str, Any] = {
            "per_channel": scheme.per_channel,
            "reduce_range": scheme.reduced,
            "weight_type": types[scheme.weights],
            "nodes_to_exclude": kept,
        }
        if scheme.dynamic:
            _drop_shapes_of_weights(graph)
            onnx.save_model(bare, prepared)
            quantize_dynamic(str(prepared), str(made), op_types_to_quantize=list(_DYNAMICALLY), **how)
        else:
            quantize_static(
                str(prepared),
                str(made),
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=types[scheme.activations],
                calibrate_method=CalibrationMethod[CALIBRATIONS[scheme.calibration]],
                extra_options={"ActivationSymmetric": scheme.activations == "s8"},
                **how,
            )
        proto = onnx.load_model(made)
        _drop_unused_domains(proto)
        known = {entry.key: entry.value for entry in onnx.load_model(source).metadata_props}
        onnx.helper.set_model_props(proto, known)
        onnx.checker.check_model(proto)
    replace_atomic(target, lambda beside: onnx.save_model(proto, beside))


def _drop_shapes_of_weights(graph: onnx.GraphProto) -> None:
    """Take off what is noted of the shapes of weights, which dynamic quantisation transposes and then finds wrong."""
    weights = {weight.name for weight in graph.initializer}
    kept = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)


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
    suiting=schemes_of,
    named=Scheme.named,
    variants=variants,
    joined=joined,
    largest=tuple(name for name, scheme in SCHEMES.items() if scheme.per_channel and not scheme.reduced),
    # A file of a trained network has a node more or less than that of an untrained one: where a range of activations
    # begins at 0, the ReLU before it is left out.
    spare=8,
    recognise=_recognise,
    remark=_remark,
    simulated=_simulated,
)
