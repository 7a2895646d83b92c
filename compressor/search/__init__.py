"""Search methods: each finds an architecture within the budget; `compressor.search.methods` has the built-in ones.

Public: `Problem` and `SearchResult`, what a method is given and gives back, with `Finetuning` and `Unfinished`;
`Method`, how it is described; `search` runs the one that a configuration belongs to.
"""

from __future__ import annotations

from typing import Any

from compressor.recipe.method import Method, method_of
from compressor.search.problem import Finetuning, Problem, SearchResult, Unfinished


def search(problem: Problem, config: Any) -> SearchResult:
    """Run the method that the configuration's type names."""
    return method_of(config).search(problem, config)


__all__ = ["Finetuning", "Method", "Problem", "SearchResult", "Unfinished", "search"]
