"""Networks outside the zoo by reference: torchvision:NAME, timm:NAME, package.module:factory, given:NAME, onnx:PATH."""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from compressor.errors import ModelError, UnavailableError, not_one_of

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_OFFERED: dict[str, nn.Module] = {}


def offer(name: str, network: nn.Module) -> str:
    """Let this process name a network that it holds; its weights are what `model.weights: given` begins with.

    A run folder of such a network can be resumed by a process that offers the same network under the same name.

    Args:
        name: letters, digits, dots, dashes and underscores; an earlier network of that name is forgotten
        network: is copied

    Returns:
        what `model.name` calls it: given:NAME

    Raises:
        ModelError: another name
    """
    if not _NAME.fullmatch(name):
        raise ModelError(f"model.name: given:{name}: a name has letters, digits, dots, dashes and underscores only")
    _OFFERED[name] = copy.deepcopy(network).cpu()
    return f"given:{name}"


def carries_weights(reference: str) -> bool:
    """Whether a network comes with weights that are its very point: one of a file, or one offered."""
    return reference.startswith(("given:", "onnx:"))


def factory_of(reference: str) -> Callable[[int, Mapping[str, Any]], nn.Module]:
    """What makes the referenced network: (classes, options) -> network.

    Raises:
        ModelError: unknown name, or a module that cannot be imported
        UnavailableError: timm is not installed
    """
    package, _, name = reference.partition(":")
    if package == "torchvision":
        return _torchvision(name)
    if package == "timm":
        return _timm(name)
    if package == "given":
        if name not in _OFFERED:
            known = not_one_of(name, _OFFERED) if _OFFERED else f"{name!r} is not known, nothing was offered"
            raise ModelError(f"model.name: given:{known} (compressor.models.offer in this process)")
        return lambda classes, options: _checked(reference, lambda: _without_options(name, options))
    if package == "onnx":
        from compressor.models.onnx_file import network_of

        return lambda classes, options: network_of(Path(name), options)
    if os.getcwd() not in sys.path:  # noqa: PTH109 - the user's own module lies beside the recipe's caller
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        function = getattr(importlib.import_module(package), name)
    except Exception as error:  # the user's code runs here
        raise ModelError(f"model.name: cannot import {reference}: {cause_of(error)}") from error
    if not callable(function):
        raise ModelError(f"model.name: {reference} is a {type(function).__name__}, not a function or class")

    def make(classes: int, options: Mapping[str, Any]) -> nn.Module:
        try:
            takes = set(inspect.signature(function).parameters)
        except ValueError:  # a function written in C may have no signature
            takes = set()
        named = {"num_classes": classes} if "num_classes" in takes else {}
        return _checked(reference, lambda: function(**named, **options))

    return make


def _without_options(name: str, options: Mapping[str, Any]) -> nn.Module:
    if options:
        raise ModelError(f"model.options: a given network has none, not {min(options)!r}")
    return copy.deepcopy(_OFFERED[name])


def _torchvision(name: str) -> Callable[[int, Mapping[str, Any]], nn.Module]:
    from torchvision import models

    classifiers = models.list_models(module=models)  # those of detection and segmentation live in sub-modules
    segmenters = models.list_models(module=models.segmentation)
    if name in classifiers:
        return lambda classes, options: _checked(
            f"torchvision:{name}", lambda: models.get_model(name, num_classes=classes, **options)
        )
    if name not in segmenters:
        raise ModelError(f"model.name: torchvision:{not_one_of(name, [*classifiers, *segmenters])}")
    from compressor.models.deeplab import segmenter_of

    # Else its backbone would be downloaded.
    return lambda classes, options: _checked(
        f"torchvision:{name}",
        lambda: segmenter_of(models.get_model(name, num_classes=classes, **{"weights_backbone": None, **options})),
    )


def _timm(name: str) -> Callable[[int, Mapping[str, Any]], nn.Module]:
    try:
        import timm
    except ImportError as error:
        raise UnavailableError(
            f"model.name: timm:{name} needs timm, which is not installed: pip install 'onnx-compressor[timm]'"
        ) from error
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)  # of more than a thousand
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ModelError(f"model.name: timm:{name}: timm has no such model (timm.list_models() has them all){hint}")
    return lambda classes, options: _checked(
        f"timm:{name}", lambda: timm.create_model(name, num_classes=classes, **options)
    )


def cause_of(error: Exception) -> str:
    """An error of someone else's code, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _checked(reference: str, make: Callable[[], Any]) -> nn.Module:
    try:
        model = make()
    except ModelError:
        raise
    except Exception as error:  # the user's code runs here
        raise ModelError(f"model.name: {reference} cannot be built: {cause_of(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name: {reference} gives a {type(model).__name__}, not a torch.nn.Module")
    return model
