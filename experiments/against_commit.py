"""Is this code as fast as that of an earlier commit? Searching, tracing, recipes, `--help`: CPU time, in turns.

    python experiments/against_commit.py 2c15739

Both commits are installed into folders of their own and run in fresh processes, one thread, in turns: A B, B A, ...
The ratio of their CPU times is what counts; it is written to experiments/against_commit.json. A search is that of a
whole run (`until="search"`), on the embedded digits; each process first imports what it needs, unmeasured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from record import write_result

ROOT = Path(__file__).parents[1]
BASE = {
    "model": {"name": "resnet20", "width": 0.5},
    "data": {"name": "digits", "image_size": 16, "limit": 300},
    "train": {"epochs": 1, "batch_size": 64},
    "baselines": [],
    "device": "cpu",
    "threads": 1,
}
PRUNED = {"iterations": 1, "pretrain_epochs": 1, "batch_size": 64, "prune_every": 1, "prune_channels": 8}
RECIPES = {
    "search: uniform, params": BASE | {"budget": {"params": "0.3x"}, "search": {"method": "uniform"}},
    "search: uniform, file size": BASE | {"budget": {"onnx_bytes": "0.5x"}, "search": {"method": "uniform"}},
    "search: neuralscale": BASE | {"budget": {"params": "0.3x"}, "search": {"method": "neuralscale", **PRUNED}},
    "search: growing": BASE | {"budget": {"macs": "0.3x"}, "search": {"method": "growing", "steps_per_round": 1}},
}
SEARCH = """
import json, sys, tempfile, time, warnings
warnings.filterwarnings("ignore")
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe
recipe = parse_recipe(json.loads(sys.argv[1]))
with tempfile.TemporaryDirectory() as folder:
    begun = time.process_time()
    run(recipe, folder + "/out", until="search")
    print(time.process_time() - begun)
"""
PLAN = """
import sys, time, warnings
warnings.filterwarnings("ignore")
from compressor import models
architecture = models.reference_architecture(sys.argv[1], {}, 10, (3, 64, 64))
find = getattr(models, "graph_of", None) or models.plan_of
begun = time.process_time()
find(architecture)
print(time.process_time() - begun)
"""
WHOLE = """
import resource, subprocess, sys
subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""
JOBS = {
    **{name: [SEARCH, json.dumps(recipe)] for name, recipe in RECIPES.items()},
    "graph of mobilenetv2": [PLAN, "mobilenetv2"],
    "compressor --help": [WHOLE, "-m", "compressor", "--help"],
    "compressor schema": [WHOLE, "-m", "compressor", "schema"],
    "compressor models": [WHOLE, "-m", "compressor", "models"],
}


def installed(commit: str, folder: Path) -> Path:
    """The package of a commit in a folder of its own."""
    source, site = folder / "source", folder / "site"
    source.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "x", "-C", source], input=archive, check=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", site]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True)
    return site


def seconds(site: Path, job: list[str]) -> float:
    """CPU seconds that a process with that package prints."""
    variables = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "COMPRESSOR_CACHE": str(site / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", *job], env=os.environ | variables, check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the earlier one")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sites = [
            installed(commit, Path(folder) / str(place)) for place, commit in enumerate((arguments.commit, "HEAD"))
        ]
        found = {}
        for name, job in JOBS.items():
            for site in sites:
                seconds(site, job)  # files are read, and compiled, for the first time
            pairs = []
            for number in range(arguments.rounds):
                order = sites if number % 2 else sites[::-1]
                taken = {site: seconds(site, job) for site in order}
                pairs.append([taken[site] for site in sites])
            ratios = [now / before for before, now in pairs]
            found[name] = {"seconds": pairs, "ratio": statistics.median(ratios), "range": [min(ratios), max(ratios)]}
            print(f"{name}: {found[name]['ratio']:.3f} [{min(ratios):.3f} to {max(ratios):.3f}]", flush=True)
    numbers = {"against": arguments.commit, "rounds": arguments.rounds, "jobs": found}
    write_result(Path(__file__).with_suffix(".json"), numbers)


if __name__ == "__main__":
    main()
