"""Search methods: each finds an architecture within the budget.

The type of its configuration picks the method. Third parties add theirs through the entry-point group
`compressor.methods`: name → (config class, search function).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compressor.plugins import with_plugins
from compressor.recipe import (
    BUILTIN_METHODS,
    GrowingConfig,
    L1Config,
    MorphNetConfig,
    NeuralScaleConfig,
    RandomConfig,
    TissueNetConfig,
    UniformConfig,
)
from compressor.search import growing, l1, morphnet, neuralscale, randomly, tissuenet, uniform
from compressor.search.problem import Finetuning, Problem, SearchResult, Unfinished

SEARCH_METHODS: dict[type, Callable[[Problem, Any], SearchResult]] = {
    NeuralScaleConfig: neuralscale.search,
    MorphNetConfig: morphnet.search,
    GrowingConfig: growing.search,
    TissueNetConfig: tissuenet.search,
    L1Config: l1.search,
    RandomConfig: randomly.search,
    UniformConfig: uniform.search,
}


def search(problem: Problem, config: Any) -> SearchResult:
    """Run the method that the configuration's type names."""
    methods = dict(SEARCH_METHODS)
    for pair in with_plugins("compressor.methods", dict.fromkeys(BUILTIN_METHODS)).values():
        if pair is not None:
            methods[pair[0]] = pair[1]
    return methods[type(config)](problem, config)


__all__ = ["SEARCH_METHODS", "Finetuning", "Problem", "SearchResult", "Unfinished", "search"]
