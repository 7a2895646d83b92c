"""Report: all records of a run in one, as JSON and as a page."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from compressor.costs.budget import Budget
from compressor.pipeline.context import RunContext
from compressor.pipeline.mending import mended_remarks, mendings
from compressor.pipeline.precision_plan import plan_remarks
from compressor.pipeline.records import (
    ExportRecord,
    LatencyRecord,
    SearchRecord,
    TrainRecord,
    VerificationRecord,
    damaged,
    of_networks,
)
from compressor.pipeline.run_network import RunNetwork
from compressor.pipeline.shipping import without_paths
from compressor.pipeline.speed import speed_remark
from compressor.pipeline.stages.bench import measured_costs
from compressor.recipe import costs
from compressor.report import efficiency_of, write_report


def report(context: RunContext) -> None:
    """Leave report.json and report.html, and delete the checkpoints."""
    write_report(run_report(context), context.out)
    shutil.rmtree(context.checkpoints, ignore_errors=True)


def run_report(context: RunContext) -> dict[str, Any]:
    """The content of report.json."""
    recipe, searched = context.recipe, context.searched
    latency = LatencyRecord.read(context.out / "latency.json")
    budget = Budget(searched.limits)
    found = context.networks()
    names = [network.name for network in found]
    of_networks(context.out / "latency.json", latency.networks, names)
    verified = {
        cost.name: VerificationRecord.of_cost(context.out / f"{cost.record}.json", cost, names)
        for cost in measured_costs(recipe)
    }
    networks = {
        network.name: _network(
            network,
            latency.networks[network.name].model_dump(),
            budget,
            {name: of_cost[network.name] for name, of_cost in verified.items()},
        )
        for network in found
    }
    if reference := networks.get("reference"):
        for network in networks.values():
            network["efficiency"] = efficiency_of(network, reference)
    slow = _slow(networks, searched, latency.block)
    result = networks.pop("result")
    result["budget"] |= {"one_channel": searched.one_channel, "binding": searched.binding, "note": searched.note}
    if any(one.refused is None for one in mendings(context.out)):  # it is another network than the search found
        result["budget"] |= {"one_channel": {}, "binding": None}
    finetuning, exported = searched.finetuning, ExportRecord.read(context.out / "export.json")
    return {
        **result,
        "name": recipe.model.name,
        "recipe": without_paths(recipe.model_dump(mode="json")),
        "method": recipe.search.method,
        "seed": recipe.seed,
        "dataset": searched.dataset.model_dump(),
        "reference_widths": searched.reference_widths,
        **{f"{key}_search": searched.of_cost(key) for cost in costs().values() if (key := cost.search_record)},
        "baseline": networks,
        "remarks": [
            *searched.remarks,
            *plan_remarks(context.out, recipe),
            *mended_remarks(context.out),
            *_remarks(exported),
        ],
        "slow": slow,
        "trace": searched.trace,
        "finetuning": None if finetuning is None else {"epochs": finetuning.epochs, "lr": finetuning.lr},
        "machine": latency.machine,
        "fallback": searched.trace.get("fallback"),
        "note": searched.trace.get("note"),
        "versions": exported.versions,
        "seconds": context.log.seconds(),
    }


def _slow(networks: Mapping[str, Mapping[str, Any]], searched: SearchRecord, block: int | None) -> str | None:
    """Say that the result is no faster than the unscaled network, where both were measured."""
    result, reference = networks["result"], networks.get("reference")
    if reference is None or result["stacks"]:
        return None
    ms, unscaled_ms = (float(one["latency_ms"]["median"]) for one in (result, reference))
    return speed_remark(ms, unscaled_ms, result["widths"], searched.reference_widths, block or 1)


def _remarks(exported: ExportRecord) -> list[str]:
    """What the user must know of the file, a sentence each."""
    found = [exported.unjudged] if exported.unjudged else []
    if exported.agreement is not None:
        share = f"{100 * exported.agreement:.2f} %"
        found.append(f"the file gives the class that the original file gives for {share} of the test samples")
    if exported.wanted_opset is not None:
        found.append(
            f"the file is of operator set {exported.opset}, since it cannot be written in {exported.wanted_opset}"
        )
    return found


def _network(
    network: RunNetwork, latency: Mapping[str, Any], budget: Budget, verified: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What a report says of one network, as JSON values.

    Args:
        network: exported
        latency: of its file, as measured beside the others
        budget: of the run
        verified: {cost name: what was measured of its file against the limit}, of limited costs that take measuring
    """
    known = costs()
    exported = ExportRecord.read(network.folder / "export.json")
    for name in budget.limits:
        if known[name].shipped and name not in exported.costs:
            raise damaged(network.folder / "export.json", f"{name} is missing, which the budget limits")
    measured = {name: record[known[name].verified] for name, record in verified.items()}
    kept = ("opset", "accuracy", "metric", "parity", "precision", "stacked")
    return {
        **exported.costs,
        **exported.model_dump(include=set(kept)),
        "budget": budget.verdict(exported.costs | measured),
        "latency_ms": {key.removesuffix("_ms"): value for key, value in latency.items() if key != "path"},
        **{cost.record: verified.get(name) for name, cost in known.items() if cost.record},
        "efficiency": None,
        "widths": dict(network.architecture.widths),
        "stacks": {first: stack.to_json() for first, stack in network.architecture.stacks.items()},
        "training": TrainRecord.read(network.folder / "training.json").epochs,
    }
