"""Recipes: what to compress, to which budget, how. YAML in, checked pydantic models out. Imports no torch.

The config classes of the search methods lie beside these (`compressor.search.methods`); they are found here as well.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pydantic import BaseModel

from compressor.recipe.budget import BudgetConfig
from compressor.recipe.cost import Cost, CostContext, ShippedNetwork, cost_title, costs
from compressor.recipe.loading import load_recipe, parse_recipe, schema
from compressor.recipe.method import Method, MethodConfig, method_of, methods
from compressor.recipe.sections import (
    BenchConfig,
    DataConfig,
    ExportConfig,
    ModelConfig,
    Recipe,
    WidthsConfig,
    recipe_type,
)
from compressor.recipe.training import FinetuneConfig, TrainConfig

__all__ = [
    "BenchConfig",
    "BudgetConfig",
    "Cost",
    "CostContext",
    "DataConfig",
    "ExportConfig",
    "FinetuneConfig",
    "Method",
    "MethodConfig",
    "ModelConfig",
    "Recipe",
    "ShippedNetwork",
    "TrainConfig",
    "WidthsConfig",
    "cost_title",
    "costs",
    "load_recipe",
    "method_configs",
    "method_of",
    "methods",
    "parse_recipe",
    "recipe_type",
    "schema",
]


def method_configs() -> dict[str, type[BaseModel]]:
    """Config class of every search method by the method's name."""
    return {name: method.config for name, method in methods().items()}


def __getattr__(name: str) -> Any:
    if name == "PruningConfig":
        return import_module("compressor.search.pruning_config").PruningConfig
    configs = {config.__name__: config for config in method_configs().values()} if name.endswith("Config") else {}
    if name not in configs:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return configs[name]
