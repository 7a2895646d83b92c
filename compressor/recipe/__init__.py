"""Recipes: what to compress, to which budget, how. YAML in, checked pydantic models out. Imports no torch."""

from compressor.recipe.budget import BudgetConfig
from compressor.recipe.loading import load_recipe, parse_recipe, schema
from compressor.recipe.methods import (
    BUILTIN_METHODS,
    GrowingConfig,
    L1Config,
    MorphNetConfig,
    NeuralScaleConfig,
    PruningConfig,
    RandomConfig,
    TissueNetConfig,
    UniformConfig,
    method_configs,
)
from compressor.recipe.sections import (
    BenchConfig,
    DataConfig,
    ExportConfig,
    ModelConfig,
    Recipe,
    TrainConfig,
    WidthsConfig,
    recipe_type,
)

__all__ = [
    "BUILTIN_METHODS",
    "BenchConfig",
    "BudgetConfig",
    "DataConfig",
    "ExportConfig",
    "GrowingConfig",
    "L1Config",
    "ModelConfig",
    "MorphNetConfig",
    "NeuralScaleConfig",
    "PruningConfig",
    "RandomConfig",
    "TissueNetConfig",
    "Recipe",
    "TrainConfig",
    "UniformConfig",
    "WidthsConfig",
    "load_recipe",
    "method_configs",
    "parse_recipe",
    "recipe_type",
    "schema",
]
