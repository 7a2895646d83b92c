"""What `make quickstart` shows, over five seeds: what won the race of growing and uniform scaling, uniform scaling, the
unscaled network.

    python experiments/quickstart.py

Each seed is a run of recipes/quickstart.yaml as it is, with one thread, and one of uniform scaling with the learning
rate that suits it best; Welch's tests stand beside the means. Learning rates were chosen on validation images with
seeds 0 to 2, of 0.3, 0.5, 1 and 2, so the seeds here are others. What is in the JSON file is not run again: an
interrupted experiment goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from record import write_result
from scipy.stats import ttest_ind

from compressor.files import read_json
from compressor.pipeline.runner import run
from compressor.recipe import load_recipe

HERE = Path(__file__).parent
JSON = HERE / "quickstart.json"
RECIPE = HERE.parent / "recipes" / "quickstart.yaml"
BEST = "uniform, lr 1"
UNIFORM = ["search={method: uniform}", "baselines=[]", "train.lr=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart_seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    arguments = parser.parse_args()
    rows = read_json(JSON)["rows"] if JSON.exists() else {}
    for seed in arguments.seeds:
        if str(seed) in rows:
            continue
        own = [f"seed={seed}", "threads=1"]
        report = run(load_recipe(RECIPE, own), arguments.out / str(seed), resume=True)
        report["baseline"][BEST] = run(load_recipe(RECIPE, [*own, *UNIFORM]), arguments.out / f"{seed}u", resume=True)
        rows[str(seed)] = row(report)
        print(seed, rows[str(seed)], flush=True)
        write_result(JSON, {"rows": rows, "summary": summary(rows), "recipe": RECIPE.read_text(encoding="utf-8")})


def row(report: dict[str, Any]) -> dict[str, Any]:
    """Of one run: each network's score on the ONNX file, its costs and epochs; the run's seconds by stage."""
    networks = {"result": report, **report["baseline"]}
    return {
        "networks": {
            name: {
                "metric_percent": 100 * network["metric"]["onnx"],
                "params": network["params"],
                "macs": network["macs"],
                "epochs": len(network["training"]),
            }
            for name, network in networks.items()
        },
        "metric": report["metric"]["name"],
        "chosen": report["trace"]["race"]["chosen"],
        "limits": report["budget"]["limits"],
        "met": report["budget"]["met"],
        "seconds": report["seconds"],
    }


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """Means and standard deviations by network; Welch's tests of the result against the others."""
    scores = {
        name: [found["networks"][name]["metric_percent"] for found in rows.values()]
        for name in next(iter(rows.values()))["networks"]
    }
    if len(rows) < 2:
        return {"percent": scores}
    return {
        "percent": scores,
        "mean": {name: mean(values) for name, values in scores.items()},
        "deviation": {name: stdev(values) for name, values in scores.items()},
        "welch_p": {
            name: float(ttest_ind(scores["result"], values, equal_var=False).pvalue)
            for name, values in scores.items()
            if name != "result"
        },
    }


if __name__ == "__main__":
    main()
