"""Small runs of every method and task, whose weights, widths and files are digested: what a change must leave alone.

    python experiments/probe.py OUT     a minute or two; {run: {file: digest}} on stdout, in JSON

`python experiments/evidence.py probe` runs it with the code of two commits, on one machine. Every run is on one thread
and measures no time, so that on the same machine the same code gives the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors.torch import load_file

from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe

_DIGITS = {"name": "digits", "image_size": 8, "limit": 200, "validation": 0.2}
_COLOURS = {"name": "digits", "image_size": 32, "channels": 3, "limit": 100, "augment": ["crop", "flip"]}
_TRAIN = {"epochs": 2, "batch_size": 32}
_PRUNING = {"pretrain_epochs": 1, "batch_size": 32, "prune_every": 1}
BASE: dict[str, Any] = {
    "model": {"name": "resnet20", "width": 0.25},
    "data": _DIGITS,
    "budget": {"params": "0.4x"},
    "search": {"method": "uniform"},
    "train": _TRAIN,
    "bench": {"provider": "cpu", "batch": 2, "warmup": 0, "runs": 2, "threads": 1},
    "baselines": ["reference"],
    "device": "cpu",
    "threads": 1,
    "seed": 3,
}
RUNS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "coloured": {"data": _COLOURS, "model": {"name": "mobilenetv2", "width": 0.25}, "budget": {"macs": "0.5x"}},
    "neuralscale": {"search": {"method": "neuralscale", "iterations": 2, "prune_channels": 2, **_PRUNING}},
    "blocks": {"search": {"method": "taylor", "prune_every": 2}, "widths": {"round_to": 2}, "finetune": {"epochs": 1}},
    "taylor": {"search": {"method": "taylor", "prune_every": 2}, "finetune": {"epochs": 1}},
    "l1": {"search": {"method": "l1", "finetune_epochs": 1}},
    "morphnet": {"search": {"method": "morphnet", **_PRUNING}},
    "random": {"search": {"method": "random"}},
    "growing": {"search": {"method": "growing"}, "train": {"epochs": 4, "batch_size": 32}},
    "tissuenet": {"model": {"name": "vgg11_bn", "width": 0.1}, "search": {"method": "tissuenet"}, "data": _COLOURS},
    "auto": {"search": {"method": "auto"}},
    "segmentation": {
        "model": "compressor.models.deeplab:deeplabv3_small",
        "data": {"name": "shapes", "image_size": 32, "limit": 120},
        "search": {"method": "neuralscale", "iterations": 1, **_PRUNING},
    },
    "language": {"model": {"name": "lstm", "width": 0.02}, "data": {"name": "ptb", "path": "TEXT", "window": 8}},
    "language growing": {
        "model": {"name": "lstm", "width": 0.02},
        "data": {"name": "ptb", "path": "TEXT", "window": 8},
        "search": {"method": "growing"},
        "train": {"epochs": 4, "batch_size": 32},
    },
    "adamw": {
        "train": {**_TRAIN, "optimizer": "adamw", "lr": 0.001, "accumulate": 2, "clip": 1.0, "ema": 0.9, "keep": "best"}
    },
    "distilled": {"train": {**_TRAIN, "distill": {}}, "baselines": ["reference", "undistilled"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the runs, which is made")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(RUNS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = arguments.out / "text"
    write_text(text)
    found = {}
    for name in arguments.only:
        sections = json.loads(json.dumps(BASE | RUNS[name]).replace('"TEXT"', json.dumps(str(text))))
        folder = arguments.out / name.replace(" ", "-")
        print(name, file=sys.stderr, flush=True)
        run(parse_recipe(sections), folder, resume=True, until="export", progress=lambda *said: None)
        found[name] = digests(folder)
    print(json.dumps(found, indent=1, sort_keys=True))


def write_text(folder: Path) -> None:
    """Sentences of forty words that follow one another by chance, always the same ones."""
    draw, words = random.Random(0), [f"word{number}" for number in range(40)]
    for name, lines in (("train", 120), ("valid", 30), ("test", 30)):
        folder.mkdir(parents=True, exist_ok=True)
        sentences = (" ".join(draw.choices(words, k=draw.randint(4, 9))) for _ in range(lines))
        (folder / f"{name}.txt").write_text("\n".join([*([" ".join(words)] if name == "train" else []), *sentences]))


def digests(folder: Path) -> dict[str, str]:
    """What a run found: widths, all weights, the graphs of its files, its scores; nothing of time, place or version."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(("checkpoints", "shared")):
            continue
        if path.name == "architecture.json":
            found[name] = digest(path.read_bytes())
        elif path.suffix == ".safetensors":
            tensors = sorted(load_file(path).items())
            found[name] = digest(*(part for key, one in tensors for part in (key.encode(), one.numpy().tobytes())))
        elif path.suffix == ".onnx":
            found[name] = digest(onnx.load(path).graph.SerializeToString(deterministic=True))
        elif path.name == "export.json":
            told = json.loads(path.read_text(encoding="utf-8"))
            kept = {key: told.get(key) for key in ("accuracy", "metric", "params", "macs")}
            found[name] = digest(json.dumps(kept, sort_keys=True).encode())
    return found


def digest(*parts: bytes) -> str:
    """SHA-256 of bytes, its first 16 digits."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:16]


if __name__ == "__main__":
    main()
