"""TissueNet beside uniform scaling and NeuralScale on CIFAR-10, at the same parameters and at the same multiply-adds.

    python experiments/tissuenet_cifar10.py --network vgg16 --data .data/cifar10 --out runs/tissue

VGG16 and ResNet-18 at a quarter of their widths, 3,000 training images (a tenth of them for validation), 10 epochs,
three seeds: half an hour a network on one core. An interrupted comparison goes on where it was; the numbers go to
experiments/tissuenet_cifar10_NETWORK.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from record import write_result

from compressor.comparison import compare_methods
from compressor.recipe import load_recipe

HERE = Path(__file__).parent
MODELS = {"vgg16": "vgg16_bn", "resnet18": "preact_resnet18"}
METHODS = ("uniform", "neuralscale", "tissuenet")
BUDGETS = ("params", "macs")
SETTINGS = ("data.limit=3000", "train.epochs=10", "threads=1", "bench.threads=1", "bench.runs=5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=MODELS, default="vgg16")
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/tissue"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", default="0.2x", help="of the unscaled network's parameters, or multiply-adds")
    arguments = parser.parse_args()
    changes = [f"model.name={MODELS[arguments.network]}", f"data.path={arguments.data}", *SETTINGS]
    recipe = load_recipe(HERE.parent / "recipes" / "tissuenet-cifar10.yaml", changes)
    methods = [f"{name}:{PRUNING}" if name == "neuralscale" else name for name in METHODS]
    budgets = [f"{cost}={arguments.share}" for cost in BUDGETS]
    found = compare_methods(
        recipe, methods, budgets, arguments.seeds, arguments.out / arguments.network, resume=True, progress=show
    )
    write_result(
        HERE / f"tissuenet_cifar10_{arguments.network}.json", {**found, "recipe": recipe.model_dump(mode="json")}
    )


# The paper's 15 iterations on 50,000 images are many times the training here; so are those of the other experiments.
PRUNING = "iterations=2;pretrain_epochs=3;prune_every=5;prune_channels=40"


def show(stage: str, text: str, share: float | None) -> None:
    print(f"{stage:>7}  {text}", flush=True)


if __name__ == "__main__":
    main()
