"""Float16 weights and arithmetic, by ONNX Runtime's own converter; inputs and outputs too, or they stay float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError
from compressor.exporters.conversion import converting
from compressor.files import replace_atomic
from compressor.recipe.precision import Precision

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


_FATAL_ONLY = 4
_RECURRENT = ("GRU", "LSTM", "RNN")


def to_fp16(
    source: Path, target: Path, scheme: None = None, samples: Sequence[NDArray[Any]] = (), *, half_io: bool = False
) -> None:
    """Turn weights and arithmetic to float16, and floating inputs and outputs if these are to be.

    Raises:
        ExportError: the converter fails, or ONNX's checker or ONNX Runtime refuses what it made, as operators that have
            no float16
    """
    import onnx
    import onnxruntime
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    from compressor.exporters.graph_names import nodes_of

    with converting("fp16", source):
        kinds = sorted({node.op_type for node in nodes_of(onnx.load_model(source, load_external_data=False).graph)})
        if recurrent := [kind for kind in kinds if kind in _RECURRENT]:
            raise ExportError(
                f"export.precision: fp16: {source.name} has {recurrent[0]}, at which ONNX Runtime's CPU "
                "provider ends the process when it opens a file in float16; valid: fp32, int8"
            )
        converted = OnnxModel(convert_float_to_float16(onnx.load_model(source), keep_io_types=not half_io))
        converted.topological_sort()  # the casts of inputs are appended at the end
        proto = converted.model
        onnx.checker.check_model(proto)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY  # what goes wrong is raised
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    replace_atomic(target, lambda beside: onnx.save_model(proto, beside))


def _recognise(graph: onnx.GraphProto) -> bool:
    import onnx

    return any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer)


def _remark(path: Path, provider: str, measured: Mapping[str, Any]) -> str | None:
    from compressor.bench import runs_in_float32

    if not runs_in_float32(path, provider):
        return None
    return (
        f"the {provider} provider has no fp16 kernels for some of its operators and runs them as fp32: the file is "
        "smaller, not faster"
    )


PRECISION = Precision(
    name="fp16",
    title="16-bit floating point",
    bytes_of_value=2,
    tolerance=1e-2,
    convert=to_fp16,
    recognise=_recognise,
    remark=_remark,
    convert_all=partial(to_fp16, half_io=True),
)
