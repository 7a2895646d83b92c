"""Networks of the zoo as files to measure; their weights are random, which does not change the latency."""

from __future__ import annotations

from pathlib import Path


def export_untrained(model: str, width: float, path: Path) -> Path:
    """Write a network for 10 classes of 3×32×32 images, widths multiplied by `width`."""
    # Not at the top: processes that only measure import the experiments, and torch would share their cores.
    import torch

    from compressor.exporters import export_onnx
    from compressor.models import build, reference_architecture

    architecture = reference_architecture(model, {}, 10, (3, 32, 32), width)
    batches = [torch.randn(size, *architecture.input_shape) for size in (2, 3)]
    export_onnx(build(architecture), path, batches, tolerance=1.0)
    return path
