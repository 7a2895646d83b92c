"""Uniform scaling, the paper's NeuralScale, NeuralScale along the budget's cost, and `auto`, at several budgets.

    python experiments/along.py [--networks vgg11,preact_resnet18] [--budgets 'macs,latency 100'] [--seeds 10,11,12]
                                [--arms 'uniform;along;paper;auto'] [--data DIR] [--runs DIR]  goes on where it was
    python experiments/along.py --landscape what widths are worth at all: 16 random ones beside uniform scaling, seed 0
    python experiments/along.py --tune      the exponent of the cost, seeds 0 and 1: choose by validation_percent
    python experiments/along.py --time      latency of the files beside the unscaled network, batch 1 and 100

CIFAR-10 as JPEG, 10,000 training images (a tenth of them for validation), 8 epochs, one thread. Accuracy is that of the
ONNX file on the 10,000 test images; widths are in whole blocks of channels unless an arm says `any widths`. Seeds from
10 on chose no exponent. Rows go to experiments/along.json one by one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from record import write_result

from compressor import run
from compressor.bench import Conditions, machine_fingerprint
from compressor.costs.latency_measurement import Runtime
from compressor.models import reference_architecture
from compressor.recipe import parse_recipe

RESULT = Path(__file__).with_suffix(".json")
IMAGES, EPOCHS = 10000, 8
NETWORKS: dict[str, dict[str, Any]] = {
    "vgg11": {"model": {"name": "vgg11_bn", "width": 0.25}, "lr": 0.1},
    "preact_resnet18": {"model": {"name": "preact_resnet18", "width": 0.25}, "lr": 0.1},
    "mobilenetv2": {"model": {"name": "mobilenetv2", "width": 0.5}, "lr": 0.1},
}
BUDGETS: dict[str, dict[str, Any]] = {
    "macs": {"macs": "0.1x"},
    "latency 100": {"latency": "0.5x", "batch": 100},
    "params": {"params": "0.064x"},
    "params and latency 100": {"params": "0.064x", "latency": "0.5x", "batch": 100},
}
NEURALSCALE = {
    "method": "neuralscale",
    "iterations": 1,
    "pretrain_epochs": 1,
    "batch_size": 128,
    "prune_every": 10,
}
ARMS: dict[str, dict[str, Any]] = {
    "uniform": {"method": "uniform"},
    "along": NEURALSCALE | {"along": "budget"},
    "paper": NEURALSCALE | {"along": "params"},
    "auto": {"method": "auto"},
    "paper any widths": NEURALSCALE | {"along": "params"},
}
TUNED = {f"along, price {price:g}": NEURALSCALE | {"along": "budget", "price": price} for price in (0, 0.5, 1, 1.5, 2)}
LANDSCAPE = {f"random {draw}": {"method": "random", "draw": draw, "smallest": 0.25} for draw in range(16)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/along"))
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[10, 11, 12])
    parser.add_argument("--networks", type=lambda text: text.split(","), default=["vgg11", "preact_resnet18"])
    parser.add_argument("--budgets", type=lambda text: text.split(","), default=["macs", "latency 100"])
    parser.add_argument("--arms", type=lambda text: text.split(";"), default=["uniform", "along", "paper", "auto"])
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--landscape", action="store_true")
    parser.add_argument("--time", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.time:
        time_files(arguments)
        return
    arms, seeds = {name: ARMS[name] for name in arguments.arms}, arguments.seeds
    if arguments.tune:
        arms, seeds = TUNED | {"uniform": ARMS["uniform"]}, [0, 1]
    elif arguments.landscape:
        arms, seeds = LANDSCAPE | {"uniform": ARMS["uniform"]}, [0]
    for seed in seeds:
        for network in arguments.networks:
            for budget in arguments.budgets:
                for arm, search in arms.items():
                    measure(arguments, network=network, budget=budget, arm=arm, search=search, seed=seed)


def measure(
    arguments: argparse.Namespace, *, network: str, budget: str, arm: str, search: dict[str, Any], seed: int
) -> None:
    """One run, if it is not there yet."""
    key = {"network": network, "budget": budget, "arm": arm, "seed": seed}
    if any(all(row[name] == value for name, value in key.items()) for row in rows()):
        return
    known, timed = NETWORKS[network], "latency" in budget
    raw = {
        "model": known["model"],
        "data": {"name": "imagefolder", "path": arguments.data, "limit": IMAGES, "augment": ["crop", "flip"]},
        "budget": BUDGETS[budget],
        "search": search,
        "widths": {"round_to": 1} if arm.endswith("any widths") else {},
        "train": {"epochs": EPOCHS, "lr": known["lr"], "batch_size": 128},
        "baselines": [],
        "bench": {"provider": "cpu", "warmup": 0, "runs": 2, "threads": 1} | ({} if timed else {"batch": 1}),
        "threads": 1,
        "seed": seed,
    }
    out = folder_of(arguments, key)
    run(parse_recipe(raw), out, resume=True, until="bench" if timed else "export", progress=show)
    exported = json.loads((out / "export.json").read_text(encoding="utf-8"))
    architecture = json.loads((out / "architecture.json").read_text(encoding="utf-8"))
    training = json.loads((out / "training.json").read_text(encoding="utf-8"))
    row = key | {
        "percent": 100 * exported["accuracy"]["onnx"],
        "validation_percent": 100 * training[-1]["validation_metric"],
        "params": exported["params"],
        "macs": exported["macs"],
        "widths": list(architecture["widths"].values()),
        "machine": machine_fingerprint()["id"],
    }
    if timed:
        verified = json.loads((out / "verification.json").read_text(encoding="utf-8"))["result"]
        row |= {"ratio": verified["ratio"]["median"], "share": verified["share"], "verdict": verified["verdict"]}
    keep(key, row)


def folder_of(arguments: argparse.Namespace, key: dict[str, Any]) -> Path:
    """Of a run."""
    name = "-".join(str(key[one]) for one in ("network", "budget", "arm", "seed"))
    return Path(arguments.runs) / name.replace(" ", "-").replace(",", "")


def keep(key: dict[str, Any], row: dict[str, Any]) -> None:
    """Write a row in the place of the one with the same key."""
    others = [one for one in rows() if any(one[name] != value for name, value in key.items())]
    write_result(RESULT, {"rows": sorted([*others, row], key=lambda one: [str(one[name]) for name in key])})
    print(row, flush=True)


def time_files(arguments: argparse.Namespace) -> None:
    """Measure the files that were not measured yet beside the unscaled network."""
    for row in rows():
        key = {name: row[name] for name in ("network", "budget", "arm", "seed")}
        path, model = folder_of(arguments, key) / "model.onnx", NETWORKS[row["network"]]["model"]
        if "ratio_100" in row or row["arm"] in LANDSCAPE or not path.exists():
            continue
        reference = reference_architecture(model["name"], {}, 10, (3, 32, 32), model["width"])
        found = {}
        for batch in (1, 100):
            place = Path(arguments.runs) / f"unscaled-{row['network']}-{batch}"
            runtime = Runtime(reference, Conditions("cpu", batch, 1, 0), opset=20, folder=place)
            found[f"ratio_{batch}"] = runtime.verify(path, 1.0, 1.0)["ratio"]["median"]
        keep(key, row | found)


def show(stage: str, text: str, share: float | None) -> None:
    """Say what is done, but for shares of it."""
    if share is None:
        print(f"  {stage:>7}  {text}", flush=True)


def rows() -> list[dict[str, Any]]:
    """What was measured."""
    return json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
