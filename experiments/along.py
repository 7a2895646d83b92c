"""Uniform scaling, the paper's NeuralScale and NeuralScale along the budget's cost, at multiply-adds and milliseconds.

    python experiments/along.py [--networks vgg11,preact_resnet18] [--budgets macs,latency] [--seeds 10,11,12,13,14]
                                [--arms "uniform;paper;along"] [--data DIR] [--runs DIR]      goes on where it was
    python experiments/along.py --tune      settings of the search, on validation images, seeds 0 and 1
    python experiments/along.py --landscape what widths are worth at all: 16 random ones, on validation images, seed 0
    python experiments/along.py --held-out  these on 10,000 other training images
    python experiments/along.py --time      latency of the files beside the unscaled network, batch 1 and 100
    python experiments/along.py --tables    what docs/results.md shows

CIFAR-10 as JPEG, 10,000 training images (a tenth of them for validation), 8 epochs, one thread. Accuracy is that of the
ONNX file on the 10,000 test images; widths are in whole blocks of channels in every arm (`round_to: auto`). Settings
were chosen on seeds 0 and 1; that larger prices were tried, and that `auto` was changed, followed from seed 10. Seeds
from 20 on are of latency by a later model of the layers, whose changes followed from seed 20 of PreAct-ResNet-18; the
tables keep each ten of seeds apart. Rows go to experiments/along.json one by one; several processes may share it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import statistics
from pathlib import Path
from typing import Any

import onnx
import torch
from record import write_result
from scipy import stats

from compressor import run
from compressor.bench import Conditions, machine_fingerprint
from compressor.costs.latency_measurement import Runtime
from compressor.data import load_data, normalised
from compressor.models import reference_architecture
from compressor.pipeline.scoring import score_file
from compressor.recipe import DataConfig, parse_recipe

RESULT = Path(__file__).with_suffix(".json")
IMAGES, EPOCHS, FRESH = 10000, 8, 10  # seeds from here on choose nothing
NETWORKS: dict[str, dict[str, Any]] = {
    "vgg11": {"model": {"name": "vgg11_bn", "width": 0.25}, "lr": 0.1},
    "preact_resnet18": {"model": {"name": "preact_resnet18", "width": 0.25}, "lr": 0.1},
    "mobilenetv2": {"model": {"name": "mobilenetv2", "width": 0.5}, "lr": 0.1},
}
BUDGETS: dict[str, dict[str, Any]] = {
    "macs": {"macs": "0.1x"},
    "latency": {"latency": "0.4x", "batch": 1},
    "macs quarter": {"macs": "0.25x"},
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
    "paper": NEURALSCALE | {"along": "params"},
    "along": NEURALSCALE | {"along": "budget"},  # at the price that --tune chose, the default
    "morphnet": {"method": "morphnet", "pretrain_epochs": 1, "batch_size": 128, "prune_every": 10},
    "taylor": {"method": "taylor", "prune_epochs": 5, "prune_every": 20},
    "auto": {"method": "auto"},
    "paper any widths": NEURALSCALE | {"along": "params"},
    "along any widths": NEURALSCALE | {"along": "budget"},
    "uniform any widths": {"method": "uniform"},
}
TUNED: dict[str, dict[str, Any]] = {
    "along, price 0.5": NEURALSCALE | {"along": "budget", "price": 0.5},
    "along, price 0.75": NEURALSCALE | {"along": "budget", "price": 0.75},
    "along, price 1": NEURALSCALE | {"along": "budget", "price": 1.0},
    "along, price 1, 2 iterations": NEURALSCALE | {"along": "budget", "price": 1.0, "iterations": 2},
    "along, price 1, 3 fits": NEURALSCALE | {"along": "budget", "price": 1.0, "fits": 3},
    "along, unpriced": NEURALSCALE | {"along": "budget", "price": 0.0},
    "along, price 1.25": NEURALSCALE | {"along": "budget", "price": 1.25},
    "along, price 1.5": NEURALSCALE | {"along": "budget", "price": 1.5},  # what became the default
    "along, price 2": NEURALSCALE | {"along": "budget", "price": 2.0},
    "uniform": ARMS["uniform"],
}
LANDSCAPE = {f"random {draw}": {"method": "random", "draw": draw, "smallest": 0.25} for draw in range(16)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/along"))
    parser.add_argument(
        "--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[10, 11, 12, 13, 14]
    )
    parser.add_argument("--networks", type=lambda text: text.split(","), default=["vgg11", "preact_resnet18"])
    parser.add_argument("--budgets", type=lambda text: text.split(","), default=["macs", "latency"])
    parser.add_argument("--arms", type=lambda text: text.split(";"), default=["uniform", "paper", "along"])
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--landscape", action="store_true")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--tables", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.tables:
        tables()
        return
    if arguments.held_out:
        judge_held_out(arguments)
        return
    if arguments.time:
        time_files(arguments)
        return
    known, seeds = TUNED | ARMS, arguments.seeds
    arms = {name: known[name] for name in arguments.arms}
    if arguments.tune:
        arms, seeds = TUNED, [0, 1]
    elif arguments.landscape:
        arms, seeds = LANDSCAPE, [0]
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


def judge_held_out(arguments: argparse.Namespace) -> None:
    """Score the files that settings are chosen by on training images that none of them has seen."""
    for row in rows():
        key = {name: row[name] for name in ("network", "budget", "arm", "seed")}
        path = folder_of(arguments, key) / "model.onnx"
        if row["seed"] >= FRESH or "held_out_percent" in row or not path.exists():
            continue
        told = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        config = DataConfig(name="imagefolder", path=arguments.data, validation=0)
        data = load_data(config, seed=row["seed"])
        data = normalised(data, json.loads(told["compressor.mean"]), json.loads(told["compressor.std"]))
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(row["seed"]))  # as in a run
        unseen = data.train.subset(order[IMAGES : 2 * IMAGES].sort().values)
        found = score_file(path, data, unseen, threads=1).accuracy
        assert found is not None
        keep(key, row | {"held_out_percent": 100 * found})


def folder_of(arguments: argparse.Namespace, key: dict[str, Any]) -> Path:
    """Of a run."""
    name = "-".join(str(key[one]) for one in ("network", "budget", "arm", "seed"))
    return Path(arguments.runs) / name.replace(" ", "-").replace(",", "")


def keep(key: dict[str, Any], row: dict[str, Any]) -> None:
    """Write a row in the place of the one with the same key."""
    with RESULT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
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


def tables() -> None:
    """Print the tables in markdown; every arm beside uniform scaling, by Welch's test."""
    groups = sorted({(row["network"], row["budget"], row["seed"] // 10) for row in rows() if row["seed"] >= FRESH})
    print("| network | budget | arm | accuracy, % | against uniform | parameters | multiply-adds | latency × | seeds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for group in groups:
        network, budget, _ = group
        found = [row for row in rows() if (row["network"], row["budget"], row["seed"] // 10) == group]
        base = [row["percent"] for row in found if row["arm"] == "uniform"]
        for arm in ARMS:
            own = [row for row in found if row["arm"] == arm]
            if not own:
                continue
            percents = [row["percent"] for row in own]
            sizes = (round(statistics.mean(row[name] for row in own)) for name in ("params", "macs"))
            text = " | ".join(f"{size:,}" for size in sizes)
            timed = [[row[name] for row in own if name in row] for name in ("ratio_1", "ratio_100")]
            latency = ", ".join(f"{statistics.mean(values):.2f}" for values in timed if values)
            cells = [network, budget, arm, spread(percents), against(percents, base), text, latency]
            cells.append(", ".join(str(row["seed"]) for row in own))
            print(f"| {' | '.join(map(str, cells))} |")


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def against(values: list[float], base: list[float]) -> str:
    """Difference of the means, and p of Welch's test."""
    if len(base) < 1 or values == base:
        return ""
    difference = f"{statistics.mean(values) - statistics.mean(base):+.2f}"
    if min(len(values), len(base)) < 2:
        return difference
    return f"{difference} (p {stats.ttest_ind(values, base, equal_var=False).pvalue:.2g})"


if __name__ == "__main__":
    main()
