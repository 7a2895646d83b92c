"""How long it takes to find the widths of a fit for a budget (`solve_fit`, NeuralScale's Algorithm 3).

    python experiments/solve_time.py

Powers of random exponents, budgets of 0.1x the unscaled cost, CIFAR-10's sizes; the first count of a network, which
traces it once, is told apart. The reference for `shortcut: conv` is what the issue that asked for this had measured:
3 to 30 s a solve, when every evaluation built the network.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write_result

from compressor.costs.params_macs import COSTS
from compressor.costs.solver import Bounds, of_widths
from compressor.models import reference_architecture
from compressor.search.methods.neuralscale import solve_fit

NETWORKS: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("vgg11_bn", {}, 1.0),
    ("preact_resnet18", {"shortcut": "conv"}, 1.0),
    ("mobilenetv2", {"shortcut": "conv"}, 1.0),
    ("mobilenetv2", {}, 1.0),
    ("torchvision:resnet50", {}, 1.0),
    ("torchvision:mobilenet_v2", {}, 1.0),
)
DRAWS = 5


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, options, width in NETWORKS:
        reference = reference_architecture(name, options, 10, (3, 32, 32), width)
        begun = time.perf_counter()
        own = {cost: count(reference) for cost, count in COSTS.items()}
        first = time.perf_counter() - begun
        for cost, unscaled in own.items():
            for multiple in (1, 8):
                times, filled = [], []
                for seed in range(DRAWS):
                    rng, widths = np.random.default_rng(seed), np.array(list(reference.widths.values()), dtype=float)
                    beta = rng.uniform(0.1, 0.9, len(widths))
                    limit = 0.1 * unscaled
                    bounds = Bounds(multiple=np.array(multiple)).of(len(widths))
                    begun = time.perf_counter()
                    found = solve_fit(
                        widths / unscaled**beta, beta, {cost: of_widths(reference, COSTS[cost])}, {cost: limit}, bounds
                    )
                    times.append(time.perf_counter() - begun)
                    filled.append(found.costs[cost] / limit)
                row = {"network": name, "options": options, "cost": cost, "steps": multiple}
                row |= {"first_s": first, "median_s": float(np.median(times)), "most_s": max(times)}
                rows.append(row | {"least_filled": min(filled)})
                print(rows[-1], flush=True)
    write_result(Path(__file__).with_suffix(".json"), {"rows": rows})


if __name__ == "__main__":
    main()
