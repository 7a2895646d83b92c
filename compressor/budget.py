"""A budget: upper limits on what the network may cost, all of which must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Budget:
    """Upper limits by cost name: params, macs.

    Attributes:
        limits: {cost name: largest allowed value}
    """

    limits: Mapping[str, float]

    def misses(self, costs: Mapping[str, float]) -> dict[str, float]:
        """{cost name: by how much it exceeds its limit}; empty when the budget is met."""
        return {name: costs[name] - limit for name, limit in self.limits.items() if costs[name] > limit}

    def verdict(self, costs: Mapping[str, float]) -> dict[str, Any]:
        """What the report says: limits, costs, whether they are met, and the slack under each limit."""
        return {
            "limits": dict(self.limits),
            "costs": {name: costs[name] for name in self.limits},
            "met": not self.misses(costs),
            "slack": {name: limit - costs[name] for name, limit in self.limits.items()},
        }
