"""A recipe for an ONNX file and a folder of images, with all that the file tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from compressor.errors import ModelError, RecipeError
from compressor.files import parse_json
from compressor.models.onnx_reading import read_onnx

if TYPE_CHECKING:
    from compressor.recipe import Recipe

_IMITATION = "compressor.pipeline.shrinking:originals"
_LOOKED_AT = 32  # images that statistics of batch-norms begin with
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


def shrink_recipe(
    model: Path,
    folder: Path,
    budget: Mapping[str, Any],
    *,
    method: str = "taylor",
    epochs: int = 10,
    labels: bool | None = None,
    values: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> dict[str, Any]:
    """What `compressor shrink` runs.

    A classifier is fine-tuned on the folder's classes if they are as many as it gives, else distilled from itself; any
    other network learns to give what it gave.

    Args:
        model: the ONNX file; one input, images
        folder: of images: train/<class> and test/<class>, or any folders
        budget: a recipe's section
        method: that finds the widths
        epochs: of fine-tuning
        labels: whether the folders are classes; None: if they fit
        values: whether what it gives are values rather than logits of classes, of (N, 2) and more
        mean: per channel, in units of 0..1, that images are normalised by; None: as the file says, or as measured
        std: likewise

    Raises:
        ModelError: the file cannot be read, or does not take images
    """
    proto = read_onnx(model)
    channels, size = _image(model, proto)
    told = {entry.key: entry.value for entry in proto.metadata_props}
    if mean is None and std is None:
        mean, std = (_noted(model, told, key, channels) for key in ("mean", "std"))
    for key, given in (("mean", mean), ("std", std)):
        if given is not None and len(given) != channels:
            raise RecipeError(f"--{key}: {len(given)} values; {model} takes images of {channels} channels")
    ports = [port.type.tensor_type for port in proto.graph.output]
    if not any(port.elem_type in _FLOATS for port in ports):
        raise ModelError(
            f"{model}: gives no floating-point output, so nothing can learn from it; cut it before its ArgMax"
        )
    outputs = [[dim.dim_value for dim in port.shape.dim] for port in ports]
    model, folder = model.resolve(), folder.resolve()  # a run goes on from any working directory
    data: dict[str, Any] = {"path": str(folder), "channels": channels, "image_size": size}
    data |= {key: list(value) for key, value in (("mean", mean), ("std", std)) if value is not None}
    recipe: dict[str, Any] = {
        "model": {"onnx": str(model)},
        "budget": dict(budget),
        "search": {"method": method},
        "baselines": ["reference"],
    }
    if len(outputs) == 1 and len(outputs[0]) == 2 and outputs[0][1] != 1 and not values:
        classes = _classes(folder)
        labelled = classes == outputs[0][1] if labels is None else labels
        return recipe | {
            "data": {"name": "imagefolder", "labels": labelled, **data},
            "train": {"epochs": epochs},
            "finetune": {"epochs": epochs, "lr": 0.01},
        }
    if labels:
        raise RecipeError(f"--labels: {model} gives no logits of classes, so labels say nothing; valid: --no-labels")
    return recipe | {
        "data": {"name": _IMITATION, "options": {"model": str(model), **data}},
        "train": {"function": "compressor.training.imitation:train", "epochs": epochs},
        "evaluate": {"function": "compressor.training.imitation:agreement", "name": "R2"},
    }


def _noted(path: Path, metadata: Mapping[str, str], key: str, channels: int) -> list[float] | None:
    """What a file of ours says that its images are normalised by; None: nothing.

    Raises:
        ModelError: that is no number for each channel
    """
    text = metadata.get(f"compressor.{key}", "null")
    try:
        found = parse_json(text) or None
    except ValueError:
        found = text
    numbers = isinstance(found, list) and all(type(one) in (int, float) for one in found)
    if found is not None and not (numbers and len(found) == channels):
        raise ModelError(
            f"{path}: metadata compressor.{key}: {text[:80]!r} is not a list of {channels} numbers; --mean and --std "
            "take its place"
        )
    return found


def _image(path: Path, proto: onnx.ModelProto) -> tuple[int, int | None]:
    """Channels of the images that a file takes, and their side; None: any, or that of the images."""
    weights = {weight.name for weight in proto.graph.initializer}
    ports = [port for port in proto.graph.input if port.name not in weights]
    if len(ports) != 1:
        names = ", ".join(port.name for port in ports)
        raise ModelError(f"{path}: takes {len(ports)} inputs ({names}); shrink is for files that take images alone")
    tensor = ports[0].type.tensor_type
    sizes = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type not in _FLOATS or len(sizes) != 4:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ModelError(
            f"{path}: input {ports[0].name} is {kind} with {len(sizes)} axes; shrink is for float images (N, C, H, W) "
            "or (N, H, W, C)"
        )
    last = sizes[3] in (1, 3) and sizes[1] not in (1, 3)
    channels, height, width = (sizes[3], *sizes[1:3]) if last else (sizes[1], *sizes[2:])
    if channels not in (1, 3):
        raise ModelError(f"{path}: input {ports[0].name} has {channels} channels; images have 1 or 3")
    return channels, height if height and height == width else None


def _classes(folder: Path) -> int:
    """How many classes the folders of train are; 0: there are no folders of classes."""
    train = folder / "train"
    if not train.is_dir() or not any((folder / name).is_dir() for name in ("test", "val")):
        return 0
    return sum(1 for entry in train.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def originals(model: str, **section: Any) -> dict[str, Any]:
    """What imitation needs, as functions of the user's give their data: an example of inputs, and the data.

    Args:
        model: the ONNX file
        section: of a recipe's `data`, of images without classes
    """
    import torch

    from compressor.data import load_data, normalised
    from compressor.models import given_network
    from compressor.models.from_onnx.interface import lacks_softmax
    from compressor.recipe.sections import DataConfig
    from compressor.training.imitation import Originals

    config = DataConfig.model_validate({"name": "imagefolder", "labels": False, **section})
    data = normalised(load_data(config, seed=0), config.mean, config.std)
    some = torch.arange(min(len(data.train), _LOOKED_AT))
    example = data.normalise(data.train.samples(some)[0])
    network = given_network(f"onnx:{model}", {}, data.input_shape)
    return {"example": example, "data": Originals(network, data, softmax=lacks_softmax(network))}


def assumed(raw: Mapping[str, Any]) -> list[str]:
    """What such a recipe takes for granted, a sentence each."""
    data = raw["data"]["options"] or raw["data"]
    found = []
    if data.get("mean") is None:
        found.append("images are normalised by their own mean and deviation; --mean and --std give those of the file")
    if raw["data"]["name"] == "imagefolder" and not raw["data"]["labels"]:
        found.append("the outputs are taken for logits of classes; --values if they are not")
    return found


def checked(raw: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    """The recipe, with what the user overrides.

    Raises:
        RecipeError: see `parse_recipe`
    """
    from compressor.recipe import parse_recipe

    return parse_recipe(dict(raw), overrides, "shrink")
