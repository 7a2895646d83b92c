"""A limit of 60 % of the latency: FastNAS of NVIDIA Model Optimizer beside ours, same network, data and training.

    python3.11 -m venv /tmp/modelopt
    echo 'import site; site.addsitedir("THE SITE-PACKAGES OF THIS PYTHON")' > \
        /tmp/modelopt/lib/python3.11/site-packages/host.pth
    /tmp/modelopt/bin/pip install --no-deps nvidia-modelopt==0.47.0 ninja nvidia-ml-py pulp regex requests omegaconf \
        urllib3 certifi torchprofile==0.0.4 onnxconverter_common onnx_graphsurgeon onnxslim lief
    python experiments/latency_fastnas.py --modelopt-python /tmp/modelopt/bin/python

The network is recipes/neuralscale-digits.yaml's: a small VGG11 on scikit-learn's digits, trained for 12 epochs.
FastNAS begins with it trained, as it must, and its result is fine-tuned for 12 epochs more; its score is the accuracy
on the images held out. It gets channels in steps of 8 (its own default, 32, leaves this network nearly no choice),
and its clock runs ONNX Runtime with one thread, as ours does; it has no option for either the threads or, in its
documentation, the latency: the key is in its source. The same search with 60 % of the parameters stands beside it.
Ours is a run of the pipeline with the budget `latency: 0.6x`, by uniform scaling and by NeuralScale, trained from
scratch for as many epochs as FastNAS's two trainings have together.

Every result is exported by our exporter and measured in pairs with the untouched network on ONNX Runtime, one thread
of the CPU, batch 100. What is done stays in --out and is not done again; numbers go to
experiments/latency_fastnas.json.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compressor.bench.pairs import measure_pairs
from compressor.bench.turns import Conditions
from compressor.data import Batches, load_data
from compressor.exporters import export_onnx
from compressor.files import read_json, write_json
from compressor.models import build, reference_architecture
from compressor.models.architecture import Architecture
from compressor.recipe import DataConfig, load_recipe
from compressor.training.schedules import schedule
from compressor.training.trainer import Settings, Trainer

HERE: Final = Path(__file__).parent
RECIPE: Final = HERE.parent / "recipes" / "neuralscale-digits.yaml"
SHARE, BATCH, STEP = 0.6, 100, 8  # of the latency; images in a batch; of FastNAS's channel counts
CONSTRAINTS: Final = ("latency", "params")
FINETUNE_LR: Final = 0.01
SIDES: Final = (*(f"fastnas_{constraint}" for constraint in CONSTRAINTS), "ours_uniform", "ours_neuralscale")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modelopt-python", default="/tmp/modelopt/bin/python", help="interpreter that has modelopt")
    parser.add_argument("--out", type=Path, default=Path("runs/latency_fastnas"))
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--epochs", type=int, default=12, help="of training, and of fine-tuning after FastNAS")
    parser.add_argument("--trials", type=int, default=3, help="of every side, each with a seed of its own")
    parser.add_argument("--blocks", type=int, default=32, help="of pairs that a result is measured in")
    parser.add_argument("--json", type=Path, default=HERE / "latency_fastnas.json")
    parser.add_argument("--fastnas", choices=CONSTRAINTS, help=argparse.SUPPRESS)  # in the other interpreter
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.fastnas:
        fastnas(arguments.fastnas, arguments.out, arguments.epochs, arguments.seed)
        return
    rows = read_json(arguments.json)["results"] if arguments.json.exists() else {}
    todo = [(seed, side) for seed in range(arguments.trials) for side in arguments.only]
    todo = [(seed, side) for seed, side in todo if f"{side}/{seed}" not in rows]
    begun = time.monotonic()
    for number, (seed, side) in enumerate(todo, start=1):
        trial(side, seed, arguments, rows)
        minutes = (time.monotonic() - begun) / number * (len(todo) - number) / 60
        print(f"{number}/{len(todo)} done; {minutes:.0f} min left", flush=True)


def trial(side: str, seed: int, arguments: argparse.Namespace, rows: dict[str, Any]) -> None:
    """Search, train, measure and keep the numbers."""
    out = arguments.out / f"seed{seed}"
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    print(f"{side}, seed {seed} ...", flush=True)
    if side.startswith("ours_"):
        row, model = ours(side.removeprefix("ours_"), out, arguments.epochs, seed)
    else:
        row, model = peer(side.removeprefix("fastnas_"), out, seed, arguments)
    row |= measured(out / "reference.onnx", model, arguments.blocks)
    row |= {"share_of_the_limit": row["ratio"] / SHARE, "all_seconds": time.perf_counter() - began}
    rows[f"{side}/{seed}"] = row
    save(arguments, rows)
    print(
        f"{side}: {row['ratio']:.3f} [{row['low']:.3f} {row['high']:.3f}] of the reference, {SHARE} asked for "
        f"({100 * (row['share_of_the_limit'] - 1):+.1f} %), search {row['search_seconds']:.0f} s, accuracy "
        f"{row['accuracy']:.3f}; {row['all_seconds']:.0f} s in all",
        flush=True,
    )


def save(arguments: argparse.Namespace, rows: dict[str, Any]) -> None:
    from record import write_result

    settings = {"share": SHARE, "batch": BATCH, "threads": 1, "provider": "cpu", "fastnas_channel_divisor": STEP}
    settings |= {"epochs": arguments.epochs, "blocks": arguments.blocks, "recipe": RECIPE.name}
    write_result(arguments.json, {"results": rows, "settings": settings})


def measured(reference: Path, model: Path, blocks: int) -> dict[str, float]:
    """Ratio to the reference with a 95 % interval, CPU time, and the medians in milliseconds."""
    pairs = measure_pairs(reference, model, Conditions("cpu", BATCH, 1), lambda pairs: True, looks=(blocks,))
    ratio = pairs.ratio(0.95)
    reference_ms, ms = (float(torch.tensor(pairs.times_ms[:, :, side]).median()) for side in (0, 1))
    return {"ratio": ratio.median, "low": ratio.low, "high": ratio.high, "reference_ms": reference_ms, "ms": ms}


def ours(method: str, out: Path, epochs: int, seed: int) -> tuple[dict[str, Any], Path]:
    """One run of the pipeline with the latency as its budget; trained as long as FastNAS and its fine-tuning."""
    from compressor.pipeline.runner import run

    os.environ["COMPRESSOR_CACHE"] = str(out / f"cache_{method}")  # nothing is known beforehand

    budget = f"{{latency: {SHARE:g}x, batch: {BATCH}, provider: cpu, threads: 1}}"
    overrides = [
        f"budget={budget}",
        f"train.epochs={2 * epochs}",
        *(["search.method=uniform"] if method == "uniform" else []),
        f"seed={seed}",
        "threads=1",
        "bench.threads=1",
        "baselines=[reference]",
    ]
    report = run(load_recipe(RECIPE, overrides), out / f"ours_{method}", resume=True, progress=show)
    row = {
        "search_seconds": report["seconds"]["search"],
        "seconds": report["seconds"],
        "latency_search": report.get("latency_search"),
        "met": report["budget"]["met"],
        "verification": report.get("verification"),
        "accuracy": report["accuracy"]["onnx"],
        "params": report["params"],
        "widths": report["widths"],
    }
    reference = out / "reference.onnx"
    if not reference.exists():
        reference_of(out)
    return row, out / f"ours_{method}" / "model.onnx"


def show(stage: str, text: str, share: float | None) -> None:
    print(f"{stage:>7}  {text}", flush=True)


def peer(constraint: str, out: Path, seed: int, arguments: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """FastNAS in the interpreter that has it, unless that was done."""
    found = out / f"fastnas_{constraint}.json"
    if not found.exists():
        command = [arguments.modelopt_python, "-W", "ignore", __file__, "--fastnas", constraint]
        command += ["--out", str(out), "--epochs", str(arguments.epochs), "--seed", str(seed)]
        subprocess.run(command, check=True)
    return read_json(found), found.with_suffix(".onnx")


def task(seed: int = 0) -> tuple[Architecture, Trainer]:
    """The recipe's network and what trains it."""
    recipe = load_recipe(RECIPE)
    data = load_data(DataConfig(**recipe.data.model_dump()), seed=seed)
    architecture = reference_architecture(recipe.model.name, {}, data.classes, data.input_shape, recipe.model.width)
    trainer = Trainer(data, torch.device("cpu"), recipe.data.augment)  # Model Optimizer refuses channels-last
    return architecture, trainer


def reference_of(out: Path) -> None:
    """Export the untouched network; the weights do not change its latency."""
    architecture, trainer = task()
    export(build(architecture), out / "reference.onnx", trainer)


def export(model: nn.Module, path: Path, trainer: Trainer) -> None:
    shape = trainer.data.input_shape
    export_onnx(model, path, [torch.randn(size, *shape) for size in (2, 5)], tolerance=1e-3)


def train(model: nn.Module, trainer: Trainer, epochs: int, lr: float, seed: int) -> None:
    rate = schedule("onecycle", lr, epochs)
    settings = Settings(epochs, 64, rate, 0.9, 5e-4, nesterov=True)
    trainer.fit(model, settings, seed=seed)


def fastnas(constraint: str, out: Path, epochs: int, seed: int) -> None:
    """Search, fine-tune and export with Model Optimizer."""
    import modelopt.torch.prune as mtp
    from modelopt import __version__

    architecture, trainer = task(seed)
    model = trainer.prepare(build(architecture, seed))
    weights = out / "reference.safetensors"
    if weights.exists():
        model.load_state_dict(load_file(weights))
    else:
        train(model, trainer, epochs, 0.1, seed)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
    if not (out / "reference.onnx").exists():
        export(model, out / "reference.onnx", trainer)
    reference = trainer.evaluate(model, trainer.data.test).accuracy
    one_thread()
    config = mtp.fastnas.FastNASConfig()
    config["nn.Conv2d"]["*"]["channel_divisor"] = STEP
    for kind in ("nn.BatchNorm2d", "nn.Linear"):
        config[kind]["*"]["feature_divisor"] = STEP
    data = trainer.data
    batches = Batches(data.train, 64, seed=seed, mean=data.mean, std=data.std)
    began = time.perf_counter()
    pruned, state = mtp.prune(
        model,
        [("fastnas", config)],
        {constraint: f"{SHARE:.0%}"},
        torch.zeros(BATCH, *architecture.input_shape),
        {
            "data_loader": list(batches.epoch(0)),
            "collect_func": lambda pair: pair[0],
            "score_func": lambda candidate: trainer.evaluate(candidate, data.validation).accuracy,
            "deployment": {"runtime": "ORT", "accelerator": "CPU"} if constraint == "latency" else None,
            "verbose": False,
        },
    )
    seconds = time.perf_counter() - began
    plain = copy.deepcopy(pruned)
    train(plain, trainer, epochs, FINETUNE_LR, seed)
    export(plain, out / f"fastnas_{constraint}.onnx", trainer)
    row = {
        "search_seconds": seconds,
        "accuracy": trainer.evaluate(plain, data.test).accuracy,
        "reference_accuracy": reference,
        "params": sum(parameter.numel() for parameter in plain.parameters()),
        "widths": {name: layer.out_channels for name, layer in plain.named_modules() if isinstance(layer, nn.Conv2d)},
        "its_constraints": {name: float(value) for name, value in state["best"]["constraints"].items()},
        "modelopt": __version__,
    }
    write_json(out / f"fastnas_{constraint}.json", row)


def one_thread() -> None:
    """Let its ONNX Runtime client measure with one thread, which no option of it says."""
    import onnxruntime
    from modelopt.torch._deploy._runtime.ort_client import ORTLocalClient

    begin = ORTLocalClient._init_session

    def limited(self: Any, compiled_model: bytes, options: Any = None) -> Any:
        options = options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return begin(self, compiled_model, options)

    ORTLocalClient._init_session = limited


if __name__ == "__main__":
    main()
