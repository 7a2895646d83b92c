"""Growing on CIFAR-10 at small scale: budgets met, accuracy beside baselines, time beside the dense network.

    python experiments/growing.py budgets      vgg16 and resnet20 to 10, 20 and 50 % of parameters and of MACs
    python experiments/growing.py layers       basic3resnet and plain3net, units and channels, beside all of their units
    python experiments/growing.py time         vgg16 grown to 5 and 10 % and trained dense, epoch by epoch in turn
    python experiments/growing.py fresh        seeds 30 to 34, 6,000 images: beside uniform, random and direct design

Each writes experiments/growing_NAME.json after every run and goes on with what is missing. Accuracies are of the last
epoch on --test of the test images, of PyTorch; learning rate: one cycle to 0.1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from record import write_result

from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.data import DataSet, load_data
from compressor.models import build, reference_architecture
from compressor.pipeline.settings import final_settings
from compressor.recipe import Recipe, parse_recipe
from compressor.search import Problem, SearchResult, Unfinished, search
from compressor.training.checkpoint import load_snapshot
from compressor.training.trainer import Paused, Trainer

HERE = Path(__file__).parent
FIRST_FRESH = 30  # seeds from here on chose no setting of growth by utility
METHODS: dict[str, dict[str, Any]] = {
    "growing": {"method": "growing"},
    "growing, returns 6": {"method": "growing", "returns": 6},
    "random": {"method": "growing", "sampling": "random"},
    "global temperature": {"method": "growing", "temperature": "global"},
    "direct design": {"method": "growing", "weights": "fresh"},
    "uniform": {"method": "uniform"},
}


@dataclass(frozen=True)
class Case:
    """One network to grow, and how it trains."""

    model: str
    width: float
    images: int
    epochs: int
    budget: dict[str, str]
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def recipe(self, method: dict[str, Any], data: str) -> Recipe:
        augment = ["crop", "flip"]
        images = {"name": "imagefolder", "path": data, "limit": self.images, "validation": 0.0, "augment": augment}
        raw = {
            "model": {"name": self.model, "width": self.width, "options": self.options},
            "data": images,
            "budget": self.budget,
            "search": method,
            "train": {"epochs": self.epochs, "batch_size": 128},
            "seed": self.seed,
        }
        return parse_recipe(raw)


def problem_of(case: Case, recipe: Recipe, data: DataSet, trainer: Trainer, work: Path | None = None) -> Problem:
    reference = reference_architecture(case.model, case.options, data.classes, data.input_shape, case.width)
    own = {name: float(count(reference)) for name, count in params_macs.COSTS.items()}
    budget, final = Budget(recipe.budget.resolve(own)), final_settings(recipe.train)
    return Problem(reference, budget, params_macs.COSTS, trainer, case.seed, work, final=final, width=case.width)


def measure(case: Case, method: dict[str, Any], data: DataSet, path: str) -> dict[str, Any]:
    """Search, train as the pipeline would, and score."""
    recipe = case.recipe(method, path)
    trainer = Trainer(data, torch.device("cpu"), recipe.data.augment, channels_last=True)
    problem = problem_of(case, recipe, data, trainer)
    begun = time.perf_counter()
    found = search(problem, recipe.search)
    model, own = trained(problem, found, trainer), problem.reference
    spent = time.perf_counter() - begun
    costs = {name: float(count(found.architecture)) for name, count in params_macs.COSTS.items()}
    limits = problem.budget.limits
    row: dict[str, Any] = {
        "seed": case.seed,
        "accuracy_percent": 100 * trainer.evaluate(model, data.test).accuracy,
        "seconds": spent,
        **costs,
        **{f"{name}_share": costs[name] / count(own) for name, count in params_macs.COSTS.items()},
        "used": {name: costs[name] / limit for name, limit in limits.items()},
        "met": all(costs[name] <= limit for name, limit in limits.items()),
        "widths": dict(found.architecture.widths),
    }
    if growth := found.trace.get("growth"):
        epochs = growth["epochs"]
        dense = growth["reference"]["flops_per_epoch"] * len(epochs)
        row["settled"] = growth["settled"]
        row["training_flops_share"] = sum(epoch["flops"] for epoch in epochs) / dense
        row["mean_channels_by_epoch"] = [sum(e["channels"].values()) / len(e["channels"]) for e in epochs]
        row["units_by_epoch"] = [e["units"] for e in epochs]
    return row


def trained(problem: Problem, found: SearchResult, trainer: Trainer) -> torch.nn.Module:
    """The result after what training it still needs."""
    model, settings = build(found.architecture, problem.seed), problem.final
    assert settings is not None
    if found.weights is not None:
        model.load_state_dict(dict(found.weights))
    model = trainer.prepare(model)
    if found.finetuning is not None and found.finetuning.epochs:
        own = found.finetuning
        settings = replace(settings, epochs=own.epochs, lr_at=lambda step, per_epoch: own.lr)
    if found.finetuning is None or found.finetuning.epochs:
        trainer.fit(model, settings, seed=problem.seed)
    return model


def budgets(arguments: argparse.Namespace) -> Iterator[tuple[str, Case, dict[str, Any]]]:
    for model in ("vgg16_bn", "resnet20"):
        for name in ("params", "macs"):
            for share in ("0.1x", "0.2x", "0.5x"):
                for seed in range(arguments.seeds):
                    case = Case(model, 1.0, arguments.images or 512, arguments.epochs or 4, {name: share}, seed)
                    yield f"{model} {name} {share}", case, {"method": "growing", "settle": 0.5}  # or too few steps


def fresh(arguments: argparse.Namespace) -> Iterator[tuple[str, Case, dict[str, Any]]]:
    small, dense = ("vgg16_bn", 0.25), ("resnet20", 1.0)
    beside = [(*small, "params", "0.1x"), (*small, "macs", "0.1x")]
    turns = [
        (beside, ("uniform", "growing", "growing, returns 6"), arguments.seeds),
        (beside, ("direct design", "random"), arguments.seeds),
        ([(*dense, "params", "0.2x")], ("uniform", "growing"), arguments.seeds),
        (beside, ("global temperature",), 1),
    ]
    for budgets, arms, seeds in turns:
        for seed in range(FIRST_FRESH, FIRST_FRESH + seeds):
            for model, width, budget, share in budgets:
                for name in arms if model in arguments.models else ():
                    images, epochs = arguments.images or 6000, arguments.epochs or 20
                    case = Case(model, width, images, epochs, {budget: share}, seed)
                    yield f"{model} {budget} {share} {name}", case, METHODS[name]


def layers(arguments: argparse.Namespace) -> Iterator[tuple[str, Case, dict[str, Any]]]:
    for seed in range(arguments.seeds):
        for model in ("basic3resnet", "plain3net"):
            for name in ("growing", "uniform"):
                images, epochs = arguments.images or 4000, arguments.epochs or 20
                case = Case(model, 1.0, images, epochs, {"params": "0.1x"}, seed, {"units": 6})
                yield f"{model} of 6 units 0.1x {name}", case, METHODS[name]


def compare(arguments: argparse.Namespace, runs: Iterator[tuple[str, Case, dict[str, Any]]], path: Path) -> None:
    """Run what the file does not have yet."""
    known: dict[str, list[dict[str, Any]]] = json.loads(path.read_text())["runs"] if path.exists() else {}
    loaded: dict[int, DataSet] = {}
    for name, case, method in runs:
        if any(row["seed"] == case.seed for row in known.get(name, [])):
            continue
        if case.images not in loaded:
            data = load_data(case.recipe(METHODS["uniform"], arguments.data).data, seed=0)
            order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
            loaded[case.images] = replace(data, test=data.test.subset(order[: arguments.test]))
        row = measure(case, method, loaded[case.images], arguments.data)
        known.setdefault(name, []).append(row)
        told = f"{row['accuracy_percent']:.2f} %, used {row['used']}, MACs {row['macs_share']:.3f}"
        print(f"{name} seed {case.seed}: {told}, {row['seconds']:.0f} s", flush=True)
        write_result(path, {"runs": known, "summary": {key: summary(rows) for key, rows in known.items()}})


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = [row["accuracy_percent"] for row in rows]
    return {
        "accuracy_mean": statistics.mean(found),
        "accuracy_std": statistics.stdev(found) if len(found) > 1 else None,
        "params_share": statistics.mean(row["params_share"] for row in rows),
        "macs_share": statistics.mean(row["macs_share"] for row in rows),
        "least_used": min(min(row["used"].values()) for row in rows),
        "most_used": max(max(row["used"].values()) for row in rows),
    }


def measure_time(arguments: argparse.Namespace, path: Path) -> None:
    """Epochs of dense training and of growth in turn, each on from its checkpoint."""
    shares = ("0.05x", "0.1x")
    cases = [
        Case("vgg16_bn", arguments.width, arguments.images or 1024, arguments.epochs or 12, {"params": s})
        for s in shares
    ]
    data = load_data(cases[0].recipe(METHODS["growing"], arguments.data).data, seed=0)
    dense, grown = list[float](), {share: list[dict[str, Any]]() for share in shares}
    with tempfile.TemporaryDirectory() as folder:
        for until in range(1, cases[0].epochs + 1):
            dense = dense_epochs(cases[0], data, arguments.data, Path(folder), until)
            for share, case in zip(shares, cases, strict=True):
                found = growth_epochs(case, data, arguments.data, Path(folder) / share, until)
                grown[share] = found or grown[share]
            print(f"epoch {until}: dense {dense[-1]:.1f} s", flush=True)
    result: dict[str, Any] = {"width": arguments.width, "images": cases[0].images, "dense_seconds": dense}
    for share, rows in grown.items():
        seconds = [row["seconds"] for row in rows]
        result[share] = {
            "seconds": seconds,
            "time_ratio": sum(seconds) / sum(dense),
            "ratio_by_epoch": [own / other for own, other in zip(seconds, dense, strict=True)],
            "flops_ratio": sum(r["flops"] for r in rows) / sum(r["dense_flops"] for r in rows),
            "params_share": rows[-1]["params_share"],
            "macs_share": rows[-1]["macs_share"],
        }
        print(share, result[share]["time_ratio"], result[share]["flops_ratio"], flush=True)
    write_result(path, result)


def pausing(data: DataSet, recipe: Recipe, until: int) -> Trainer:
    """A trainer that stops after so many epochs."""
    return Trainer(data, torch.device("cpu"), recipe.data.augment, False, True, 1e9, pause=lambda done: done >= until)


def dense_epochs(case: Case, data: DataSet, path: str, folder: Path, until: int) -> list[float]:
    recipe = case.recipe(METHODS["uniform"], path)
    trainer = pausing(data, recipe, until)
    problem = problem_of(case, recipe, data, trainer)
    assert problem.final is not None
    model, checkpoint = trainer.prepare(build(problem.reference, 0)), folder / "dense.safetensors"
    try:
        history = trainer.fit(model, problem.final, seed=0, checkpoint=checkpoint)
    except Paused:
        snapshot = load_snapshot(checkpoint)
        assert snapshot is not None
        return [record["seconds"] for record in snapshot.values["history"]]
    return [record.seconds for record in history]


def growth_epochs(case: Case, data: DataSet, path: str, work: Path, until: int) -> list[dict[str, Any]]:
    """Rows of all epochs once growth is over, before that none."""
    recipe = case.recipe(METHODS["growing"], path)
    problem = problem_of(case, recipe, data, pausing(data, recipe, until), work)
    try:
        found = search(problem, recipe.search)
    except Unfinished:
        return []
    own, growth = problem.reference, found.trace["growth"]
    shares = {f"{name}_share": count(found.architecture) / count(own) for name, count in params_macs.COSTS.items()}
    return [{**row, **shares, "dense_flops": growth["reference"]["flops_per_epoch"]} for row in growth["epochs"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["budgets", "layers", "time", "fresh"])
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, help="training images")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--models", nargs="+", default=["vgg16_bn", "resnet20"], help="of `fresh`")
    parser.add_argument("--width", type=float, default=1.0, help="of `time`")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = HERE / f"growing_{arguments.what}.json"
    runs = {"budgets": budgets, "layers": layers, "fresh": fresh}
    if arguments.what == "time":
        measure_time(arguments, path)
    else:
        compare(arguments, runs[arguments.what](arguments), path)


if __name__ == "__main__":
    main()
