"""float32, float16 and int8 files of the same trained networks: accuracy, size and latency, measured in turns.

    python experiments/precision_cifar10.py --data .data/cifar10 --runs runs/precision

Trains each network once on CIFAR-10 (within a budget, and unscaled), exports it in three precisions by the recipe's
`export.precision`, scores the files on the 10,000 test images and measures them side by side on one thread. Goes on
where it was stopped. The numbers go to experiments/precision_cifar10.json.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from record import write_result

from compressor import load_recipe, run
from compressor.bench import Conditions, measure_pairs
from compressor.files import read_json
from compressor.pipeline.runner import continue_run

HERE = Path(__file__).parent
NETWORKS = {
    "vgg11_bn": {"model.name": "vgg11_bn", "model.width": 0.5, "train.lr": 0.1},
    "mobilenet_v2": {"model.name": "torchvision:mobilenet_v2", "train.lr": 0.05},
}
COMMON = [
    "search={method: uniform}",
    "budget={params: 0.25x}",
    "baselines=[reference]",
    "bench.runs=20",
    "bench.warmup=4",
]
PRECISIONS = ("fp32", "fp16", "int8")
BATCHES = (1, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/precision"))
    parser.add_argument("--images", type=int, default=15000)
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, settings in NETWORKS.items():
        trained = arguments.runs / name / "trained"
        sets = [f"{key}={value}" for key, value in settings.items()]
        sets += [f"data.path={arguments.data}", f"data.limit={arguments.images}", f"train.epochs={arguments.epochs}"]
        sets += ["threads=1", "bench.threads=1", "bench.batch=100", *COMMON]
        recipe = load_recipe("recipes/cifar10-vgg11.yaml", sets)
        run(recipe, trained, resume=trained.exists(), until="train")
        folders = {}
        for precision in PRECISIONS:
            folders[precision] = folder = arguments.runs / name / precision
            if not folder.exists():
                shutil.copytree(trained, folder.with_suffix(".tmp"), dirs_exist_ok=True)
                folder.with_suffix(".tmp").rename(folder)
            own = load_recipe("recipes/cifar10-vgg11.yaml", [*sets, f"export.precision={precision}"])
            if not (folder / "report.json").exists():
                run(own, folder, resume=True, until="export")
                continue_run(folder, "report")
        rows += compared(name, folders)
        for row in rows[-2 * len(PRECISIONS) :]:
            print(row, flush=True)
        write_result(
            HERE / "precision_cifar10.json", {"images": arguments.images, "epochs": arguments.epochs, "rows": rows}
        )


def compared(name: str, folders: dict[str, Path]) -> list[dict[str, Any]]:
    """Rows of both networks of a run, each file measured in pairs with the float32 one."""
    rows = []
    for network, inside in (("result", "."), ("unscaled", "baselines/reference")):
        for precision, folder in folders.items():
            exported = read_json(folder / inside / "export.json")
            ratios = {}
            for batch in BATCHES:
                pairs = measure_pairs(
                    folders["fp32"] / inside / "model.onnx",
                    folder / inside / "model.onnx",
                    Conditions("cpu", batch, 1),
                    lambda so_far: False,
                    looks=(16,),
                    max_seconds=60,
                )
                ratio, (median, _) = pairs.ratio(), pairs.candidate_ms()
                ratios[str(batch)] = {"ms": median, "ratio": ratio.median, "low": ratio.low, "high": ratio.high}
            told = exported["precision"]
            rows.append(
                {
                    "model": name,
                    "network": network,
                    "precision": precision,
                    "params": exported["params"],
                    "onnx_bytes": exported["onnx_bytes"],
                    "accuracy_percent": 100 * exported["accuracy"]["onnx"],
                    "pytorch_percent": 100 * exported["accuracy"]["torch"],
                    "scheme": (told.get("scheme") or {}).get("chosen"),
                    "schemes": (told.get("scheme") or {}).get("schemes"),
                    "max_rel_error": exported["parity"]["max_rel_error"],
                    "latency": ratios,
                }
            )
    return rows


if __name__ == "__main__":
    main()
