"""What a search records when groups at their minimum leave the ranking, and when pruning stops there (`at_minimum`).

    python experiments/pruning_records.py --data .data/cifar10

For each network (a quarter of its width) one pruning phase with either setting, from the same seed: how many records,
how many of them count (those after every group has lost a channel), why it ended, whether the fit falls back. Then
VGG11 at one budget, both searches to the trained network, three seeds; Welch's test beside the means. A row that is
in the JSON file is not measured again, so an interrupted experiment goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from record import write_result
from scipy.stats import ttest_ind

from compressor.files import read_json
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe

HERE = Path(__file__).parent
JSON = HERE / "pruning_records.json"
SETTINGS = ("skip", "stop")
NETWORKS = (
    ("vgg11_bn", {}),
    ("preact_resnet18", {}),
    ("resnet20", {}),
    ("preact_resnet18", {"shortcut": "conv"}),
    ("mobilenetv2", {}),
)


def recipe(data: str, name: str, options: dict[str, str], seed: int, at_minimum: str, **train: Any) -> dict[str, Any]:
    return {
        "model": {"name": name, "width": 0.25, "options": options},
        "data": {"name": "imagefolder", "path": data, "limit": 10_000, "augment": ["crop", "flip"]},
        "budget": {"params": "0.1x"},
        "search": {
            "method": "neuralscale",
            "iterations": 1 if train["epochs"] == 1 else 2,
            "pretrain_epochs": 2,
            "batch_size": 64,
            "prune_every": 5,
            "at_minimum": at_minimum,
        },
        "train": {"schedule": "onecycle", "epochs": 8, **train},
        "baselines": [],
        "bench": {"provider": "cpu", "batch": 100, "warmup": 2, "runs": 5, "threads": 1},
        "threads": 1,
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/pruning_records"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_json(JSON)["rows"] if JSON.exists() else {}
    jobs = [(name, options, 0, 1) for name, options in NETWORKS]
    jobs[3:3] = [("vgg11_bn", {}, seed, 8) for seed in range(arguments.seeds)]
    for name, options, seed, epochs in jobs:
        for setting in SETTINGS:
            key = " ".join([name, *options.values(), setting, f"seed {seed}", f"epochs {epochs}"])
            if key in rows:
                continue
            raw = recipe(arguments.data, name, options, seed, setting, epochs=epochs)
            report = run(parse_recipe(raw), arguments.out / key.replace(" ", "-"), resume=True)
            rows[key] = row(report)
            print(key, rows[key], flush=True)
            write_result(JSON, {"rows": rows, "accuracy": accuracy(rows), "recipe": raw})


def row(report: dict[str, Any]) -> dict[str, Any]:
    """Of one run: its records and ends by iteration, and what came out."""
    iterations = report["trace"]["iterations"]
    return {
        "events": [found["events"] for found in iterations],
        "records": [0 if found["note"] else len(found["records"]["params"]) for found in iterations],
        "ended": [found["stopped"] for found in iterations],
        "fallbacks": [found["fallback"] for found in iterations],
        "notes": [found["note"] for found in iterations],
        "median_r2": [sorted(found["r2"])[len(found["r2"]) // 2] if found["r2"] else None for found in iterations],
        "params": report["params"],
        "macs": report["macs"],
        "accuracy_percent": 100 * report["accuracy"]["onnx"],
        "search_seconds": report["seconds"]["search"],
        "widths": list(report["widths"].values()),
    }


def accuracy(rows: dict[str, Any]) -> dict[str, Any]:
    """Accuracy of the trained networks by setting, and Welch's test between the two."""
    values = {
        setting: [
            found["accuracy_percent"] for key, found in rows.items() if f"{setting} " in key and "epochs 8" in key
        ]
        for setting in SETTINGS
    }
    if min(map(len, values.values())) < 2:
        return {"percent": values}
    skip, stop = (torch.tensor(values[setting], dtype=torch.float64) for setting in SETTINGS)
    return {
        "percent": values,
        "mean": [float(skip.mean()), float(stop.mean())],
        "std": [float(skip.std()), float(stop.std())],
        "welch_p": float(ttest_ind(skip, stop, equal_var=False).pvalue),
    }


if __name__ == "__main__":
    main()
