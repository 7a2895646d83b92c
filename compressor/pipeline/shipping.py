"""What becomes of a trained network: one ONNX file with its story, scored, and the record of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
import yaml
from torch import nn

from compressor.costs.untrained import measure_untrained
from compressor.data import DataSet, ordered
from compressor.dependency.inputs import Inputs, run
from compressor.errors import RunError, TrainingError
from compressor.exporters import (
    INPUT,
    OnnxModule,
    OnnxNetwork,
    export_also,
    write_metadata,
)
from compressor.exporters.scheme_choice import form_of
from compressor.models import build, given_network
from compressor.models.architecture import Architecture
from compressor.models.from_onnx.interface import interface_of
from compressor.pipeline import environment
from compressor.pipeline.file_maker import FileMaker, Retrain, parity_batches
from compressor.pipeline.records import ExportRecord, ParityRecord, PrecisionRecord
from compressor.pipeline.scoring import score_file
from compressor.recipe import Recipe, ShippedNetwork, costs
from compressor.recipe.model_name import ModelName
from compressor.training.checkpoint import load_tensors, save_tensors
from compressor.training.own_metric import NoNumberError
from compressor.training.tasks import Evaluation, task_of
from compressor.training.trainer import Trainer

_SCORED_BATCH = 500
# The longest that a score and a limit can be in JSON, and what a resumed recipe may grow by: the file's size is
# settled before they are known.
_LONGEST_SCORE, _LONGEST_LIMIT, _SPARE_BYTES = 0.00012345678901234567, 1e15, 64
QAT_WEIGHTS = "weights-qat.safetensors"  # of a network trained on with the rounding of its precision
_RECIPE, _PRECISION = "compressor.recipe", "compressor.precision"


def ship(
    name: str,
    folder: Path,
    *,
    architecture: Architecture,
    recipe: Recipe,
    trainer: Trainer,
    limits: Mapping[str, float],
    precision: str | None = None,
    before: PrecisionRecord | None = None,
    retrain: Retrain | None = None,
) -> None:
    """Export the network whose weights lie in a folder, score the file and PyTorch on the test split, and record it.

    Args:
        name: of the network within its run
        folder: holds weights.safetensors; gets model.onnx and export.json
        architecture: of the weights
        recipe: its sections `export`, `bench` and `train` are used, and the whole of it goes into the file
        trainer: scores the network in PyTorch, and has the data
        limits: of the budget, for the file's story
        precision: of the file, as that of the network beside which it is shown; None: as the recipe says
        before: what was found of the precision of the network in whose place this one comes
        retrain: trains a network on with the rounding of its precision: beside another in any case, else where the file
            loses more than the recipe allows; leaves weights-qat.safetensors

    Raises:
        ExportError: the file is not what PyTorch computes
        RunError: the weights are of another architecture
    """
    data = trainer.data
    model = load_weights(architecture, folder / "weights.safetensors", recipe.seed)
    path = folder / "model.onnx"
    longest = _longest_metadata(architecture, recipe, data)

    def misses(file: Path) -> list[str]:
        write_metadata(file, longest)
        network = ShippedNetwork(model, architecture, file)
        counted = {name: count for name in limits if (count := costs()[name].shipped) is not None}
        return [name for name, count in counted.items() if count(network) > limits[name]]

    maker = FileMaker(architecture, recipe, data, path, retrain)
    made = maker.weighed(model, misses) if precision is None else maker.in_precision(model, precision)
    model, exported, written = made.model, made.exported, made.precision
    if before is not None and (gate := before.gate) is not None:
        written = written | {"gate": gate, "note": before.note}
    if made.trained_on:
        save_tensors(folder / QAT_WEIGHTS, model.state_dict(), {"architecture": architecture.to_json()})
    else:
        (folder / QAT_WEIGHTS).unlink(missing_ok=True)
    in_torch = trainer.evaluate(model.to(trainer.device), data.test)
    in_onnx, unjudged = _judge(path, model, trainer, in_torch, recipe)
    scores = _scores(in_onnx, in_torch, data, recipe)
    metadata = _metadata(name, architecture=architecture, recipe=recipe, data=data, scores=scores, limits=limits)
    metadata[_PRECISION] = written["name"]
    interface = interface_of(model)
    asked = recipe.export.opset or (exported.opset if interface is None else interface.opset)
    if interface is not None and interface.channels_last and INPUT in metadata:
        metadata[INPUT] = json.dumps(json.loads(metadata[INPUT]) | {"layout": "NHWC"})
    write_metadata(path, metadata | _taken(path, metadata))
    also: dict[str, Any] = {}
    if recipe.export.also and isinstance(sample := parity_batches(data, recipe)[-1], torch.Tensor):
        also = export_also(recipe.export.also, model, sample[:2], folder / "exports", metadata)
    shipped = ShippedNetwork(model, architecture, path)
    counted = {n: c.shipped for n, c in costs().items() if c.shipped and (c.always or n in recipe.budget.names)}
    record = ExportRecord(
        **{name: count(shipped) for name, count in counted.items()},
        opset=exported.opset,
        versions=environment.versions(),
        parity=ParityRecord.model_validate(exported.parity.to_json()),
        precision=PrecisionRecord.model_validate(written),
        stacked=made.stacked,
        also=also,
        unjudged=unjudged,
        agreement=_agreement(path, trainer, recipe) if name == "result" else None,
        wanted_opset=asked if asked != exported.opset else None,
        **scores,
    )
    record.write(folder / "export.json")


def _judge(
    path: Path, model: nn.Module, trainer: Trainer, in_torch: Evaluation, recipe: Recipe
) -> tuple[Evaluation, str | None]:
    """How good a file is, and why the user's function cannot say, where what it says of PyTorch's network is taken."""
    data, threads = trainer.data, recipe.measured.threads
    if trainer.metric is None:
        return score_file(path, data, data.test, threads), None
    try:
        module, example = OnnxModule(path, threads), parity_batches(data, recipe)[0]
        if isinstance(example, Inputs):
            with torch.no_grad():
                like = run(model.cpu().eval(), example)
            interface = interface_of(model)
            own = None if interface is None else [port.name for port in interface.inputs]
            module = OnnxModule(path, threads, like, own or example.order(model))
        return trainer.metric(module.to(trainer.device), "test", len(data.test)), None
    except NoNumberError:  # what the file computes is at fault
        raise
    except TrainingError as error:
        return in_torch, f"the metric is of the network in PyTorch, since the file cannot be judged by {error}"


def _agreement(path: Path, trainer: Trainer, recipe: Recipe) -> float | None:
    """How often a file gives the class that the original ONNX file gives; None: none is, or that is the metric."""
    data = trainer.data
    if ModelName.of(recipe.model.name).file is None or trainer.metric is not None or not recipe.data.labels:
        return None
    network, original = (
        OnnxNetwork(path, recipe.measured.threads),
        given_network(recipe.model.name, recipe.model.options, data.input_shape),
    )
    same = counted = 0
    batch = task_of(data).batch(data.classes, data.input_shape, _SCORED_BATCH)
    with torch.inference_mode():
        for x, _ in ordered(data.test, data, batch):
            x = x.cpu()
            found = torch.from_numpy(network.logits(x)).argmax(1) == original(x).argmax(1)
            same, counted = same + int(found.sum()), counted + found.numel()
    return same / counted


def measure_as_shipped(
    architecture: Architecture, recipe: Recipe, data: DataSet, measure: Callable[[Path], float]
) -> float:
    """A number of the file that an architecture would be shipped as, with metadata as long as they may become."""
    metadata = _longest_metadata(architecture, recipe, data)
    return measure_untrained(architecture, recipe.export.written_opset, metadata, form_of(recipe, data), measure)


def _longest_metadata(architecture: Architecture, recipe: Recipe, data: DataSet) -> dict[str, str]:
    name = max("result", *recipe.baselines, key=len)
    longest = Evaluation(0.0, _LONGEST_SCORE, len(data.test), task_of(data).metric, _LONGEST_SCORE)
    limits = dict.fromkeys(recipe.budget.names, _LONGEST_LIMIT)
    scores = _scores(longest, longest, data, recipe)
    metadata = _metadata(name, architecture=architecture, recipe=recipe, data=data, scores=scores, limits=limits)
    metadata[_RECIPE] += " " * _SPARE_BYTES
    return metadata


def load_weights(architecture: Architecture, path: Path, seed: int) -> nn.Module:
    """A network of an architecture with the weights of a safetensors file, on the CPU.

    Args:
        architecture: of the weights
        path: of the file
        seed: with which the network was built that was trained: its code may draw what no weights are
    """
    model = build(architecture, seed)
    try:
        model.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        raise RunError(f"{path}: holds the weights of another architecture; delete it to train again") from error
    return model.eval()


def _scores(in_onnx: Evaluation, in_torch: Evaluation, data: DataSet, recipe: Recipe) -> dict[str, Any]:
    task = task_of(data)
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
    *,
    architecture: Architecture,
    recipe: Recipe,
    data: DataSet,
    scores: Mapping[str, Any],
    limits: Mapping[str, float],
) -> dict[str, str]:
    options = without_paths(dict(architecture.options))
    stored = replace(architecture, model=without_paths(architecture.model), options=options)
    return {
        _RECIPE: yaml.safe_dump(without_paths(_without_places(recipe)), sort_keys=False),
        "compressor.network": name,
        "compressor.architecture": stored.to_json(),
        _PRECISION: recipe.export.precision,
        "compressor.budget": json.dumps(dict(limits)),
        "compressor.task": data.task,
        "compressor.accuracy": json.dumps(scores["accuracy"]),
        "compressor.metric": json.dumps(scores["metric"]),
        "compressor.versions": json.dumps(environment.versions()),
        "compressor.classes": json.dumps(data.class_names),
        "compressor.mean": json.dumps(data.mean),
        "compressor.std": json.dumps(data.std),
        **({} if recipe.export.preprocess != "none" or not data.mean else {INPUT: _input(data)}),
    }


def _taken(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    """What metadata say of the input, with the type that the file takes; nothing where they say nothing."""
    if INPUT not in metadata:
        return {}
    kind = onnx.load_model(path, load_external_data=False).graph.input[0].type.tensor_type.elem_type
    name = "float16" if kind == onnx.TensorProto.FLOAT16 else "float32"
    return {INPUT: json.dumps(json.loads(metadata[INPUT]) | {"dtype": name})}


def _input(data: DataSet) -> str:
    """What a file without preprocessing takes: one with it says so itself."""
    described = {"dtype": "float32", "layout": "NCHW", "size": list(data.input_shape[1:]), "range": [0, 1]}
    return json.dumps(described | {"mean": data.mean, "std": data.std})


def _without_places(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON values without the place of its data, which is nobody else's."""
    values = recipe.model_dump(mode="json")
    return values | {"data": values["data"] | {"path": None}}


def without_paths(value: Any) -> Any:
    """JSON values of which texts that name a place on this machine keep their last part only."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and ("/" in value or "\\" in value):
        scheme, colon, rest = value.partition(":")
        if colon and scheme.isidentifier() and len(scheme) > 1:  # onnx:/home/me/net.onnx
            return f"{scheme}:{without_paths(rest)}"
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value
