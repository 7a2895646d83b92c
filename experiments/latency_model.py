"""How well a model of layers predicts latency, beside a line in the multiply-adds.

    python experiments/latency_model.py [NAME ...]      none: all

Each network is probed as a search would do it (limit: half of its latency). Told are the probes, the seconds, the
leave-one-out errors of the model, and its errors on fresh networks that were measured afterwards, at widths that are
multiples of 4, as shares of the unscaled network's latency; and the same of a line through the probes in
ln(milliseconds) and ln(multiply-adds). 32 × 32 images, one thread.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write_result

from compressor.bench import Conditions
from compressor.costs.latency_measurement import Runtime
from compressor.costs.latency_model import fit_model
from compressor.costs.latency_probes import draw
from compressor.costs.params_macs import macs
from compressor.files import read_json
from compressor.models import reference_architecture
from compressor.models.architecture import Architecture

RESULT = Path(__file__).with_suffix(".json")
NETWORKS = {
    "vgg11_bn": 1.0,
    "vgg11_bn x 0.25": 0.25,
    "torchvision:resnet18": 1.0,
    "torchvision:mobilenet_v2": 1.0,
    "preact_resnet18 x 0.25": 0.25,
}
FRESH = 12


def main() -> None:
    torch.set_num_threads(1)
    for label in sys.argv[1:] or NETWORKS:
        for batch in (1, 100):
            if any((row["network"], row["batch"]) == (label, batch) for row in rows()):
                continue
            row = measure(label, batch)
            write_result(RESULT, {"rows": [*rows(), row]})
            print(row, flush=True)


def rows() -> list[dict[str, Any]]:
    """What was measured."""
    return json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []  # type: ignore[no-any-return]


def measure(label: str, batch: int) -> dict[str, Any]:
    """One network at one batch."""
    reference = reference_architecture(label.split()[0], {}, 10, (3, 32, 32), NETWORKS[label])
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(reference, Conditions("cpu", batch, 1, 0), opset=20, folder=Path(folder))
        unscaled, _ = runtime.unscaled_ms(2)
        begun = time.monotonic()
        runtime.model(0.5, unscaled)
        seconds = time.monotonic() - begun
        (kept,) = Path(folder).glob("probes-*/*.json")
        ratios = read_json(kept)["ratios"]
        probes = list(zip(draw(reference, 0.25, len(ratios), runtime.block), ratios, strict=True))
        fresh = [(network, runtime.probe(network)) for network in others(reference)]
    model = fit_model(probes, runtime.block)
    assert model is not None
    sizes, times = (np.log([f(one) for one in probes]) for f in (lambda p: macs(p[0]), lambda p: p[1]))
    slope, offset = np.polyfit(sizes, times, 1)
    by_model = [abs(float(model(network) or 0) / ratio - 1) for network, ratio in fresh]
    by_line = [abs(math.exp(offset + slope * math.log(macs(network))) / ratio - 1) for network, ratio in fresh]
    return {
        "network": label,
        "batch": batch,
        "unscaled_ms": unscaled,
        "block": runtime.block,
        "probes": len(probes),
        "seconds": seconds,
        "leave_one_out": [model.median_error, model.largest_error],
        "fresh": [float(np.median(by_model)), max(by_model)],
        "line_fresh": [float(np.median(by_line)), max(by_line)],
    }


def others(reference: Architecture) -> list[Architecture]:
    """Networks that are no probes: every width by itself, around half of the unscaled latency."""
    rng = random.Random(1)
    return [
        reference.with_widths(
            {
                name: max(1, min(width, 4 * round(width * rng.uniform(0.3, 1.0) / 4))) if width >= 16 else width
                for name, width in reference.widths.items()
            }
        )
        for _ in range(FRESH)
    ]


if __name__ == "__main__":
    main()
