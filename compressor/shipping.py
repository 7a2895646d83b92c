"""What becomes of a trained network: one ONNX file with its story, scored, and the record of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from compressor import cost, provenance
from compressor.architecture import Architecture
from compressor.arrangement import fastest, forms
from compressor.data import DataSet, ordered
from compressor.errors import RunError
from compressor.exporters import Exported, OnnxNetwork, export_onnx, measure_parity, write_metadata
from compressor.files import copy_atomic, write_json
from compressor.filesize import exported_bytes
from compressor.models import build
from compressor.recipe import Recipe
from compressor.tasks import Evaluation, task_of
from compressor.train import Trainer

_PARITY_BATCH, _SCORED_BATCH = 100, 500
# The longest that a score and a limit can be in JSON, and what a resumed recipe may grow by: the file's size is
# settled before they are known.
_LONGEST_SCORE, _LONGEST_LIMIT, _SPARE_BYTES = 0.00012345678901234567, 1e15, 64


def ship(
    name: str, folder: Path, architecture: Architecture, recipe: Recipe, trainer: Trainer, limits: Mapping[str, float]
) -> None:
    """Export the network whose weights lie in a folder, score the file and PyTorch on the test split, and record it.

    Args:
        name: of the network within its run
        folder: holds weights.safetensors; gets model.onnx and export.json
        architecture: of the weights
        recipe: its sections `export`, `bench` and `train` are used, and the whole of it goes into the file
        trainer: scores the network in PyTorch, and has the data
        limits: of the budget, for the file's story

    Raises:
        ExportError: the file is not what PyTorch computes
        RunError: the weights are of another architecture
    """
    data = trainer.data
    model = load_weights(architecture, folder / "weights.safetensors")
    path = folder / "model.onnx"
    exported, stacked = _export(model, architecture, path, recipe, data)
    in_onnx = score_file(path, data, recipe.measured.threads)
    in_torch = trainer.evaluate(model.to(trainer.device), data.test)
    scores = _scores(in_onnx, in_torch, data, recipe)
    write_metadata(path, _metadata(name, architecture, recipe, data, scores, limits))
    record = {
        "params": cost.count_params(model),
        "macs": cost.macs(architecture),
        "onnx_bytes": path.stat().st_size,
        "opset": exported.opset,
        "versions": provenance.versions(),
        "parity": exported.parity.to_json(),
        "stacked": stacked,
        **scores,
    }
    write_json(folder / "export.json", record)


def _export(
    model: nn.Module, architecture: Architecture, path: Path, recipe: Recipe, data: DataSet
) -> tuple[Exported, dict[str, Any] | None]:
    """Export a network in the fastest of its forms; returns how these compare too, None where there is only one."""
    batches, config = _parity_batches(data), recipe.export
    found: dict[str, Exported] = {}
    with tempfile.TemporaryDirectory(prefix="compressor-", dir=path.parent) as folder:
        for name, form in forms(model, architecture, recipe).items():
            beside = Path(folder) / f"{name}.onnx"
            found[name] = export_onnx(form, beside, batches, opset=config.opset, tolerance=config.tolerance)
        measured = fastest({name: exported.path for name, exported in found.items()}, recipe.measured)
        chosen = found[measured["chosen"]]
        copy_atomic(chosen.path, path)
    if not architecture.stacks:
        return replace(chosen, path=path), None
    # Of the network that was trained, not of the form that was exported.
    threads = recipe.measured.threads
    parity = measure_parity(model, OnnxNetwork(path, threads).logits, batches, config.tolerance)
    return replace(chosen, path=path, parity=parity), measured


def score_file(path: Path, data: DataSet, threads: int | None = None) -> Evaluation:
    """Score an exported file on the test split, on the CPU, by the same counts as PyTorch's."""
    network, task = OnnxNetwork(path, threads), task_of(data.task)
    tally = task.tally()
    for x, y in ordered(data.test, data, task.batch(data.classes, data.input_shape, _SCORED_BATCH)):
        tally.add(torch.from_numpy(network.logits(x)), y)
    return tally.evaluation()


def shipped_bytes(architecture: Architecture, recipe: Recipe, data: DataSet) -> int:
    """The size that the ONNX file of an architecture will have, or a few bytes more."""
    name = max("result", *recipe.baselines, key=len)
    longest = Evaluation(0.0, _LONGEST_SCORE, len(data.test), task_of(data.task).metric, _LONGEST_SCORE)
    limits = dict.fromkeys(recipe.budget.names, _LONGEST_LIMIT)
    scores = _scores(longest, longest, data, recipe)
    metadata = _metadata(name, architecture, recipe, data, scores, limits)
    return exported_bytes(architecture, recipe.export.opset, metadata) + _SPARE_BYTES


def load_weights(architecture: Architecture, path: Path) -> nn.Module:
    """A network of an architecture with the weights of a safetensors file, on the CPU."""
    model = build(architecture)
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise RunError(f"{path}: holds the weights of another architecture; delete it to train again") from error
    return model.eval()


def _parity_batches(data: DataSet) -> list[torch.Tensor]:
    """Real inputs: one sample and many; of text also a few that are half as long."""
    most = task_of(data.task).batch(data.classes, data.input_shape, _PARITY_BATCH)
    sample = next(ordered(data.test, data, most))[0].cpu()
    if data.task != "language":
        return [sample[:1], sample]
    return [sample[:1], sample[:2, : -(-sample.shape[1] // 2)], sample]


def _scores(in_onnx: Evaluation, in_torch: Evaluation, data: DataSet, recipe: Recipe) -> dict[str, Any]:
    task = task_of(data.task)
    return {
        "accuracy": {
            "onnx": in_onnx.accuracy,
            "torch": in_torch.accuracy,
            "samples": in_onnx.samples,
            "weights": recipe.train.keep,
        },
        "metric": {"name": task.metric, "better": task.better, "onnx": in_onnx.value, "torch": in_torch.value},
    }


def _metadata(
    name: str,
    architecture: Architecture,
    recipe: Recipe,
    data: DataSet,
    scores: Mapping[str, Any],
    limits: Mapping[str, float],
) -> dict[str, str]:
    return {
        "compressor.recipe": recipe.to_yaml(),
        "compressor.network": name,
        "compressor.architecture": architecture.to_json(),
        "compressor.budget": json.dumps(dict(limits)),
        "compressor.task": data.task,
        "compressor.accuracy": json.dumps(scores["accuracy"]),
        "compressor.metric": json.dumps(scores["metric"]),
        "compressor.versions": json.dumps(provenance.versions()),
        "compressor.classes": json.dumps(data.class_names),
        "compressor.mean": json.dumps(data.mean),
        "compressor.std": json.dumps(data.std),
    }
