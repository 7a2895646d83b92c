"""TissueNet beside uniform scaling and NeuralScale on CIFAR-10, at the same parameters, multiply-adds or latency.

    python experiments/tissuenet_cifar10.py --network vgg16 --data .data/cifar10 --out runs/tissue

VGG16 and ResNet-18 at a quarter of their widths, 3,000 training images (a tenth of them for validation), 10 epochs,
three seeds: an hour a network on one core. Latency is given as a multiple of that of uniform scaling of the same seed
and budget, at a batch of 100 on one thread, measured in pairs. An interrupted comparison goes on where it was; the
numbers go to experiments/tissuenet_cifar10_NETWORK.json.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from record import write_result

from compressor.bench import Conditions, measure_pairs
from compressor.files import read_json
from compressor.pipeline.compare import compare_methods
from compressor.pipeline.sweep_jobs import make_sweep
from compressor.recipe import load_recipe

HERE = Path(__file__).parent
MODELS = {"vgg16": "vgg16_bn", "resnet18": "preact_resnet18"}
METHODS = ("uniform", "neuralscale", "tissuenet")
SHARES = {"params": "0.2x", "macs": "0.2x", "latency": "0.5x"}
SETTINGS = ("data.limit=3000", "train.epochs=10", "threads=1", "bench.threads=1", "bench.runs=20")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=MODELS, default="vgg16")
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/tissue"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--collect", action="store_true", help="run nothing, write what the finished runs gave")
    arguments = parser.parse_args()
    changes = [f"model.name={MODELS[arguments.network]}", f"data.path={arguments.data}", *SETTINGS]
    recipe = load_recipe(HERE.parent / "recipes" / "tissuenet-cifar10.yaml", changes)
    rows = []
    for cost in SHARES:  # one that is not asked for may be there from another time
        names = [name for name in METHODS if cost != "latency" or name != "neuralscale"]
        methods = [f"{name}:{PRUNING}" if name == "neuralscale" else name for name in names]
        out, budgets = arguments.out / arguments.network / cost, [f"{cost}={SHARES[cost]}"]
        if cost in arguments.budgets and not arguments.collect:
            compare_methods(recipe, methods, budgets, arguments.seeds, out, resume=True, progress=show)
        known = [(row["method"], row["budget"], row["seed"]) for row in rows]  # the unscaled ones are in all of them
        for row in finished(out, methods, budgets):
            rows += [row] if (row["method"], row["budget"], row["seed"]) not in known else []
    result = {"rows": rows, "summary": summary(rows), "recipe": recipe.model_dump(mode="json")}
    write_result(HERE / f"tissuenet_cifar10_{arguments.network}.json", result)


def finished(out: Path, methods: list[str], budgets: list[str]) -> list[dict[str, Any]]:
    """What the runs that are finished gave."""
    sweep = make_sweep(load_recipe(HERE.parent / "recipes" / "tissuenet-cifar10.yaml"), methods, budgets, 10)
    rows: list[dict[str, Any]] = []
    uniform: dict[int, Path] = {}
    for job in sweep.jobs:
        folder = out / job.folder
        if not (folder / "export.json").exists():
            continue
        found = read_json(folder / "export.json")
        row = {"method": job.method.partition(":")[0], "budget": job.budget, "seed": job.seed}
        row |= {"accuracy": found["accuracy"]["onnx"], "params": found["params"], "macs": found["macs"]}
        if row["method"] == "uniform":
            uniform[job.seed] = folder / "model.onnx"
        elif job.seed in uniform:
            row["times_uniform"] = times(uniform[job.seed], folder / "model.onnx")
        if (verification := folder / "verification.json").exists():
            row["ratio"] = read_json(verification)["result"]["ratio"]
        if stacked := found.get("stacked"):
            row["layout"] = stacked["chosen"]
        rows.append(row)
    return rows


def times(base: Path, path: Path) -> float:
    """Latency of a file over another's, in pairs: caches are warm, as they are not where many networks take turns."""
    pairs = measure_pairs(base, path, Conditions("cpu", 100, 1), lambda so_far: len(so_far.wall_ms) >= 8)
    return float(pairs.ratio().median)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation of every method at every budget."""
    found = []
    for method, budget in dict.fromkeys((row["method"], row["budget"]) for row in rows):
        group = [row for row in rows if (row["method"], row["budget"]) == (method, budget)]
        accuracy = [row["accuracy"] for row in group]
        found.append(
            {
                "method": method,
                "budget": budget,
                "seeds": len(group),
                "accuracy": statistics.mean(accuracy),
                "deviation": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
                "params": statistics.mean(row["params"] for row in group),
                "macs": statistics.mean(row["macs"] for row in group),
                "times_uniform": _mean([row.get("times_uniform") for row in group]),
                "limit_used": _mean([row["ratio"]["high"] / float(budget[len("latency=") : -1]) for row in group])
                if all("ratio" in row for row in group)
                else None,
            }
        )
    return found


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None


# The paper's 15 iterations on 50,000 images are many times the training here; so are those of the other experiments.
PRUNING = "iterations=2;pretrain_epochs=3;prune_every=5;prune_channels=40"


def show(stage: str, text: str, share: float | None) -> None:
    print(f"{stage:>7}  {text}", flush=True)


if __name__ == "__main__":
    main()
