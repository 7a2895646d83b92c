"""Trained weights kept or not, distilled or not, on CIFAR-10 at equal epochs (docs/your-network.md).

    python experiments/kept_weights.py --tune    learning rates of fine-tuning, on validation images, seed 100
    python experiments/kept_weights.py --seeds 0,1,2    about 150 short trainings, one thread; goes on where it was

A network is trained first, for 10 epochs on 10,000 images (a tenth of these for validation). VGG11 at a quarter of its
width is cut to 0.1x and 0.25x of its parameters and to 0.25x of its multiply-adds by three methods; torchvision's
ResNet-18 to 0.25x of its parameters by two. Five come of every network found: trained from scratch for 10 epochs; for
20, which is what the trained network and the fine-tuning together take; fine-tuned for 10 (5 by `taylor`, which has
trained for 5 while it pruned); and both with the trained network as teacher. Accuracy is that of the ONNX file on the
10,000 test images. Rows go to experiments/kept_weights.json one by one; several processes may share it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
from pathlib import Path
from typing import Any

import torch
from record import write_result

from compressor import Recipe, run
from compressor.pipeline.runner import Shared
from compressor.recipe import parse_recipe

HERE = Path(__file__).parent
RESULT = HERE / "kept_weights.json"
EPOCHS = 10
NETWORKS: dict[str, dict[str, Any]] = {
    "vgg11": {
        "model": {"name": "vgg11_bn", "width": 0.25},
        "budgets": ({"params": "0.1x"}, {"params": "0.25x"}, {"macs": "0.25x"}),
        "methods": ("uniform", "neuralscale", "taylor"),
        "arms": ("fresh", "fresh, 20 epochs", "kept", "kept, distilled", "fresh, distilled"),
        "lr": 0.1,
    },
    "resnet18": {
        "model": {"name": "torchvision:resnet18"},
        "budgets": ({"params": "0.25x"},),
        "methods": ("uniform", "taylor"),
        "arms": ("fresh", "fresh, 20 epochs", "kept"),
        "lr": 0.05,
    },
}
METHODS: dict[str, dict[str, Any]] = {
    "uniform": {"method": "uniform"},
    "neuralscale": {
        "method": "neuralscale",
        "iterations": 1,
        "pretrain_epochs": 1,
        "batch_size": 128,
        "prune_every": 10,
    },
    "taylor": {"method": "taylor", "prune_epochs": 5, "prune_every": 20},
}
FINETUNE = {"uniform": (10, 0.1), "neuralscale": (10, 0.1), "taylor": (5, 0.05)}  # epochs, learning rate; see --tune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/kept_weights"))
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS))
    parser.add_argument("--tune", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.tune:
        tune(arguments)
    else:
        for network in arguments.networks:
            for seed in arguments.seeds:
                measure(network, seed, arguments)


def recipe_of(network: str, seed: int, arguments: argparse.Namespace, **sections: Any) -> Recipe:
    """A recipe of one of the networks, without references."""
    known = NETWORKS[network]
    data = {"name": "imagefolder", "path": arguments.data, "limit": arguments.images, "augment": ["crop", "flip"]}
    given = {
        "model": known["model"],
        "data": data,
        "train": {"epochs": EPOCHS, "lr": known["lr"], "batch_size": 128},
        "baselines": [],
        "bench": {"provider": "cpu", "batch": 1, "warmup": 0, "runs": 2, "threads": 1},
        "threads": 1,
        "seed": seed,
    }
    return parse_recipe(given | sections)


def trained(network: str, seed: int, arguments: argparse.Namespace) -> tuple[Path, float]:
    """The weights of the trained network, and its accuracy in percent."""
    out = arguments.runs / network / str(seed) / "trained"
    wanted = recipe_of(network, seed, arguments, budget={"params": "1x"}, search={"method": "uniform"})
    run(wanted, out, resume=True, until="export", progress=show)
    return out / "weights.safetensors", percent(out)


def percent(out: Path) -> float:
    """Accuracy of the file in a run folder, on test images."""
    record = json.loads((out / "export.json").read_text(encoding="utf-8"))
    return 100 * float(record["accuracy"]["onnx"])


def arm_sections(network: str, method: str, arm: str) -> dict[str, Any]:
    """The sections of a recipe that make an arm."""
    known, (epochs, lr) = NETWORKS[network], FINETUNE[method]
    train = {"epochs": 20 if "20" in arm else EPOCHS, "lr": known["lr"], "batch_size": 128}
    if "distilled" in arm:
        train["distill"] = {"teacher": "reference"}
    weights = "kept" if arm.startswith("kept") else "fresh"
    scale = known["lr"] / 0.1
    search = METHODS[method] | ({"weights": weights})
    return {"search": search, "train": train, "finetune": {"epochs": epochs, "lr": lr * scale}}


def measure(network: str, seed: int, arguments: argparse.Namespace) -> None:
    """All rows of one network and one seed that are not there yet."""
    known = NETWORKS[network]
    wanted = [(m, b, a) for m in known["methods"] for b in known["budgets"] for a in known["arms"]]
    missing = [key for key in wanted if not any(row_key(row) == (network, seed, *named(key)) for row in rows())]
    if not missing:
        return
    weights, reference = trained(network, seed, arguments)
    for key in missing:
        method, budget, arm = key
        folder = arguments.runs / network / str(seed)
        model = known["model"] | {"weights": str(weights)}
        sections = arm_sections(network, method, arm) | {"model": model, "budget": budget}
        _, limit, name = named(key)
        out = folder / f"{method} {limit} {name}".replace(", ", "-").replace(" ", "-")
        shared = Shared(work=folder / f"search-{method}")
        run(
            recipe_of(network, seed, arguments, **sections),
            out,
            resume=True,
            until="export",
            progress=show,
            shared=shared,
        )
        record = json.loads((out / "export.json").read_text(encoding="utf-8"))
        row = {
            "network": network,
            "seed": seed,
            "method": method,
            "budget": limit,
            "arm": arm,
            "percent": percent(out),
            "trained_percent": reference,
            "params": record["params"],
            "macs": record["macs"],
        }
        add(row)
        print(row, flush=True)


def named(key: tuple[str, dict[str, str], str]) -> tuple[str, str, str]:
    """Method, budget and arm as a row has them."""
    method, budget, arm = key
    ((cost, limit),) = budget.items()
    return method, f"{limit} {cost}", arm


def row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is of."""
    return row["network"], row["seed"], row["method"], row["budget"], row["arm"]


def rows() -> list[dict[str, Any]]:
    """What is there so far."""
    return json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []


def add(row: dict[str, Any]) -> None:
    """Add a row; other processes may do so at the same time."""
    with (HERE / ".kept_weights.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_result(RESULT, {"rows": sorted([*rows(), row], key=row_key)})


def tune(arguments: argparse.Namespace) -> None:
    """Validation accuracy of fine-tuning at several learning rates, with a seed of its own."""
    for method in ("uniform", "taylor"):
        weights, _ = trained("vgg11", 100, arguments)
        for limit in ("0.1x", "0.25x"):
            for lr in (0.02, 0.05, 0.1):
                model = NETWORKS["vgg11"]["model"] | {"weights": str(weights)}
                sections = arm_sections("vgg11", method, "kept") | {"model": model, "budget": {"params": limit}}
                sections["finetune"] = {"epochs": FINETUNE[method][0], "lr": lr}
                out = arguments.runs / "tune" / f"{method}-{limit}-{lr}"
                shared = Shared(work=arguments.runs / "tune" / f"search-{method}")
                run(recipe_of("vgg11", 100, arguments, **sections), out, resume=True, until="train", shared=shared)
                last = json.loads((out / "training.json").read_text(encoding="utf-8"))[-1]
                print(method, limit, lr, f"{100 * last['validation_metric']:.1f} %", flush=True)


def show(stage: str, text: str, share: float | None) -> None:
    if text.endswith(".0") or "epoch" not in text:
        print(f"  {stage:>7}  {text}", flush=True)


if __name__ == "__main__":
    main()
