"""NeuralScale's widths when multiply-adds are limited too: to those of uniform scaling at the same parameter budget.

    python experiments/cifar10_equal_macs.py --data .data/cifar10 --runs runs/cifar10 --seeds 3

Takes the fits of finished runs of experiments/cifar10_vgg11.py, solves them for both limits and trains the result as
those runs trained theirs. The numbers go to experiments/cifar10_equal_macs.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write_result

from compressor.costs import of_widths, params_macs
from compressor.data import load_data
from compressor.models import build, reference_architecture
from compressor.pipeline.settings import final_settings
from compressor.recipe import load_recipe
from compressor.search.methods.neuralscale import solve_fit
from compressor.training.trainer import Trainer

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        rows.append(measure(arguments.runs / f"seed{seed}", arguments.data))
        print(rows[-1], flush=True)
        accuracies = [row["accuracy_percent"] for row in rows]
        deviation = statistics.stdev(accuracies) if len(rows) > 1 else None
        summary = {"accuracy_mean": statistics.mean(accuracies), "accuracy_std": deviation, "seeds": rows}
        write_result(HERE / "cifar10_equal_macs.json", summary)


def measure(folder: Path, images: str) -> dict[str, Any]:
    """Solve one run's fit for its parameter budget and its uniform baseline's multiply-adds, and train that."""
    recipe = load_recipe(folder / "recipe.yaml", [f"data.path={images}"])
    report = json.loads((folder / "report.json").read_text())
    data = load_data(recipe.data, seed=recipe.seed)
    reference = reference_architecture(recipe.model.name, {}, data.classes, data.input_shape, recipe.model.width)
    limits = {"params": report["budget"]["limits"]["params"], "macs": float(report["baseline"]["uniform"]["macs"])}
    fit = report["trace"]["iterations"][-1]
    costs = {name: of_widths(reference, params_macs.COSTS[name]) for name in limits}
    solution = solve_fit(np.array(fit["alpha"]), np.array(fit["beta"]), costs, limits)
    architecture = reference.with_widths(dict(zip(fit["groups"], solution.widths, strict=True)))
    trainer = Trainer(data, torch.device("cpu"), recipe.data.augment, channels_last=True)
    model = trainer.prepare(build(architecture, recipe.seed))
    trainer.fit(model, final_settings(recipe.train), seed=recipe.seed)
    return {
        "seed": recipe.seed,
        "accuracy_percent": 100 * trainer.evaluate(model, data.test).accuracy,
        "uniform_percent": 100 * report["baseline"]["uniform"]["accuracy"]["torch"],
        **solution.costs,
        "limits": limits,
        "widths": list(solution.widths),
    }


if __name__ == "__main__":
    main()
