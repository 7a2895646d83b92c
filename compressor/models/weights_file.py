"""Trained weights in a file: read without running code, named as the network names them, loaded whole or refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from compressor.errors import ModelError

Tensors = dict[str, torch.Tensor]

# Where training scripts keep the state dict in a checkpoint of more than that, the likeliest first.
_WITHIN = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
)
_COUNTERS = ("n_averaged", "num_batches_tracked")  # of AveragedModel; of batch-norms saved by a torch before 0.4.1
_NAMED = 3  # keys that a message names
_DEEP = 3  # checkpoints within each other, at most


def read_weights(path: Path) -> Tensors:
    """The state dict that a file holds, on the CPU.

    Args:
        path: .safetensors, or what `torch.save` wrote: a state dict, or a checkpoint with one under a usual key

    Raises:
        ModelError: the file is absent or damaged, holds no state dict, or objects whose loading would run code
    """
    if not path.is_file():
        raise ModelError(f"model.weights: {path}: file not found")
    found = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    tensors = _state_dict(found)
    if not tensors:
        what = f"a mapping with the keys {_some(found)}" if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise ModelError(f"model.weights: {path}: holds {what}, not a state dict; save model.state_dict()")
    return tensors


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"model.weights: {path}: cannot be read: {error}") from error


def _pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on the format of old files
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail anywhere in torch's reader
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise ModelError(
                f"model.weights: {path}: holds more than tensors and plain values, and loading that would run code; "
                "save model.state_dict()"
            ) from error
        raise ModelError(f"model.weights: {path}: cannot be read: {' '.join(str(error).split())[:200]}") from error


def _state_dict(found: Any, depth: int = 0) -> Tensors:
    """The tensors of a state dict, or of one within, beside which there are few others; of anything else none."""
    if not isinstance(found, Mapping) or depth > _DEEP:
        return {}
    own = _tensors(found)
    for key in _WITHIN:
        inside = _state_dict(found.get(key), depth + 1)
        if len(inside) >= max(1, 2 * len(own)):
            return inside
    return own


def _tensors(found: Mapping[Any, Any]) -> Tensors:
    """The tensors of a state dict; of anything else none."""
    tensors = {str(key): value for key, value in found.items() if isinstance(value, torch.Tensor)}
    return tensors if tensors and len(tensors) >= len(found) / 2 else {}


def load_trained_(model: nn.Module, weights: Mapping[str, torch.Tensor], source: str, classes: int) -> list[str]:
    """Load trained weights into a network.

    Prefixes that DataParallel, AveragedModel, torch.compile and training frameworks put before all names are taken off.
    A layer that gives the logits of another number of classes is left as the network has it.

    Args:
        model: changed in place
        weights: state dict
        source: what to call it in errors
        classes: of the network

    Returns:
        the parameters that were left

    Raises:
        ModelError: a tensor is missing, is none of the network's, or has another shape or other kinds of values
    """
    own = model.state_dict()
    given = _renamed(weights, own)
    missing = [key for key in own if key not in given and not key.endswith(_COUNTERS)]
    strange = [key for key in given if key not in own and not key.endswith(_COUNTERS)]
    if missing or strange:
        problems = [f"lacks {_some(missing)}"] * bool(missing) + [f"has {_some(strange)} too"] * bool(strange)
        raise ModelError(f"model.weights: {source}: is not of this network: it {' and '.join(problems)}")
    for key in [key for key in own if key in given]:
        if (said := _unusable(given[key], own[key])) is not None:
            raise ModelError(f"model.weights: {source}: {key} is {said}")
    other = [key for key in own if key in given and given[key].shape != own[key].shape]
    for key in other:
        shape, wanted = tuple(given[key].shape), tuple(own[key].shape)
        if not (wanted[:1] == (classes,) and shape[1:] == wanted[1:]):
            raise ModelError(f"model.weights: {source}: {key} is {shape}, the network's is {wanted}")
    kept = {key: own[key] if key in other or key not in given else given[key].to(own[key].dtype) for key in own}
    if odd := [key for key, value in kept.items() if value.is_floating_point() and not bool(value.isfinite().all())]:
        raise ModelError(f"model.weights: {source}: {odd[0]} holds values that are not finite")
    model.load_state_dict(kept)
    return other


def not_dense(tensor: torch.Tensor) -> str | None:
    """What a tensor is that keeps its values otherwise than one by one; None: it does not."""
    if tensor.is_quantized:
        return "quantized; valid: dense tensors"
    if tensor.layout != torch.strided:
        return f"{str(tensor.layout).removeprefix('torch.')}; valid: dense tensors"
    return None


def _unusable(given: torch.Tensor, own: torch.Tensor) -> str | None:
    """What a tensor is that holds no values for one of the network's; None: it holds some.

    Integers for weights are shares of a scale that lies elsewhere, if anywhere.
    """
    if (said := not_dense(given)) is not None:
        return said
    if given.is_meta:
        return "on the meta device, without values"
    if own.is_floating_point() and not given.is_floating_point():
        kinds = (str(one.dtype).removeprefix("torch.") for one in (given, own))
        return "{}, the network's is {}; valid: floating-point numbers".format(*kinds)
    return None


def _renamed(weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors under the names that the network has for them, as far as prefixes are all that differs."""
    given = {key.replace("_orig_mod.", ""): value for key, value in weights.items()}
    wanted = {key for key in own if not key.endswith(_COUNTERS)}
    while not wanted <= set(given):
        for head in sorted({f"{key.partition('.')[0]}." for key in given if "." in key}):
            inside = {key.removeprefix(head): value for key, value in given.items() if key.startswith(head)}
            beside = {key: value for key, value in given.items() if not key.startswith(head)}
            only = all(key.endswith(_COUNTERS) for key in beside)
            if wanted <= set(inside) or (only and not any(key in own for key in given)):
                given = inside | {key: value for key, value in beside.items() if key not in inside}
                break
        else:
            return given
    return given


def _some(keys: Any) -> str:
    found = [str(key) for key in keys]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more if found else "no keys"
