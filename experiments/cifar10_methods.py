"""Five methods at three budgets on CIFAR-10, three seeds (docs/results.md): what `compressor sweep` gives.

    python experiments/cifar10_methods.py --data .data/cifar10 --out runs/methods --workers 2

VGG11 at a quarter of its width, 9,000 training images (a tenth of the 10,000 taken is for validation), 8 epochs: an
hour and a half on one core of a busy machine. An interrupted comparison goes on where it was. The page lies in the
folder of the runs; its numbers go to experiments/cifar10_methods.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from record import write_result

from compressor.pipeline.compare import compare_methods
from compressor.pipeline.executors import LocalPool
from compressor.recipe import load_recipe

HERE = Path(__file__).parent
METHODS = ("neuralscale", "morphnet", "uniform", "l1:finetune_epochs=8", "random")
BUDGETS = ("0.0625x", "0.25x", "0.5x")
SEARCH = "{method: neuralscale, iterations: 2, pretrain_epochs: 3, batch_size: 128, prune_every: 10}"
SETTINGS = (
    f"search={SEARCH}",
    "budget={params: 37k}",
    "data.limit=10000",
    "train.epochs=8",
    "threads=1",
    "bench.threads=1",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, each on one thread")
    arguments = parser.parse_args()
    recipe = load_recipe(HERE.parent / "recipes" / "cifar10-vgg11.yaml", [f"data.path={arguments.data}", *SETTINGS])
    found = compare_methods(
        recipe,
        METHODS,
        BUDGETS,
        arguments.seeds,
        arguments.out,
        resume=True,
        progress=show,
        executor=lambda folder: LocalPool(arguments.workers, 1),
    )
    write_result(HERE / "cifar10_methods.json", {**found, "recipe": recipe.model_dump(mode="json")})


def show(stage: str, text: str, share: float | None) -> None:
    print(f"{stage:>7}  {text}", flush=True)


if __name__ == "__main__":
    main()
