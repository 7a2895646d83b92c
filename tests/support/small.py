"""The recipe of tests that run something: seconds of work on real images; each test changes what it is about."""

from typing import Any

import pytest

from compressor.errors import RecipeError
from compressor.recipe import parse_recipe

SMALL = {
    "model": {"name": "mlp", "width": 0.1},
    "data": {"name": "digits", "image_size": 8, "limit": 100},
    "budget": {"params": "0.5x"},
    "search": {"method": "uniform"},
    "train": {"epochs": 1, "batch_size": 32},
    "bench": {"provider": "cpu", "batch": 2, "warmup": 0, "runs": 2, "threads": 1},
    "baselines": [],
    "device": "cpu",
    "threads": 1,
}

NEURALSCALE = {  # the `search` section of one short iteration
    "method": "neuralscale",
    "iterations": 1,
    "pretrain_epochs": 1,
    "batch_size": 32,
    "prune_every": 1,
    "prune_channels": 1,
}


def small_recipe(**sections: Any) -> dict[str, Any]:
    """A recipe as YAML gives it, with these sections instead of the small ones; None takes a section out."""
    return {name: section for name, section in (SMALL | sections).items() if section is not None}


def refusal(raw: Any, *overrides: str) -> str:
    """What is said of a recipe that is refused."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw, overrides, "my.yaml")
    return str(caught.value)
