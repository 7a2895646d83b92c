"""Latency of a stacked layer in its three forms on ONNX Runtime: groups, blocks of 16 channels, dense with zeros.

    python experiments/stacked_latency.py

Units (2, k, 2) of 3×3 convolutions at the sizes of VGG16's stages, batch 16, one thread, the forms interleaved, beside
the dense pair of convolutions of the same width that a stacked layer replaces. Takes two minutes; the numbers go to
experiments/stacked_latency.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from record import write_result
from torch import nn

from compressor.bench import measure_latencies
from compressor.exporters import export_onnx
from compressor.models.stacked import everywhere, rearranged, stack_
from compressor.models.stacked.spec import Stack, spread

HERE = Path(__file__).parent
SIZES = ((64, 32), (128, 16), (256, 8), (512, 4), (512, 2))  # channels, side
KS = (2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    rows = [row for channels, side in SIZES for k in KS for row in [measured(channels, side, k, arguments)]]
    write_result(HERE / "stacked_latency.json", {"batch": arguments.batch, "threads": 1, "rows": rows})


def measured(channels: int, side: int, k: int, arguments: Any) -> dict[str, Any]:
    units = channels // 2
    stack = Stack("3", spread(channels, k * units, channels, units))
    model = pair(channels, stack.hidden)
    stack_(model, {"0": stack})
    forms = {
        "grouped": model,
        "blocks": rearranged(model, everywhere({"0": stack}, 16)),
        "dense": rearranged(model, everywhere({"0": stack}, None)),
        "normal pair": pair(channels, channels),
    }
    images = torch.randn(arguments.batch, channels, side, side)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, form in forms.items():
            path = Path(folder) / f"{name}.onnx"
            export_onnx(form, path, [images])
            paths.append(path)
        found = measure_latencies(
            paths, provider=arguments.provider, batch=arguments.batch, warmup=3, runs=arguments.runs, threads=1
        )
    row: dict[str, Any] = {"channels": channels, "side": side, "k": k}
    row |= {name: latency.median for name, latency in zip(forms, found, strict=True)}
    row["blocks over grouped"] = row["blocks"] / row["grouped"]
    row["dense over grouped"] = row["dense"] / row["grouped"]
    print(row, flush=True)
    return row


def pair(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


if __name__ == "__main__":
    main()
