"""Files of fewer bits: what they cost in accuracy and gain in time, budgets met on them, and preprocessing inside.

    python experiments/precision.py --files           fp32, fp16, int8, int8 after quantisation-aware training; 3 seeds
    python experiments/precision.py --budgets         0.3x latency, batch 100, searched with int8 files and float32 ones
    python experiments/precision.py --preprocessing   beside torchvision's transforms on 1,000 JPEGs, and what it takes
                                    [--data DIR] [--runs DIR] [--seeds 10,11,12] [--networks vgg11,resnet20,mobilenetv2]

--files: the unscaled networks, trained on 10,000 CIFAR-10 images (a tenth of them for validation), 8 epochs; accuracy
of the files on the 10,000 test images; latency in pairs with the float32 file on one thread. Goes on where it was; rows
go to experiments/precision_*.json one by one.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from PIL import Image
from record import write_result
from torchvision import transforms

from compressor import run
from compressor.bench import Conditions, machine_fingerprint, measure_pairs, open_session
from compressor.errors import BudgetError
from compressor.exporters import Form
from compressor.exporters.form import wrap
from compressor.exporters.scheme_choice import form_of
from compressor.files import read_json
from compressor.pipeline.context import RunContext
from compressor.pipeline.file_maker import FileMaker
from compressor.pipeline.quantization_aware import retraining
from compressor.pipeline.scoring import score_file
from compressor.pipeline.shipping import load_weights
from compressor.recipe import Recipe, parse_recipe

HERE = Path(__file__).parent
NETWORKS: dict[str, dict[str, Any]] = {
    "vgg11": {"name": "vgg11_bn", "width": 0.5},
    "resnet20": {"name": "resnet20"},
    "mobilenetv2": {"name": "mobilenetv2", "width": 0.5},
}
KINDS = {"fp32": ("fp32", 0), "fp16": ("fp16", 0), "int8": ("int8", 0), "int8 + QAT": ("int8", 2)}  # epochs of QAT
BATCHES = (1, 100)
SHARE = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/precision"))
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[10, 11, 12])
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS))
    for name in ("files", "budgets", "preprocessing"):
        parser.add_argument(f"--{name}", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.files:
        rows = Rows("files")
        for seed in arguments.seeds:
            for network in arguments.networks:
                rows.add({"network": network, "seed": seed}, lambda key: files_of(key, arguments))
    if arguments.budgets:
        rows = Rows("budgets")
        for network in arguments.networks:
            for seed in arguments.seeds:
                rows.add({"network": network, "seed": seed}, lambda key: budgets_of(key, arguments))
    if arguments.preprocessing:
        rows = Rows("preprocessing")
        for size in (24, 48):
            rows.add({"size": size}, lambda key: parity_of(key, arguments))
        rows.add({"size": None}, lambda key: cost_of(arguments))


class Rows:
    """Rows of a JSON file, each measured once."""

    def __init__(self, name: str) -> None:
        self.path = HERE / f"precision_{name}.json"
        self.rows = read_json(self.path)["rows"] if self.path.exists() else []

    def add(self, key: dict[str, Any], measure: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        if any(all(row[name] == value for name, value in key.items()) for row in self.rows):
            return
        self.rows.append(key | measure(key) | {"machine": machine_fingerprint()["id"]})
        write_result(self.path, {"rows": self.rows})
        print(self.rows[-1], flush=True)


def recipe_of(arguments: argparse.Namespace, network: str, seed: int, **sections: Any) -> Recipe:
    raw = {
        "model": NETWORKS[network],
        "data": {"name": "imagefolder", "path": arguments.data, "limit": 10000, "augment": ["crop", "flip"]},
        "budget": {"params": "1x"},
        "search": {"method": "uniform"},
        "train": {"epochs": 8, "lr": 0.1, "batch_size": 128},
        "baselines": [],
        "bench": {"provider": "cpu", "threads": 1},
        "threads": 1,
        "seed": seed,
    }
    return parse_recipe(raw | sections)


def files_of(key: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one network, and export it in every precision."""
    out = arguments.runs / f"{key['network']}-{key['seed']}"
    run(recipe_of(arguments, **key), out, resume=True, until="train", progress=show)
    made: dict[str, Any] = {}
    plain = out / "fp32.onnx"
    for name, (precision, epochs) in KINDS.items():
        asked = recipe_of(
            arguments,
            **key,
            export={"precision": precision} | ({"tolerance_points": 0, "qat_epochs": epochs} if epochs else {}),
        )
        context = RunContext(asked, out, show)
        network = next(one for one in context.networks() if one.name == "result")
        path = out / f"{name.replace(' ', '')}.onnx"
        maker = FileMaker(network.architecture, asked, context.data, path, retraining(context, network))
        model = load_weights(network.architecture, out / "weights.safetensors", asked.seed)
        found = maker.in_precision(model, precision)
        accuracy = score_file(path, context.data, context.data.test, 1).accuracy
        assert accuracy is not None
        made[name] = {
            "percent": 100 * accuracy,
            "onnx_bytes": path.stat().st_size,
            "scheme": (found.precision.get("scheme") or {}).get("chosen"),
            "ratio": {str(batch): times(plain, path, batch) for batch in BATCHES},
        }
    return {"files": made}


def times(base: Path, candidate: Path, batch: int) -> list[float]:
    """Times the latency: median and interval."""
    conditions = Conditions("cpu", batch, 1)
    ratio = measure_pairs(base, candidate, conditions, lambda so_far: False, looks=(16,), max_seconds=60).ratio()
    return [ratio.median, ratio.low, ratio.high]


def budgets_of(key: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Search by uniform scaling for a share of the latency, with files of both precisions; both measured in int8."""
    budget = {"latency": f"{SHARE}x", "batch": 100}
    found: dict[str, Any] = {}
    for searched in ("int8", "fp32"):
        asked = recipe_of(arguments, **key, budget=budget, export={"precision": searched})
        out = arguments.runs / f"budget-{searched}-{key['network']}-{key['seed']}"
        try:
            run(asked, out, resume=True, until="search", progress=show)
        except BudgetError as error:
            found[f"searched with {searched}"] = {"refused": str(error)}
            continue
        context = RunContext(asked, out, show)
        architecture = next(one.architecture for one in context.networks() if one.name == "result")
        own = RunContext(recipe_of(arguments, **key, budget=budget, export={"precision": "int8"}), out, show)
        runtime = own.runtime(own.reference())
        ratio = runtime.ratio(architecture, SHARE, exact=True)
        found[f"searched with {searched}"] = {
            "ratio": [ratio.median, ratio.low, ratio.high],
            "widths": list(architecture.widths.values()),
        }
    return found


def parity_of(key: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Resize 1,000 JPEGs in the graph and by torchvision, on PIL's images as classification scripts have them."""
    size, paths = key["size"], sorted(Path(arguments.data).rglob("*.jp*g"))
    chosen = [paths[int(place)] for place in np.linspace(0, len(paths) - 1, 1000)]
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    usual = transforms.Compose(
        [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(mean, std)]
    )
    value = helper.make_tensor_value_info
    shape = ["batch", 3, size, size]
    node = helper.make_node("Identity", ["images"], ["out"], "same")
    ends = value("images", TensorProto.FLOAT, shape), value("out", TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "g", [ends[0]], [ends[1]])
    proto = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    wrap(proto, Form(preprocess="resize", mean=mean, std=std))
    differences = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resize.onnx"
        onnx.save_model(proto, path)
        session, _ = open_session(path, provider="cpu", threads=1)
        for one in chosen:
            image = Image.open(io.BytesIO(one.read_bytes())).convert("RGB")
            (made,) = session.run(None, {"images": np.asarray(image)[None]})
            grey = np.abs(made[0] - usual(image).numpy()) * np.array(std).reshape(3, 1, 1) * 255
            differences.append((grey.mean(), grey.max()))
    means, largest = np.array(differences).T
    return {"images": len(chosen), "mean_grey_levels": float(means.mean()), "largest_grey_levels": float(largest.max())}


def cost_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Latency of a network with preprocessing inside, as a share of the same without."""
    asked = recipe_of(arguments, "vgg11", 10)
    out = arguments.runs / "preprocessing"
    run(
        asked.model_copy(update={"train": asked.train.model_copy(update={"epochs": 1})}),
        out,
        resume=True,
        until="train",
    )
    context = RunContext(asked, out, show)
    network = next(one for one in context.networks() if one.name == "result")
    model = load_weights(network.architecture, out / "weights.safetensors", asked.seed)
    found: dict[str, Any] = {}
    for precision in ("fp32", "int8"):
        for preprocess in ("none", "uint8", "resize"):
            own = recipe_of(arguments, "vgg11", 10, export={"precision": precision, "preprocess": preprocess})
            path = out / f"{precision}-{preprocess}.onnx"
            assert form_of(own, context.data).preprocess == preprocess
            FileMaker(network.architecture, own, context.data, path).in_precision(model, precision)
            plain = out / f"{precision}-none.onnx"
            found[f"{precision}, {preprocess}"] = {str(batch): times(plain, path, batch) for batch in BATCHES}
    return {"latency": found}


def show(stage: str, text: str, share: float | None) -> None:
    print(f"   {stage}  {text}", flush=True)


if __name__ == "__main__":
    main()
