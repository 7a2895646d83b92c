"""How stacked layers lie in the ONNX file: as groups, as groups merged to blocks, or dense, whichever runs fastest.

All compute the same. Groups of a few channels are what the units are, but a runtime's kernels take channels in blocks
of 8 or 16; units merged to such blocks have zeros between them, and one dense layer has nothing but zeros there. Which
is fastest depends on provider, sizes and batch, so it is measured: layer by layer, and then the whole network so made
beside those that have one layout throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from compressor.bench import Conditions, measure_latencies
from compressor.models.architecture import Architecture
from compressor.models.stacked import everywhere, rearranged
from compressor.recipe import BenchConfig, Recipe, costs

from .stacked_timing import USUAL, fastest_blocks

_LOOKS, _WARMUP = 8, 2  # batches: forms differ by multiples, and a dense one may be slow
_UNIFORM: Mapping[str, int | None] = {"grouped": 1, "blocks": USUAL, "dense": None}
_MIXED = "per layer"
_UNITS = "units"  # what `allowed` gives where no zeros may be stored
_FORMS: Mapping[str, tuple[str, ...]] = {
    _UNITS: ("grouped",),
    "grouped": ("grouped", "blocks", _MIXED),
    "dense": ("dense",),
    "auto": ("grouped", "blocks", "dense", _MIXED),
}


def allowed(recipe: Recipe) -> str:
    """Which layouts a recipe allows: its `export.stacked`, but no zeros under a limit of the file's size."""
    return _UNITS if any(costs()[name].counts_zeros for name in recipe.budget.names) else recipe.export.stacked


def forms(model: nn.Module, architecture: Architecture, recipe: Recipe) -> dict[str, nn.Module]:
    """The forms that may be shipped, {name: network}, those that differ; a network without stacked layers has one.

    Args:
        model: of the architecture, on the CPU, in evaluation
        architecture: names its stacked layers
        recipe: see `allowed`
    """
    if not architecture.stacks:
        return {"plain": model}
    names, bench = _FORMS[allowed(recipe)], recipe.measured
    conditions = Conditions(bench.provider, bench.batch, bench.threads)
    found: dict[str, nn.Module] = {}
    seen: list[str] = []
    for name in names:
        if name == _MIXED:
            blocks = fastest_blocks(model, architecture, conditions, dense="dense" in names)
        else:
            blocks = everywhere(architecture.stacks, _UNIFORM[name])
        network = model if name == "grouped" else rearranged(model, blocks)
        if (layout := repr(network)) not in seen:
            seen.append(layout)
            found[name] = network
    return found


def probed(model: nn.Module, architecture: Architecture, stacked: str, conditions: Conditions) -> nn.Module:
    """The form in which a candidate's latency is measured while a search goes on.

    What is fastest layer by layer stands for all that may be shipped, which is as fast or faster.

    Args:
        model: of the architecture, on the CPU, in evaluation
        architecture: names its stacked layers
        stacked: what `allowed` gives
        conditions: how it is measured
    """
    if not architecture.stacks or stacked == _UNITS:
        return model
    if stacked == "dense":
        return rearranged(model, everywhere(architecture.stacks, None))
    return rearranged(model, fastest_blocks(model, architecture, conditions, dense=stacked == "auto"))


def fastest(paths: Mapping[str, Path], config: BenchConfig) -> dict[str, Any]:
    """Measure the forms' files side by side.

    Returns:
        {"chosen": form, "forms": {form: {"median_ms", "onnx_bytes"}}, "batch", "provider", "threads"}; of one form
        only, its median_ms is None
    """
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    medians: dict[str, float | None] = dict.fromkeys(paths)
    provider: str = config.provider
    if len(paths) > 1:
        measured = measure_latencies(
            list(paths.values()),
            **dict(config) | {"warmup": _WARMUP, "runs": _LOOKS},
        )
        medians = {name: found.median for name, found in zip(paths, measured, strict=True)}
        provider = measured[0].provider
    return {
        "chosen": min(paths, key=lambda name: (medians[name] or 0.0, sizes[name])),
        "forms": {name: {"median_ms": medians[name], "onnx_bytes": sizes[name]} for name in paths},
        "batch": config.batch,
        "provider": provider,
        "threads": config.threads,
    }
