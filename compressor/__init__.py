"""Compress a network to a budget and get a trained ONNX model with its evidence.

The public names are loaded when first used, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOME = {
    "Architecture": "compressor.models",
    "Budget": "compressor.costs.budget",
    "Compressed": "compressor.pipeline.python_call",
    "CompressorError": "compressor.errors",
    "Recipe": "compressor.recipe",
    "compress": "compressor.pipeline.python_call",
    "load": "compressor.pipeline.python_call",
    "load_recipe": "compressor.recipe",
    "run": "compressor.pipeline",
}
__all__ = [
    "Architecture",
    "Budget",
    "Compressed",
    "CompressorError",
    "Recipe",
    "__version__",
    "compress",
    "load",
    "load_recipe",
    "run",
]

if TYPE_CHECKING:
    from compressor.costs.budget import Budget
    from compressor.errors import CompressorError
    from compressor.models import Architecture
    from compressor.pipeline import run
    from compressor.pipeline.python_call import Compressed, compress, load
    from compressor.recipe import Recipe, load_recipe


def __getattr__(name: str) -> Any:  # not `lazily`: bench is of use without the rest, and begins by importing this file
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'compressor' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
