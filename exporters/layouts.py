"""How stacked layers lie in the ONNX file: as groups, as groups merged to blocks, or dense, whichever runs fastest.

All compute the same. Groups of a few channels are what the units are, but a runtime's kernels take channels in blocks
of 8 or 16; units merged to such blocks have zeros between them, and one dense layer has nothing but zeros there. Which
is fastest depends on provider, sizes and batch, so it is measured: layer by layer, and then the whole network so made
in pairs with those that have one layout throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compressor.bench import Conditions, Pairs, measure_pairs
from compressor.models.architecture import Architecture
from compressor.models.stacked import everywhere, rearranged
from compressor.recipe import BenchConfig, Recipe, costs

from .stacked_timing import USUAL, fastest_blocks

_LOOKS, _PATIENCE = (4, 8), 60.0  # blocks, and seconds after which none is begun: a dense form may be slow
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

    The first is what searches measure, see `probed`.

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
    seen: dict[str, str] = {}
    for name in names:
        if name == _MIXED:
            network = probed(model, architecture, allowed(recipe), conditions)
        else:
            network = model if name == "grouped" else rearranged(model, everywhere(architecture.stacks, _UNIFORM[name]))
        found.setdefault(known := seen.setdefault(repr(network), name), network)
        if name == _MIXED:
            found = {known: found[known]} | found
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
    """Measure the forms' files in pairs with the first, which is what a search has measured.

    Another one is chosen only if it is faster beyond doubt: a network that was within a limit of time stays so.

    Returns:
        {"chosen": form, "searched": the first, "forms": {form: {"median_ms", "onnx_bytes"}}, "batch", "provider",
        "threads"}; medians are the first's by the clock, times the others' ratio to it; None where there is one form
    """
    first, *others = paths
    conditions = Conditions(config.provider, config.batch, config.threads)
    found = {
        name: measure_pairs(paths[first], paths[name], conditions, _clear, looks=_LOOKS, max_seconds=_PATIENCE)
        for name in others
    }
    ratios = {name: pairs.ratio() for name, pairs in found.items()}
    faster = [name for name, ratio in ratios.items() if ratio.high < 1]
    usual = next((float(np.median(pairs.wall_ms[:, :, 0])) for pairs in found.values()), None)
    times = {first: 1.0} | {name: ratio.median for name, ratio in ratios.items()}
    return {
        "chosen": min(faster, key=lambda name: ratios[name].median, default=first),
        "searched": first,
        "forms": {
            name: {"median_ms": usual and usual * time, "onnx_bytes": paths[name].stat().st_size}
            for name, time in times.items()
        },
        "batch": config.batch,
        "provider": next((pairs.provider for pairs in found.values()), config.provider),
        "threads": config.threads,
    }


def _clear(pairs: Pairs) -> bool:
    """Whether it is known which of two forms is faster."""
    ratio = pairs.ratio()
    return ratio.high < 1 or ratio.low > 1
