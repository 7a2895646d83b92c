"""NeuralScale's headline on 2 cores: VGG11 at full width, CIFAR-10 whole, to 0.58 M parameters, beside uniform scaling.

    python experiments/headline.py --out runs/headline --seeds 2

The paper (Table 1) has 91.22 against 88.18 % after 300 epochs on a GPU; the claim that is measured here is the
difference. Each seed is one run, which an interrupted one goes on with, so any number of short pieces do:
`python experiments/evidence.py run headline --minutes 15`. Numbers go to experiments/headline.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cifar10_vgg11 import show, summarise
from record import write_result

from compressor.pipeline.runner import run
from compressor.recipe import Recipe, parse_recipe

HERE = Path(__file__).parent
PAPER = {"neuralscale": 91.22, "uniform": 88.18}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/headline"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", type=int, help="a seed: its run alone, without the numbers, beside another process")
    parser.add_argument("--iterations", type=int, default=1, help="of architecture descent (the paper: 15)")
    parser.add_argument("--epochs", type=int, default=20, help="of each final training (the paper: 300)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.only is not None:
        one_of(arguments.only, arguments)
        return
    reports = []
    for seed in range(arguments.seeds):
        recipe, report = one_of(seed, arguments)
        reports.append(report)
        numbers = summarise(reports, ("neuralscale", "uniform"))
        write_result(HERE / "headline.json", numbers | {"paper": PAPER, "recipe": recipe.model_dump(mode="json")})


def one_of(seed: int, arguments: argparse.Namespace) -> tuple[Recipe, dict[str, Any]]:
    """The run of a seed: its recipe and its report."""
    recipe = parse_recipe(
        {
            "model": {"name": "vgg11_bn"},
            "data": {"name": "imagefolder", "path": arguments.data, "augment": ["crop", "flip"]},
            "budget": {"params": "0.58M"},
            "widths": {"round_to": 1},  # the paper's
            "search": {
                "method": "neuralscale",
                "iterations": arguments.iterations,
                "pretrain_epochs": 2,
                "batch_size": 128,
                "prune_every": 10,
            },
            "train": {"schedule": "onecycle", "epochs": arguments.epochs, "batch_size": 128},
            "bench": {"provider": "cpu", "batch": 100, "threads": 1},
            "baselines": ["uniform"],
            "threads": arguments.threads,
            "seed": seed,
        }
    )
    return recipe, run(recipe, arguments.out / f"seed{seed}", resume=True, progress=show)


if __name__ == "__main__":
    main()
