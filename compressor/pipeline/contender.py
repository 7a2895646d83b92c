"""A network of a run: the result, or a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.costs.budget import Budget
from compressor.files import read_json
from compressor.models.architecture import Architecture
from compressor.recipe import costs
from compressor.search import Finetuning


@dataclass(frozen=True)
class Contender:
    """A network that a run trains, exports and measures.

    Attributes:
        name: "result" or a baseline's
        folder: of its files
        architecture: of the network
        finetuning: of the weights in start.safetensors; None: as the recipe's `train` says
    """

    name: str
    folder: Path
    architecture: Architecture
    finetuning: Finetuning | None = None

    def has(self, *names: str) -> bool:
        """Whether all of these files are in its folder."""
        return all((self.folder / name).exists() for name in names)


def network_record(
    contender: Contender, latency: dict[str, Any], budget: Budget, verified: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What a report says of one network, as JSON values.

    Args:
        contender: exported
        latency: of its file, as measured beside the others
        budget: of the run
        verified: {cost name: what was measured of its file against the limit}, of limited costs that take measuring
    """
    known = costs()
    exported = read_json(contender.folder / "export.json")
    counted = {name: exported[name] for name in known if name in exported}
    measured = {name: record[known[name].verified] for name, record in verified.items()}
    kept = ("opset", "accuracy", "metric", "parity", "precision", "stacked")
    return {
        **counted,
        **{key: exported[key] for key in kept},
        "budget": budget.verdict(counted | measured),
        "latency_ms": {key.removesuffix("_ms"): value for key, value in latency.items() if key != "path"},
        **{cost.record: verified.get(name) for name, cost in known.items() if cost.record},
        "efficiency": None,
        "widths": dict(contender.architecture.widths),
        "stacks": {first: stack.to_json() for first, stack in contender.architecture.stacks.items()},
        "training": read_json(contender.folder / "training.json"),
    }
