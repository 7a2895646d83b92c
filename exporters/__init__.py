"""From a trained torch module to one checked ONNX file. Names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.lazy import lazily

if TYPE_CHECKING:
    from .also import export_also, exporters
    from .form import INPUT, OUTPUT_KIND, Form, finish, samples_of
    from .onnx_file import Exported, Parity, export_onnx, measure_parity, write_metadata
    from .onnx_network import OnnxModule, OnnxNetwork, WithSoftmax
    from .precisions.int8 import SCHEMES, Scheme, to_int8
    from .probe import export_probe

_HOME = {
    "INPUT": "form",
    "OUTPUT_KIND": "form",
    "SCHEMES": "compressor.exporters.precisions.int8",
    "Form": "form",
    "export_also": "also",
    "exporters": "also",
    "Scheme": "compressor.exporters.precisions.int8",
    "finish": "form",
    "samples_of": "form",
    "to_int8": "compressor.exporters.precisions.int8",
    "Exported": "onnx_file",
    "OnnxModule": "onnx_network",
    "OnnxNetwork": "onnx_network",
    "Parity": "onnx_file",
    "WithSoftmax": "onnx_network",
    "export_onnx": "onnx_file",
    "export_probe": "probe",
    "measure_parity": "onnx_file",
    "write_metadata": "onnx_file",
}
__all__ = [
    "INPUT",
    "OUTPUT_KIND",
    "SCHEMES",
    "Exported",
    "Form",
    "OnnxModule",
    "OnnxNetwork",
    "Parity",
    "Scheme",
    "WithSoftmax",
    "export_also",
    "export_onnx",
    "export_probe",
    "exporters",
    "finish",
    "measure_parity",
    "samples_of",
    "to_int8",
    "write_metadata",
]


__getattr__, __dir__ = lazily(__name__, _HOME)
