"""The two files that `olive run` needs to use our pass. Imports neither olive (10 s) nor torch at the top."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from compressor.errors import RecipeError, RunError, UnavailableError
from compressor.files import read_json, write_atomic, write_json
from compressor.integrations.olive.parameters import PASS
from compressor.recipe import Recipe

PACKAGE_CONFIG, RUN_CONFIG, NETWORK, WEIGHTS = (
    "olive_config.json",
    "olive_run.json",
    "network.json",
    "network.safetensors",
)
_MODULE = {
    "module_path": f"compressor.integrations.olive.compress_to_budget.{PASS}",
    "supported_providers": ["*"],
    "supported_accelerators": ["*"],
    "supported_precisions": ["*"],
    "extra_dependencies": ["compressor"],
}


def package_config() -> dict[str, Any]:
    """Olive's default package config with our pass beside its own.

    Raises:
        UnavailableError: olive is not installed
        RunError: olive has a pass of that name
    """
    spec = importlib.util.find_spec("olive")
    path = Path(next(iter(spec.submodule_search_locations or ()), "")) / PACKAGE_CONFIG if spec else None
    if path is None or not path.is_file():
        raise UnavailableError("olive is not installed: pip install 'onnx-compressor[olive]'")
    config: dict[str, Any] = read_json(path)
    if PASS.lower() in (name.lower() for name in config["passes"]):
        raise RunError(f"{path}: has a pass {PASS} already")
    return config | {
        "passes": config["passes"] | {PASS: _MODULE},
        "extra_dependencies": config.get("extra_dependencies", {}) | {"compressor": ["onnx-compressor[olive]"]},
    }


def run_config(recipe: Recipe, shape: tuple[int, ...], out: Path, *, trained: bool = False) -> dict[str, Any]:
    """A run of Olive that does what `compressor run` does with a recipe.

    Args:
        recipe: with a network of images
        shape: of one input, (C, H, W)
        out: folder of the file of the network, and of what the run leaves
        trained: whether the network has trained weights
    """
    sections = recipe.model_dump(mode="json", exclude_unset=True)
    rest = {key: value for key, value in sections.items() if key not in ("model", "data", "budget")}
    network = {
        "model_path": str(out / NETWORK),
        "model_script": str(Path(__file__).with_name("recipe_network.py")),
        "model_loader": "load_network",
        "io_config": {"input_names": ["input"], "input_shapes": [[1, *shape]], "output_names": ["output"]},
    }
    given = {
        "budget": recipe.budget.model_dump(mode="json", exclude_none=True),
        "method": recipe.search.method,
        "data": sections["data"],
        "weights": "given" if trained else "fresh",
        "recipe": {"baselines": list(recipe.baselines)} | rest,
    }
    return {
        "input_model": {"type": "PyTorchModel", "config": network},
        "passes": {"compress": {"type": PASS, "config": given}},
        "output_dir": str(out / "model"),
        "cache_dir": str(out / "cache"),
    }


def write_configs(recipe: Recipe, out: Path) -> None:
    """Write the package config, the run config, and the network that it begins with.

    Raises:
        RecipeError: the inputs of the network are no images
        UnavailableError: olive is not installed
        DataError: the data set is missing; it says how many classes there are, and of which size images are
    """
    merged, out = package_config(), out.resolve()
    from compressor.data import load_data
    from compressor.models import reference_architecture
    from compressor.pipeline.inherit import trained_weights
    from compressor.training.checkpoint import save_tensors
    from compressor.training.trainer import pick_device

    data = load_data(recipe.data, seed=recipe.seed, device=pick_device("cpu"))
    if len(data.input_shape) != 3:
        raise RecipeError(f"data.name: {recipe.data.name} has no images, which the Olive pass needs")
    model = recipe.model
    reference = reference_architecture(model.name, model.options, data.classes, data.input_shape, model.width)
    trained = trained_weights(model, reference, data, recipe.seed)
    write_json(out / PACKAGE_CONFIG, merged)
    write_atomic(out / NETWORK, reference.to_json())
    (out / WEIGHTS).unlink(missing_ok=True)
    if trained is not None:
        save_tensors(out / WEIGHTS, trained.tensors, {})
    write_json(out / RUN_CONFIG, run_config(recipe, data.input_shape, out, trained=trained is not None))
