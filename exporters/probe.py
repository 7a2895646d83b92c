"""An untrained network as an ONNX file to measure, made in a tenth of the time of a checked export."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from compressor.errors import ExportError

from .onnx_file import INPUT, OUTPUT, export_onnx

_OPSET = 18  # known to torch's older exporter; what ONNX Runtime makes of the graph does not depend on it


def export_probe(model: nn.Module, path: Path, images: torch.Tensor, *, opset: int) -> None:
    """Write a file whose latency is near that of the shipped one.

    torch's older exporter takes 0.3 to 0.8 s where the newer one takes 6 to 15 s. ONNX Runtime fuses most graphs of
    both to the same kernels (VGG, ResNet, MobileNetV2, DenseNet: equal within 2 %), but not all: ShuffleNet V2 takes
    1.7 times as long at batch 1. The caller must compare. What it cannot export, or a torch without it, goes through
    `export_onnx`.

    Args:
        model: on the CPU; its weights do not matter
        path: of the file; the folder exists and is the caller's own
        images: (N, C, H, W), N at least 2
        opset: operator set of the newer exporter

    Raises:
        ExportError: neither can export it
    """
    model.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (images,),
                str(path),
                dynamo=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                opset_version=_OPSET,
            )
    except Exception as error:  # it raises what it likes
        try:
            export_onnx(model, path, [images], opset=opset, tolerance=float("inf"))
        except ExportError as other:
            raise other from error
