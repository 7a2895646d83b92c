"""What `olive run` with our pass takes beside the command line: the same recipe, in turns, each in its own process.

    python experiments/olive_time.py --python PYTHON --data /usr/share/datasets/fashion-mnist

PYTHON has olive-ai and this package. Numbers go to experiments/olive_time.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from record import write_result

HERE = Path(__file__).parent
RECIPE = """
model: {{name: vgg11_bn, width: 0.125}}
data: {{name: idx, path: {data}, limit: 3000, image_size: 32}}
budget: {{params: 0.3x}}
search: {{method: uniform}}
train: {{epochs: 2, batch_size: 64}}
bench: {{provider: cpu, batch: 8, warmup: 5, runs: 20, threads: 1}}
baselines: []
threads: 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    environment = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    seconds: dict[str, list[float]] = {"compressor run": [], "olive run": []}
    models = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(RECIPE.format(data=Path(arguments.data).resolve()))

        def call(*words: str) -> float:
            begun = time.monotonic()
            subprocess.run(
                [arguments.python, "-m", *words], cwd=folder, env=environment, check=True, capture_output=True
            )
            return time.monotonic() - begun

        call("compressor", "olive-config", "recipe.yaml", "-o", "olive")
        for number in range(arguments.rounds):
            seconds["compressor run"].append(call("compressor", "run", "recipe.yaml", "-o", f"run{number}"))
            for made in ("cache", "model"):
                shutil.rmtree(folder / "olive" / made, ignore_errors=True)
            config = ("--config", "olive/olive_run.json", "--package-config", "olive/olive_config.json")
            seconds["olive run"].append(call("olive", "run", *config))
            print({key: [round(value, 1) for value in values] for key, values in seconds.items()}, flush=True)
        models["compressor run"] = json.loads((folder / "run0" / "report.json").read_text())
        found = next((folder / "olive" / "model").rglob("report.json"))
        models["olive run"] = json.loads(found.read_text())
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    write_result(
        HERE / "olive_time.json",
        {
            "seconds": seconds,
            "median": medians,
            "ratio": medians["olive run"] / medians["compressor run"],
            "params": {key: report["params"] for key, report in models.items()},
            "accuracy": {key: report["accuracy"]["onnx"] for key, report in models.items()},
        },
    )


if __name__ == "__main__":
    main()
