"""Exports of images by torch's older exporter: in a second instead of ten, for tests that are not about the export."""

import tempfile
from pathlib import Path

import onnx
import torch

from compressor.exporters import onnx_file


def traced(model, example, opset):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx_file.export_by_tracing(model, torch.cat([example, example])[:2].cpu().float(), path, min(opset, 18))
        return onnx.load(path)


REAL = onnx_file._export_images


def exporting_by_tracing(replace):
    """Replace the exporter: `replace` is setattr, or a MonkeyPatch's."""
    replace(onnx_file, "_export_images", traced)


def exporting_for_real(replace):
    """Put the exporter back."""
    replace(onnx_file, "_export_images", REAL)
