"""TissueNet on Fashion-MNIST: the MLP of its Table 1 with CE and SE, and hybrid beside single units as in its Table 5.

    python experiments/tissuenet_fashion.py --data /usr/share/datasets/fashion-mnist --out runs/fashion

(The data is the Debian package dataset-fashion-mnist.) The MLP: 20,000 of its images, 10 epochs; LeNet: 10,000 and 4;
three seeds, the test on 10,000. The paper has 200 epochs of MNIST. An interrupted experiment goes on where it was; the
numbers go to experiments/tissuenet_fashion.json.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from record import write_result

from compressor.costs import params_macs
from compressor.models import reference_architecture
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe
from compressor.report import efficiency_of

HERE = Path(__file__).parent
SHAPE, CLASSES = (1, 28, 28), 10
UNITS = {"small": (2, 3, 2), "middle": (2, 4, 2), "large": (2, 5, 2)}
MIXES = {"drawn": [], "1:1:1": [1, 1, 1], "2:1:1": [2, 1, 1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--out", type=Path, default=Path("runs/fashion"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    mlp = {"model": "mlp", "train": {"epochs": 10, "batch_size": 128, "lr": 0.05}}
    lenet = {
        "model": {"name": "lenet5", "options": {"style": "tissue"}},
        "train": {"epochs": 4, "batch_size": 128, "lr": 0.1},
    }
    single = {"method": "tissuenet", "strategy": "all", "trials": 1}
    jobs: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
        "mlp unscaled": (mlp, {"method": "uniform"}, "1x"),
        "mlp tissuenet k = 4": (mlp, single | {"units": [[2, 4, 2]]}, paper_params(4)),
        "mlp tissuenet k = 8": (mlp, single | {"units": [[2, 8, 2]]}, paper_params(8)),
        "mlp uniform": (mlp, {"method": "uniform"}, paper_params(4)),
    }
    for name, unit in UNITS.items():
        jobs[f"lenet single {name} {unit}"] = (lenet, single | {"units": [list(unit)]}, lenet_params([unit]))
    kinds = [list(unit) for unit in UNITS.values()]
    for name, counts in MIXES.items():
        # At most as much as four of the largest units: the counts are what decides.
        largest = lenet_params([UNITS["large"]])
        jobs[f"lenet hybrid {name}"] = (lenet, single | {"units": kinds, "counts": counts}, largest)
    rows = [row for name, job in jobs.items() for row in runs(name, job, seeds, arguments)]
    write_result(HERE / "tissuenet_fashion.json", {"rows": rows, "summary": summary(rows)})


def runs(
    name: str, job: tuple[dict[str, Any], dict[str, Any], Any], seeds: range, arguments: Any
) -> list[dict[str, Any]]:
    base, search, params = job
    rows = []
    for seed in seeds:
        raw = base | {
            "data": {
                "name": "idx",
                "path": arguments.data,
                "validation": 0.05,
                "limit": 20_000 if base["model"] == "mlp" else 10_000,
            },
            "budget": {"params": params},
            "search": search,
            "bench": {"provider": "cpu", "runs": 20, "threads": 1},
            "baselines": [],
            "threads": 1,
            "seed": seed,
        }
        folder = arguments.out / name.replace(" ", "-").replace(":", "-").replace(",", "") / str(seed)
        found = run(parse_recipe(raw), folder, resume=folder.exists())
        row = {key: found[key] for key in ("params", "macs", "accuracy", "metric", "stacks", "stacked", "widths")}
        rows.append({"name": name, "seed": seed} | row)
        print(f"{name} seed {seed}: {found['accuracy']['onnx']:.4f} {found['params']} {found['macs']}", flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, with CE and SE of the MLPs against the unscaled one."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    base = by_name["mlp unscaled"]
    found = []
    for name, group in by_name.items():
        accuracy = [row["accuracy"]["onnx"] for row in group]
        scores = [efficiency_of(row, other) for row, other in zip(group, base, strict=True)] if "mlp" in name else []
        found.append(
            {
                "name": name,
                "params": [row["params"] for row in group],
                "macs": [row["macs"] for row in group],
                "accuracy": statistics.mean(accuracy),
                "deviation": statistics.stdev(accuracy) if len(accuracy) > 1 else None,
                "ce": statistics.mean(score["ce"] for score in scores if score) if scores else None,
                "se": statistics.mean(score["se"] for score in scores if score) if scores else None,
            }
        )
    return found


def paper_params(k: int) -> int:
    """Parameters of the paper's MLP: 392 units (2, k, 2), one Linear, biases and batch-norms."""
    units = 784 // 2
    return units * 4 * k + 3 * units * k + 3 * 784 + 784 * CLASSES + CLASSES


def lenet_params(kinds: list[tuple[int, int, int]]) -> int:
    """Parameters of the LeNet at its own widths, four units of the first kind stacked."""
    reference = reference_architecture("lenet5", {"style": "tissue"}, CLASSES, SHAPE)
    dense = params_macs.params(reference)
    (_, hidden, _), own = kinds[0], reference.widths["conv2"]
    pairs = 4 * hidden * 4  # of nodes: 2 × hidden + hidden × 2 for each of four units
    return dense - 25 * 2 * 8 * own - 3 * own + 25 * pairs + 3 * 4 * hidden


if __name__ == "__main__":
    main()
