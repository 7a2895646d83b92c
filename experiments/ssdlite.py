"""torchvision's ssdlite320_mobilenet_v3_large through `compressor.compress`: half of its parameters, a file that runs.

    python experiments/ssdlite.py --out runs/ssdlite

The network is untrained and the loop takes a few steps on noise: this shows that a detector with its own losses goes
through, not what it detects. The file gives what the heads give; boxes are decoded outside. Numbers go to ssdlite.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import write_result
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import compressor
from compressor.dependency.inputs import Inputs
from compressor.exporters import OnnxNetwork

HERE = Path(__file__).parent
QUICK = {"provider": "cpu", "batch": 1, "warmup": 2, "runs": 10, "threads": 1}


class Raw(nn.Module):
    """Gives what the detector's heads give for images (N, 3, 320, 320); it is trained through the detector."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = list(self.detector.backbone(images).values())
        found: dict[str, Tensor] = self.detector.head(features)
        return found


def train(model: Raw, epochs: int, on_step: Callable[[Tensor], None]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    images = list(torch.rand(2, 3, 320, 320))
    targets = [{"boxes": torch.tensor([[20.0, 30.0, 200.0, 220.0]]), "labels": torch.tensor([1])}] * 2
    for _ in range(2 * epochs):
        loss = torch.stack(list(model.detector(images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_step(loss)


def size(model: Any) -> float:
    return float(model(torch.full((1, 3, 320, 320), 0.5))["cls_logits"].abs().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ssdlite"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    begun, example = time.monotonic(), torch.rand(2, 3, 320, 320)
    judge = {"function": size, "name": "size of logits"}
    given = {"method": "uniform", "train": train, "evaluate": judge, "finetune": {"epochs": 1}, "bench": QUICK}
    result = compressor.compress(Raw(), example, budget="0.5x", out=arguments.out, baselines=["reference"], **given)
    found = OnnxNetwork(result.onnx_path).all_outputs(Inputs((example,)))
    reference = result.report["baseline"]["reference"]
    numbers = {
        "params": [result.report["params"], reference["params"]],
        "macs": [result.report["macs"], reference["macs"]],
        "median_ms": [result.report["latency_ms"]["median"], reference["latency_ms"]["median"]],
        "max_rel_error": result.report["parity"]["max_rel_error"],
        "outputs": [list(one.shape) for one in found],
        "met": result.met,
        "seconds": time.monotonic() - begun,
    }
    print(numbers)
    write_result(HERE / "ssdlite.json", numbers)


if __name__ == "__main__":
    main()
