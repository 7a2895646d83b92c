"""Bench: the latency of all files in turns, and those limits that are measured on the shipped file."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.bench import measure_latencies
from compressor.errors import RunError
from compressor.pipeline import environment
from compressor.pipeline.context import RunContext
from compressor.pipeline.mending import finish_replacing, make_smaller
from compressor.pipeline.records import LatencyRecord, NetworkLatency, VerificationRecord
from compressor.pipeline.run_network import RunNetwork
from compressor.recipe import Cost, Recipe, costs


def bench(context: RunContext) -> None:
    """Measure; leaves latency.json, and a record for every limited cost that is measured.

    A result that is above its limit is made smaller, and measured again.
    """
    finish_replacing(context)
    while above := _measured(context):
        result = next(network for network in context.networks() if network.name == "result")
        if not make_smaller(context, result, above):
            break


def _measured(context: RunContext) -> dict[str, float]:
    """Measure all networks; returns what the result has of the costs that are above their limits."""
    networks, config = context.networks(), context.recipe.measured
    for network in networks:
        if not network.exported:
            raise RunError(f"{network.folder / 'model.onnx'}: file not found; the export has not finished")
    if not (context.out / "latency.json").exists():
        context.show(f"measuring {config.warmup + config.runs} batches of {config.batch}")
        measured = measure_latencies([network.folder / "model.onnx" for network in networks], **dict(config))
        found = {
            network.name: NetworkLatency.model_validate(one.to_json())
            for network, one in zip(networks, measured, strict=True)
        }
        block = context.runtime(context.reference()).block
        machine = environment.machine(context.device)
        LatencyRecord(networks=found, machine=machine, block=block).write(context.out / "latency.json")
    for cost in measured_costs(context.recipe):
        _verify(context, cost, networks)
    limits, above = context.searched.limits, {}
    for cost in measured_costs(context.recipe):
        path = context.out / f"{cost.record}.json"
        value = float(VerificationRecord.of_cost(path, cost, ["result"])["result"][cost.verified])
        if value > limits[cost.name]:
            above[cost.name] = value
    return above


def measured_costs(recipe: Recipe) -> list[Cost]:
    """The limited costs that are measured on the shipped file."""
    return [cost for name in recipe.budget.names if (cost := costs()[name]).verify is not None]


def _verify(context: RunContext, cost: Cost, networks: Sequence[RunNetwork]) -> None:
    """Measure the shipped files against a limit of the budget, but for those that were."""
    path = context.out / f"{cost.record}.json"
    record = dict(VerificationRecord.read(path).root) if path.exists() else {}
    missing = [network for network in networks if network.name not in record]
    if not missing:
        return
    given, limit = context.cost_context(context.reference()), context.searched.limits[cost.name]
    assert cost.verify is not None
    for network in missing:
        context.show(f"verifying {network.name}: {cost.title}")
        record[network.name] = dict(cost.verify(given, network.folder / "model.onnx", limit))
    VerificationRecord(record).write(path)
