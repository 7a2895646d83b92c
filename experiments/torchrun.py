"""Searching and training by two processes under torchrun beside one process, at the same global batch.

    python experiments/torchrun.py --data .data/cifar10 --out runs/torchrun

VGG11 at a quarter of its widths to a quarter of its parameters, 2,000 CIFAR-10 images, 8 epochs, three seeds, two gloo
processes on the CPU, one thread each. For every method: the widths that were found, how far they are from those of one
process (the mean of |ln ratio| over layers), and accuracy of the ONNX file over the 10,000 test images, without and
with batch-norms that see the samples of both. Finished runs are kept and not run again.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from record import write_result
from scipy.stats import ttest_ind

from compressor.files import read_json

HERE = Path(__file__).parent
METHODS: dict[str, dict[str, Any]] = {
    "uniform": {"method": "uniform"},
    "neuralscale": {
        "method": "neuralscale", "iterations": 1, "pretrain_epochs": 6, "lr": 0.05, "prune_every": 5,
        "prune_channels": 16,
    },
    "growing": {"method": "growing", "settle": 0.8},
}  # fmt: skip
ARMS = {"one": (1, False), "two": (2, False), "two, sync_batch_norm": (2, True)}


def recipe(method: dict[str, Any], seed: int, sync: bool, data: str) -> dict[str, Any]:
    return {
        "model": {"name": "vgg11_bn", "width": 0.25},
        "data": {"name": "imagefolder", "path": str(Path(data).resolve()), "limit": 2000, "augment": ["crop", "flip"]},
        "budget": {"params": "0.25x"},
        "search": method,
        "baselines": [],
        "train": {"epochs": 8, "batch_size": 128, "precision": "fp32", "sync_batch_norm": sync},
        "bench": {"provider": "cpu", "batch": 1, "runs": 5},
        "threads": 1,
        "seed": seed,
    }


def train(folder: Path, raw: dict[str, Any], processes: int) -> dict[str, Any]:
    """A run, unless it is there; its row."""
    out = folder / "run"
    if not (out / "report.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        words = ["-m", "compressor", "run", str(folder / "recipe.yaml"), "-o", str(out)]
        words += ["--resume"] if out.exists() else []
        if processes > 1:
            words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *words]
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            env = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, *words], env=env, stdout=log, stderr=log, check=True)
    report = read_json(out / "report.json")
    return {
        "seed": raw["seed"],
        "accuracy": report["accuracy"]["onnx"],
        "met": report["budget"]["met"],
        "params": report["params"],
        "widths": read_json(out / "architecture.json")["widths"],
    }


def apart(widths: dict[str, int], others: dict[str, int]) -> float:
    """How far two architectures are from each other: the mean of |ln ratio| over layers."""
    return statistics.mean(abs(math.log(width / others[name])) for name, width in widths.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/torchrun"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {name: {arm: [] for arm in ARMS} for name in METHODS}
    for seed in range(arguments.seeds):
        for name, method in METHODS.items():
            for arm, (processes, sync) in ARMS.items():
                folder = arguments.out / name / arm.replace(", ", "-") / str(seed)
                row = train(folder, recipe(method, seed, sync, arguments.data), processes)
                rows[name][arm].append(row)
                print(f"{name}, {arm}, seed {seed}: {100 * row['accuracy']:.2f} %", flush=True)
            write_result(HERE / "torchrun.json", {"rows": rows, "summary": summary(rows)})


def summary(rows: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, arms in rows.items():
        one = arms["one"]
        for arm, own in arms.items():
            accuracy = [100 * row["accuracy"] for row in own]
            if not accuracy:
                continue
            pairs = list(zip(own, one, strict=False))
            other_seeds = [(a, b) for a in own for b in one if a["seed"] != b["seed"]]
            found.setdefault(name, {})[arm] = {
                "accuracy_mean": statistics.mean(accuracy),
                "accuracy_std": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
                "p_beside_one": float(
                    ttest_ind(accuracy, [100 * row["accuracy"] for row in one], equal_var=False).pvalue
                )
                if arm != "one" and len(accuracy) > 1
                else None,
                "same_widths": sum(a["widths"] == b["widths"] for a, b in pairs),
                "apart_same_seed": statistics.mean(apart(a["widths"], b["widths"]) for a, b in pairs),
                "apart_other_seeds": statistics.mean(apart(a["widths"], b["widths"]) for a, b in other_seeds)
                if other_seeds
                else None,
                "met": all(row["met"] for row in own),
            }
    return found


if __name__ == "__main__":
    main()
