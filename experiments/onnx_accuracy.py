"""Is a network that is given as an ONNX file compressed as well as the same network in PyTorch?

    python experiments/onnx_accuracy.py --seeds 0,1,2 [--runs DIR]    goes on where it was

The trained VGG11 of experiments/kept_weights.py (the same seeds, data and settings; its rows `kept` are the arm in
PyTorch) is given as its .onnx alone: with the labels of the 10,000 training images, and with these images without
labels, distilled from the file. Accuracy is that of the ONNX file on the 10,000 test images with their true labels.
Under the latency budget all three arms are run here, one after another.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import kept_weights
import torch
from record import write_result

from compressor import run
from compressor.data import load_data, normalised
from compressor.pipeline.scoring import score_file
from compressor.recipe import parse_recipe

RESULT = Path(__file__).with_suffix(".json")
BUDGETS: tuple[dict[str, Any], ...] = ({"params": "0.1x"}, {"params": "0.25x"}, {"latency": "0.5x", "batch": 1})
METHODS = ("taylor", "uniform")
ARMS = ("onnx", "onnx, no labels", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/kept_weights"))
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--budgets", type=lambda text: [int(one) for one in text.split(",")], default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for place in arguments.budgets:
        for seed in arguments.seeds:
            weights, reference = kept_weights.trained("vgg11", seed, arguments)
            for method in METHODS if "latency" not in BUDGETS[place] else METHODS[:1]:
                for arm in ARMS if "latency" in BUDGETS[place] else ARMS[:2]:
                    measure(arguments, seed=seed, budget=BUDGETS[place], method=method, arm=arm, trained=weights.parent)
            print(seed, reference)


def name_of(budget: dict[str, Any]) -> str:
    """0.1x params."""
    cost, limit = next(iter(budget.items()))
    return f"{limit} {cost}"


def measure(
    arguments: argparse.Namespace, *, seed: int, budget: dict[str, Any], method: str, arm: str, trained: Path
) -> None:
    """One run, if it is not there yet."""
    key = {"seed": seed, "budget": name_of(budget), "method": method, "arm": arm}
    if any(all(row[name] == value for name, value in key.items()) for row in rows()):
        return
    told = {entry: json.loads(value) for entry, value in metadata(trained / "model.onnx").items()}
    model = {"onnx": str(trained / "model.onnx")}
    if arm == "torch":
        model = kept_weights.NETWORKS["vgg11"]["model"] | {"weights": str(trained / "weights.safetensors")}
    data = {
        "name": "imagefolder",
        "path": arguments.data,
        "limit": arguments.images,
        "augment": ["crop", "flip"],
        "labels": arm != "onnx, no labels",
        "mean": told["compressor.mean"],
        "std": told["compressor.std"],
    }
    sections = kept_weights.arm_sections("vgg11", method, "kept") | {"model": model, "budget": budget, "data": data}
    out = arguments.runs / "onnx" / f"{seed}-{method}-{name_of(budget)}-{arm}".replace(" ", "-").replace(",", "")
    recipe = kept_weights.recipe_of("vgg11", seed, arguments, **sections)
    run(recipe, out, resume=True, until="export", progress=kept_weights.show)
    record = json.loads((out / "export.json").read_text(encoding="utf-8"))
    row = key | {
        "percent": 100 * true_accuracy(out / "model.onnx", data | {"labels": True}, seed),
        "trained_percent": kept_weights.percent(trained),
        "params": record["params"],
        "macs": record["macs"],
    }
    if arm == "onnx, no labels":
        row["agreement_percent"] = 100 * record["metric"]["onnx"]
    write_result(RESULT, {"rows": sorted([*rows(), row], key=lambda one: [str(one[name]) for name in key])})
    print(row, flush=True)


def metadata(path: Path) -> dict[str, str]:
    """What the file says of the images that it was trained on."""
    import onnx

    wanted = ("compressor.mean", "compressor.std")
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props if entry.key in wanted}


def true_accuracy(path: Path, data: dict[str, Any], seed: int) -> float:
    """Of a file on the test images with their labels."""
    config = parse_recipe(
        {"model": "lenet5", "data": data, "budget": {"params": "1x"}, "search": {"method": "uniform"}}
    ).data
    loaded = normalised(load_data(config, seed=seed), config.mean, config.std)
    found = score_file(path, loaded, loaded.test, threads=1).accuracy
    assert found is not None
    return found


def rows() -> list[dict[str, Any]]:
    """What was measured."""
    return json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []


if __name__ == "__main__":
    main()
