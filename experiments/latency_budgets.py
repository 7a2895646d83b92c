"""Budgets in milliseconds: what the search finds, what is shipped, and what a user would get by scaling parameters.

    python experiments/latency_budgets.py                     # goes on where it stopped
    python experiments/latency_budgets.py --only vgg11/1/     # some of the cases

A case is a network, a batch and a share of the unscaled network's latency on one CPU thread. Each is a run of the
whole pipeline: `budget: {latency: 0.5x}`, uniform widths, one epoch of training on a few hundred images of
scikit-learn's digits (latency does not ask for weights), export, and the verification of the trained file beside the
unscaled network. Counted are the seconds that the search spent (exports and measurements), how much of the limit the
trained file uses (upper end of its interval, and median), and the networks measured.

Beside it, what can be done by hand: the same network scaled uniformly to that share of its parameters, and to that
share of its multiply-adds, each exported and measured in pairs with the unscaled network; and, to tell why, MobileNetV2
at half of its parameters with widths in steps of 1, 4 and 8 channels.

Every case has a cache of its own, so that nothing is known beforehand. The numbers go to
experiments/latency_budgets.json after every case; those that are there are not repeated: delete the file to begin anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from record import write_result

from compressor.bench import Conditions
from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.costs.latency_measurement import Runtime
from compressor.files import read_json
from compressor.models import reference_architecture
from compressor.pipeline.runner import run
from compressor.recipe import WidthsConfig, parse_recipe
from compressor.search import Problem
from compressor.search.bounds import bounds_of
from compressor.search.scaling import scale_uniformly

HERE = Path(__file__).parent
RESULT = HERE / "latency_budgets.json"
NETWORKS = {"vgg11": "vgg11_bn", "mobilenet_v2": "torchvision:mobilenet_v2"}
BATCHES, SHARES = (1, 100), (0.3, 0.5, 0.7)
RECIPE = {
    "data": {"name": "digits", "image_size": 32, "channels": 3, "limit": 300},
    "search": {"method": "uniform"},
    "train": {"epochs": 1, "batch_size": 64},
    "baselines": [],
    "device": "cpu",
    "threads": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name begins so, such as vgg11/1/")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    known = read_json(RESULT) if RESULT.exists() else {}
    cases, steps = known.get("cases", {}), known.get("mobilenet_v2_half_params_in_steps", {})
    for batch in BATCHES:
        for name, model in NETWORKS.items():
            for share in SHARES:
                case = f"{name}/{batch}/{share}x"
                if case in cases or not case.startswith(only):
                    continue
                cases[case] = {"budget": budget_run(model, batch, share), "by_hand": by_hand(model, batch, share)}
                save(cases, steps)
                print(case, json.dumps(cases[case]), flush=True)

    for batch in BATCHES:
        if str(batch) not in steps and "steps".startswith(only):
            steps[str(batch)] = in_steps(batch)
            save(cases, steps)
            print(f"steps, batch {batch}", steps[str(batch)], flush=True)


def save(cases: dict[str, Any], steps: dict[str, Any]) -> None:
    write_result(RESULT, {"recipe": RECIPE, "cases": cases, "mobilenet_v2_half_params_in_steps": steps})


def in_steps(batch: int) -> dict[str, float]:
    """The latency of half of MobileNetV2's parameters, widths in steps of 1, 4 and 8, over that of the unscaled one."""
    reference = reference_architecture(NETWORKS["mobilenet_v2"], {}, 10, (3, 32, 32))
    budget = Budget({"params": params_macs.params(reference) // 2})
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMPRESSOR_CACHE"] = folder
        runtime = Runtime(reference, Conditions("cpu", batch, 1), opset=20, folder=Path(folder))
        for step in (1, 4, 8):
            bounds = bounds_of(WidthsConfig(round_to=step), reference)
            problem = Problem(reference, budget, params_macs.COSTS, None, bounds=bounds)  # type: ignore[arg-type]
            told[str(step)] = runtime.ratio(scale_uniformly(problem)[0], 1e9, exact=False).median
    return told


def budget_run(model: str, batch: int, share: float) -> dict[str, Any]:
    """One run of the pipeline at a share of the unscaled network's latency."""
    conditions = {"batch": batch, "provider": "cpu", "threads": 1}
    recipe = parse_recipe(
        {**RECIPE, "model": model, "budget": {"latency": f"{share}x", **conditions}, "bench": {"runs": 20, "warmup": 5}}
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMPRESSOR_CACHE"] = folder
        out = Path(folder) / "run"
        start = time.monotonic()
        report = run(recipe, out)
        seconds = time.monotonic() - start
    found, measured = report["verification"], report["latency_search"]["measured"]
    return {
        "met": report["budget"]["met"],
        "verdict": found["verdict"],
        "ratio": found["ratio"],
        "used_of_limit": found["ratio"]["median"] / share,
        "used_of_limit_upper": found["ratio"]["high"] / share,
        "unscaled_ms": found["unscaled_ms"],
        "median_ms": found["median_ms"],
        "params": report["params"],
        "macs": report["macs"],
        "search_seconds": report["seconds"]["search"],
        "verify_seconds": found["seconds"],
        "seconds": seconds,
        "measured": len(measured),
        "measured_as_shipped": sum(one["exact"] for one in measured),
    }


def by_hand(model: str, batch: int, share: float) -> dict[str, Any]:
    """Uniform scaling to the same share of the parameters, and of the multiply-adds; its true latency."""
    reference = reference_architecture(model, {}, 10, (3, 32, 32))
    folder = Path(tempfile.mkdtemp())
    os.environ["COMPRESSOR_CACHE"] = str(folder)
    runtime = Runtime(reference, Conditions("cpu", batch, 1), opset=20, folder=folder)
    told = {}
    for name, count in params_macs.COSTS.items():
        problem = Problem(reference, Budget({name: int(share * count(reference))}), params_macs.COSTS, None)  # type: ignore[arg-type]
        ratio = runtime.ratio(scale_uniformly(problem)[0], 1e9, exact=False)
        told[name] = {"ratio": ratio.median, "interval": [ratio.low, ratio.high], "used_of_limit": ratio.median / share}
    shutil.rmtree(folder)
    return told


if __name__ == "__main__":
    main()
