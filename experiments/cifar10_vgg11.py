"""NeuralScale against uniform scaling on CIFAR-10 at a tight budget, several seeds (docs/results.md).

    python experiments/cifar10_vgg11.py --data .data/cifar10 --out runs/cifar10 --seeds 3

Each seed is one run of recipes/cifar10-vgg11.yaml with two iterations of NeuralScale; an interrupted seed goes on where
it was. The numbers go to experiments/cifar10_vgg11.json.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from record import write_result

from compressor.pipeline.runner import run
from compressor.recipe import load_recipe

HERE = Path(__file__).parent
SEARCH = "{method: neuralscale, iterations: 2, pretrain_epochs: 3, batch_size: 128, prune_every: 20}"
NETWORKS = ("neuralscale", "uniform", "reference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of torch")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="recipe override")
    arguments = parser.parse_args()
    reports = []
    for seed in range(arguments.seeds):
        overrides = [f"search={SEARCH}", "budget={params: 37k}", f"data.path={arguments.data}", f"seed={seed}"]
        overrides += arguments.overrides
        if arguments.threads is not None:
            overrides.append(f"threads={arguments.threads}")
        recipe = load_recipe(HERE.parent / "recipes" / "cifar10-vgg11.yaml", overrides)
        reports.append(run(recipe, arguments.out / f"seed{seed}", resume=True, progress=show))
        write_result(HERE / "cifar10_vgg11.json", summarise(reports) | {"recipe": recipe.model_dump(mode="json")})


def show(stage: str, text: str, share: float | None) -> None:
    print(f"{stage:>7}  {text}", flush=True)


def summarise(reports: list[dict[str, Any]], networks: tuple[str, ...] = NETWORKS) -> dict[str, Any]:
    """Mean and standard deviation over the seeds, and every seed's own numbers; gains are of the first two networks."""
    seeds = [{"neuralscale": r, **r["baseline"]} for r in reports]
    rows = {}
    for name in networks:
        accuracies = [100 * seed[name]["accuracy"]["onnx"] for seed in seeds]
        rows[name] = {
            "accuracy_percent": accuracies,
            "accuracy_mean": statistics.mean(accuracies),
            "accuracy_std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            "params": [seed[name]["params"] for seed in seeds],
            "macs": [seed[name]["macs"] for seed in seeds],
            "latency_median_ms": [seed[name]["latency_ms"]["median"] for seed in seeds],
            "widths": [list(seed[name]["widths"].values()) for seed in seeds],
            "efficiency": [seed[name]["efficiency"] for seed in seeds],
        }
    gains = [a - b for a, b in zip(*(rows[name]["accuracy_percent"] for name in networks[:2]), strict=True)]
    return {
        "networks": rows,
        "gain_points": gains,
        "gain_mean": statistics.mean(gains),
        "seconds": [r["seconds"] for r in reports],
        "weights": "last epoch",
    }


if __name__ == "__main__":
    main()
