"""Export: every trained network to one ONNX file, with its scores and its record."""

from __future__ import annotations

import shutil
from typing import Any

from compressor.costs.budget import Budget
from compressor.files import write_atomic
from compressor.pipeline import run_folder
from compressor.pipeline.context import RunContext
from compressor.pipeline.quantization_aware import retraining
from compressor.pipeline.records import ExportRecord
from compressor.pipeline.run_network import RunNetwork
from compressor.pipeline.shipping import ship
from compressor.search import Unfinished
from compressor.training.checkpoint import save_tensors


def export(context: RunContext) -> None:
    """Export every network; leaves model.onnx and export.json of each."""
    limits = context.searched.limits
    for network in context.networks():
        if not network.exported:
            context.stop_if_asked()
            context.show(f"exporting {network.name}")
            ship(
                network.name,
                network.folder,
                architecture=network.architecture,
                recipe=context.recipe,
                trainer=context.trainer(),
                limits=limits,
                **_beside_result(context, network),
            )
            run_folder.seal(context.out, "export")


def _beside_result(context: RunContext, network: RunNetwork) -> dict[str, Any]:
    """Precision of a network's file, and what trains it on: those of the result, which is exported first."""
    retrain = retraining(context, network)
    if network.name == "result":
        return {"retrain": retrain}
    precision = ExportRecord.read(context.out / "export.json").precision
    given = network.begins == "given"
    return {"precision": precision.name, "retrain": retrain if precision.trained_on and not given else None}


def export_current(context: RunContext, unfinished: Unfinished) -> dict[str, Any]:
    """Export the network of a search that was paused, into the folder `now`; returns its record, with the budget."""
    architecture, folder = unfinished.architecture, context.current
    context.show(f"exporting the network of epoch {unfinished.epochs:.2f}")
    shutil.rmtree(folder, ignore_errors=True)
    save_tensors(folder / "weights.safetensors", unfinished.weights, {"architecture": architecture.to_json()})
    write_atomic(folder / "architecture.json", architecture.to_json())
    ship(
        "now",
        folder,
        architecture=architecture,
        recipe=context.recipe,
        trainer=context.trainer(),
        limits=unfinished.limits,
    )
    record = ExportRecord.read(folder / "export.json").model_dump()
    counted = {name: limit for name, limit in unfinished.limits.items() if name in record}  # latency was not measured
    return record | {"budget": Budget(counted).verdict(record)}
