"""Files of fewer bits: float16 and int8 (static quantisation in QDQ form), by ONNX Runtime's own tools.

Which integer types are fast depends on the machine: the dot products of x86 CPUs multiply unsigned activations by
signed weights, TensorRT wants both signed. So a scheme is chosen by measuring (`scheme_choice`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from compressor.errors import ExportError
from compressor.files import replace_atomic

Samples = Sequence[NDArray[Any]]


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


def to_fp16(source: Path, target: Path) -> None:
    """Turn weights and arithmetic to float16; inputs and outputs stay float32.

    Raises:
        ExportError: the converter fails, or ONNX's checker refuses what it made
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    try:
        with _quiet():
            converted = OnnxModel(convert_float_to_float16(onnx.load_model(source), keep_io_types=True))
            converted.topological_sort()  # the casts of inputs are appended at the end
        proto = converted.model
        onnx.checker.check_model(proto)
    except Exception as error:  # it raises what it likes
        raise ExportError(f"export.precision: fp16: cannot convert {source.name}: {_reason(error)}") from error
    replace_atomic(target, lambda beside: onnx.save_model(proto, beside))


def to_int8(source: Path, target: Path, scheme: Scheme, samples: Samples) -> None:
    """Quantise a file statically, with QuantizeLinear and DequantizeLinear nodes around what becomes integer.

    Args:
        source: a float32 file with one input
        target: of the quantised file; written whole or not at all
        scheme: types of the integers
        samples: inputs of the network, batches; the ranges of activations are theirs

    Raises:
        ExportError: ONNX Runtime cannot quantise it
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            name = onnx.load_model(source, load_external_data=False).graph.input[0].name
            self._feeds = ({name: batch} for batch in samples)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._feeds, None)

    types = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
    with tempfile.TemporaryDirectory(prefix="compressor-", dir=target.parent) as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        try:
            with _quiet():
                quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
                quantize_static(
                    str(prepared),
                    str(made),
                    Reader(),
                    quant_format=QuantFormat.QDQ,
                    per_channel=scheme.per_channel,
                    reduce_range=scheme.reduced,
                    activation_type=types[scheme.activations],
                    weight_type=types[scheme.weights],
                    extra_options={"ActivationSymmetric": scheme.activations == "s8"},
                )
            proto = onnx.load_model(made)
        except Exception as error:  # it raises what it likes
            raise ExportError(f"export.precision: int8: cannot quantise {source.name}: {_reason(error)}") from error
    known = {entry.key: entry.value for entry in onnx.load_model(source).metadata_props}
    onnx.helper.set_model_props(proto, known)
    replace_atomic(target, lambda beside: onnx.save_model(proto, beside))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that the quantiser logs: there is no one to take it."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logging.disable(before)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
