"""Stand-ins for what takes seconds and has tests of its own: the export of images, the drawing of figures."""

import itertools
import tempfile
from pathlib import Path

import onnx
import torch

from compressor.bench import machine_fingerprint
from compressor.exporters import onnx_file
from compressor.report import svg


def traced(model, example, opset):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx_file.export_by_tracing(model, torch.cat([example, example])[:2].cpu().float(), path, min(opset, 18))
        return onnx.load(path)


def traced_own(model, inputs, opset):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx_file.export_own_by_tracing(model, inputs.of_batch(3), path, min(opset, 18))
        return onnx.load(path)


REAL = {"_export_images": onnx_file._export_images, "_export_own": onnx_file._export_own}


def blocks(channels):
    """What the cache holds where so many channels were found to be computed at once, however models are run."""
    machine = "{id}-{onnxruntime}".format(**machine_fingerprint())
    ways = itertools.product(("auto", "cpu"), (None, 1, 2), range(1, 9))
    return {f"{machine}-{provider}-{threads}-{batch}": channels for provider, threads, batch in ways}


def exporting_by_tracing(replace):
    """Export by torch's older exporter, in a second instead of ten: `replace` is setattr, or a MonkeyPatch's."""
    replace(onnx_file, "_export_images", traced)
    replace(onnx_file, "_export_own", traced_own)


def exporting_for_real(replace):
    """Put the exporter back."""
    for name, real in REAL.items():
        replace(onnx_file, name, real)


def leaving_out_figures(replace):
    """Fill the figures of a report, but do not draw them."""
    replace(svg, "_document", lambda figure: "<svg>\n</svg>")
