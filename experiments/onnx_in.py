"""Networks that come as ONNX files: torchvision's resnet18 and mobilenet_v2, by both of torch's exporters, to 0.3x.

    python experiments/onnx_in.py --data .data/cifar10 --runs runs/onnx_in

Trains each network on CIFAR-10, exports it, and compresses the file to 0.3 of its parameters by uniform scaling:
fine-tuned from the file's weights, and for comparison from fresh weights for as many epochs. Goes on where it was
stopped. The numbers go to experiments/onnx_in.json.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision
from record import write_result
from safetensors.torch import load_file

from compressor import run
from compressor.costs import params_macs
from compressor.data import DataSet, load_data
from compressor.exporters import OnnxNetwork, export_onnx, measure_parity
from compressor.files import replace_atomic
from compressor.models import reference_architecture
from compressor.pipeline.settings import final_settings
from compressor.pipeline.shipping import score_file
from compressor.recipe import Recipe, parse_recipe
from compressor.training.checkpoint import save_tensors
from compressor.training.trainer import Trainer

HERE = Path(__file__).parent
NETWORKS = {"resnet18": 0.05, "mobilenet_v2": 0.05}  # and learning rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/onnx_in"))
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--finetune", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in NETWORKS:
        for exporter in ("traced", "dynamo"):
            rows.append(one(name, exporter, arguments))
            print(rows[-1], flush=True)
            numbers = {"images": arguments.images, "epochs": arguments.epochs, "finetune": arguments.finetune}
            write_result(HERE / "onnx_in.json", numbers | {"rows": rows})


def recipe_of(model: dict[str, Any], arguments: argparse.Namespace, lr: float, epochs: int) -> Recipe:
    """The recipe of a compression to 0.3 of the parameters."""
    return parse_recipe(
        {
            "model": model,
            "data": {
                "name": "imagefolder",
                "path": arguments.data,
                "limit": arguments.images,
                "augment": ["crop", "flip"],
            },
            "budget": {"params": "0.3x"},
            "search": {"method": "uniform"},
            "train": {"epochs": epochs, "lr": lr},
            "baselines": [],
            "bench": {"provider": "cpu", "batch": 1, "warmup": 5, "runs": 20, "threads": 1},
            "threads": 1,
        }
    )


def one(name: str, exporter: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compress the file of one network by one exporter, from its weights and from fresh ones."""
    path = arguments.runs / f"{name}-{exporter}.onnx"
    recipe = recipe_of({"name": f"torchvision:{name}"}, arguments, NETWORKS[name], arguments.epochs)
    data = load_data(recipe.data, seed=0)
    if not path.exists():
        export(name, exporter, path, recipe, data, arguments)
    row: dict[str, Any] = {"network": name, "exporter": exporter}
    row["original_percent"] = 100 * score_file(path, data, data.test, 1).accuracy
    reference = reference_architecture(f"onnx:{path}", {}, data.classes, data.input_shape)
    row["original_params"], row["groups"] = params_macs.params(reference), len(reference.widths)
    for weights in ("given", "fresh"):
        out = arguments.runs / f"{name}-{exporter}-{weights}"
        lr = NETWORKS[name] / 5 if weights == "given" else NETWORKS[name]
        wanted = recipe_of({"onnx": str(path), "weights": weights}, arguments, lr, arguments.finetune)
        report = run(wanted, out, resume=out.exists())
        row[weights] = {
            "params": report["params"],
            "limit": report["budget"]["limits"]["params"],
            "met": report["budget"]["met"],
            "percent": 100 * report["accuracy"]["onnx"],
            "max_rel_error": report["parity"]["max_rel_error"],
        }
    return row


def export(name: str, exporter: str, path: Path, recipe: Recipe, data: DataSet, arguments: argparse.Namespace) -> None:
    """Train torchvision's own network and write its file."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=data.classes)
    weights = arguments.runs / f"{name}.safetensors"
    if weights.exists():
        model.load_state_dict(load_file(weights))
    else:
        trainer = Trainer(data, torch.device("cpu"), recipe.data.augment, channels_last=True)
        checkpoint = arguments.runs / f"{name}-checkpoint.safetensors"
        model = trainer.prepare(model)
        trainer.fit(model, final_settings(recipe.train), seed=0, checkpoint=checkpoint)
        save_tensors(weights, model.state_dict(), {})
    model = model.cpu().eval()
    images = torch.randn(2, *data.input_shape)
    if exporter == "dynamo":
        export_onnx(model, path, [images])
        return

    def trace(beside: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (images,), str(beside), dynamo=False, dynamic_axes={"input": {0: "n"}}, input_names=["input"]
            )

    replace_atomic(path, trace)
    measure_parity(model, OnnxNetwork(path).logits, [images], 1e-4)


if __name__ == "__main__":
    main()
