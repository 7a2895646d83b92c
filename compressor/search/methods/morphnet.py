"""MorphNet with Taylor pruning: NeuralScale's baseline of its section 4.2 (after Gordon et al., CVPR 2018).

One iteration: train briefly, prune globally as NeuralScale does until half of the channels are left, scale what is
left uniformly to the budget. The result is trained from scratch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from compressor.files import read_json, write_json
from compressor.recipe.method import Method
from compressor.report.removal import removal_line, removal_section
from compressor.search.problem import Problem, SearchResult
from compressor.search.pruning_config import PruningConfig
from compressor.search.scaling import scale_uniformly

_NAME = "morphnet"


class MorphNetConfig(PruningConfig):
    """MorphNet with Taylor pruning (NeuralScale section 4.2): prune half of the channels, scale the rest uniformly."""

    method: Literal["morphnet"] = "morphnet"
    keep: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="prune until this share of the channels is left")


def search(problem: Problem, config: MorphNetConfig) -> SearchResult:
    """Prune to a share of the channels, scale the widths found to the budget.

    Raises:
        BudgetError: the budget cannot be met
        ModelError: the network's widths cannot be pruned
        TrainingError: training diverged
    """
    from compressor.search.prune_while_training import discard

    scale_uniformly(problem)  # a budget that cannot be met is refused before any training
    kept = problem.checkpoint(f"{_NAME}.json")  # holds for every budget
    if kept is not None and kept.exists():
        pruned = read_json(kept)
    else:
        pruned = _prune(problem, config)
        if kept is not None:
            write_json(kept, pruned)
    discard(problem, _NAME)
    start = problem.reference.with_widths(pruned["widths"])
    architecture, solution = scale_uniformly(problem, start)
    trace = {"iterations": [], "pruned": pruned, "multiplier": solution.scale}
    return SearchResult(architecture, trace, solution.one_channel, solution.binding)


def _prune(problem: Problem, config: MorphNetConfig) -> dict[str, Any]:
    """The pruned widths and how they were found, as JSON values."""
    from compressor.search.prune_while_training import prune, searched_groups

    reference = problem.reference
    searched = searched_groups(problem)
    channels = sum(reference.widths[name] for name in searched)
    # The pruner goes on while its floor is not undercut, so the floor lies just above the share to keep.
    found = prune(
        problem,
        config,
        reference,
        name=_NAME,
        label="search",
        seed=problem.seed,
        floor=float(np.nextafter(config.keep, 1)),
    )
    widths = dict(zip(reference.widths, found.last, strict=True))
    left = sum(widths[name] for name in searched)
    return {
        "widths": widths,
        "channels": [channels, left],
        "events": len(found.params),
        # Removal ends early where no group may lose more; the widths reached by then are used.
        "ended_early": found.reason if left > config.keep * channels else None,
        "seconds": {"pretrain": found.pretrain_seconds, "prune": found.seconds},
        "removal": found.removal,
    }


METHOD = Method(MorphNetConfig, search, sections=(removal_section,), lines=(removal_line,))
