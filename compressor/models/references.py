"""Networks outside the zoo by reference: torchvision:NAME, timm:NAME, package.module:factory."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from compressor.errors import ModelError, UnavailableError, not_one_of


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
    except Exception as error:  # the user's code runs here
        raise ModelError(f"model.name: {reference} cannot be built: {cause_of(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name: {reference} gives a {type(model).__name__}, not a torch.nn.Module")
    return model
