"""An untrained network as an ONNX file to measure, made in a tenth of the time of a checked export."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from compressor.dependency.inputs import AnyInputs, Inputs
from compressor.errors import ExportError

from .onnx_file import export_by_tracing, export_onnx, export_own_by_tracing
from .onnx_network import takes_tokens

_OPSET = 18  # known to torch's older exporter; what ONNX Runtime makes of the graph does not depend on it


def export_probe(model: nn.Module, path: Path, inputs: AnyInputs, *, opset: int | None) -> None:
    """Write a file whose latency is near that of the shipped one.

    torch's older exporter takes 0.3 to 0.8 s where the newer one takes 6 to 15 s. ONNX Runtime fuses most graphs of
    both to the same kernels (VGG, ResNet, MobileNetV2, DenseNet: equal within 2 %), but not all: ShuffleNet V2 takes
    1.7 times as long at batch 1. The caller must compare. What it cannot export, or a torch without it, goes through
    `export_onnx`, and so do networks of tokens, which are shipped through the older one.

    Args:
        model: on the CPU; its weights do not matter
        path: of the file; the folder exists and is the caller's own
        inputs: images (N, C, H, W) or tokens int64 (N, T), N at least 2; or inputs of its own
        opset: operator set of the newer exporter

    Raises:
        ExportError: neither can export it
    """
    model.eval()
    if not isinstance(inputs, Inputs) and takes_tokens(inputs):
        export_onnx(model, path, [inputs], opset=opset, tolerance=float("inf"))
        return
    try:
        if isinstance(inputs, Inputs):
            export_own_by_tracing(model, inputs, path, _OPSET)
        else:
            export_by_tracing(model, inputs, path, _OPSET)
    except Exception as error:  # it raises what it likes
        try:
            export_onnx(model, path, [inputs], opset=opset, tolerance=float("inf"))
        except ExportError as other:
            raise other from error
