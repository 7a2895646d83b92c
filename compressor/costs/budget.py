"""A budget: upper limits on what the network may cost, all of which must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressor.recipe import costs


def amount(name: str, value: float) -> str:
    """A cost as sentences have it: milliseconds with decimals, counts whole."""
    found = costs().get(name)
    return f"{value:,.0f}" if found is None else found.text(value)


@dataclass(frozen=True)
class Budget:
    """Upper limits by cost name, see `compressor.recipe.costs`.

    Attributes:
        limits: {cost name: largest allowed value}
    """

    limits: Mapping[str, float]

    def misses(self, costs: Mapping[str, float]) -> dict[str, float]:
        """{cost name: by how much it exceeds its limit}; empty when the budget is met."""
        return {name: costs[name] - limit for name, limit in self.limits.items() if costs[name] > limit}

    def needless(self, reference: Mapping[str, float], found: Mapping[str, float] | None = None) -> str | None:
        """Say that the budget needs no compression, or None if the unscaled network exceeds a limit.

        Args:
            reference: {cost name: what the unscaled network costs}
            found: what the result costs; None: not known yet
        """
        if any(reference[name] > limit for name, limit in self.limits.items()):
            return None
        parts = []
        for name, limit in self.limits.items():
            text = f"budget.{name}: {amount(name, limit)} needs no compression: the unscaled network has "
            text += amount(name, reference[name])
            if found is None:
                text += ", widths may be scaled up"
            elif found[name] > reference[name]:
                text += f"; widths are scaled up to {amount(name, found[name])}"
            parts.append(text)
        return "; ".join(parts)

    def verdict(self, costs: Mapping[str, float]) -> dict[str, Any]:
        """What the report says: limits, costs, whether they are met, and the slack under each limit."""
        return {
            "limits": dict(self.limits),
            "costs": {name: costs[name] for name in self.limits},
            "met": not self.misses(costs),
            "slack": {name: limit - costs[name] for name, limit in self.limits.items()},
        }
