"""The width-configurable zoo and references to other networks: from an `Architecture` to an nn.Module.

    vgg11_bn                     a network of the zoo, built at any widths
    torchvision:resnet18         a torchvision network, resized as compressor.widths says
    timm:resnet10t               the same of timm (pip install 'onnx-compressor[timm]')
    mypackage.nets:make_net      your factory; called with num_classes= if it takes it, and the recipe's options

Third parties add families through the entry-point group `compressor.models` (name → `Family`).
"""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from compressor.architecture import Architecture
from compressor.errors import ModelError, UnavailableError, not_one_of
from compressor.initialise import reinitialise_
from compressor.models import mlp, mobilenet, resnet, vgg
from compressor.models.zoo import Family
from compressor.plugins import with_plugins
from compressor.widths import WidthPlan, plan_widths, resize_

ZOO: dict[str, Family] = {**vgg.FAMILIES, **resnet.FAMILIES, **mobilenet.FAMILIES, **mlp.FAMILIES}


def families() -> dict[str, Family]:
    """All families by name, those of installed plug-ins included."""
    return with_plugins("compressor.models", ZOO)


def reference_architecture(
    model: str,
    options: Mapping[str, Any],
    classes: int,
    input_shape: tuple[int, int, int],
    width: float = 1.0,
) -> Architecture:
    """The unscaled network of a recipe.

    Args:
        model: zoo name or reference
        options: of that model; unknown ones are refused
        classes: number of outputs
        input_shape: (C, H, W)
        width: multiplier of every default width, rounded down, at least one channel

    Raises:
        ModelError: unknown model or option, or images too small for the network
    """
    if ":" not in model:
        family = _family(model)
        options = _complete(model, family, options)
        if min(input_shape[1:]) < family.min_side:
            raise ModelError(
                f"model.name: {model} needs images of at least {family.min_side}×{family.min_side} pixels, "
                f"these have {input_shape[1]}×{input_shape[2]} (see data.image_size)"
            )
        widths = family.widths(options)
    else:
        widths = _referenced(model, json.dumps(dict(options), sort_keys=True), classes, input_shape)[1].widths
    unscaled = Architecture(model, classes, input_shape, widths, dict(options))
    step = steps(unscaled)
    return unscaled.with_widths(
        {name: max(1, int(channels * width) // step[name]) * step[name] for name, channels in widths.items()}
    )


def check_reference(model: str, options: Mapping[str, Any]) -> None:
    """Refuse an unknown model or option before anything slow begins.

    Raises:
        ModelError: unknown model or option, or a module that cannot be imported
    """
    if ":" in model:
        _factory(model)
    else:
        _complete(model, _family(model), options)


def build(architecture: Architecture, seed: int = 0) -> nn.Module:
    """Build a network with fresh weights; the same seed gives the same weights.

    Raises:
        ModelError: unknown model, option or width name, or a width that this network cannot have
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that reaches the GPUs' generators too
        if ":" not in architecture.model:
            return _build_zoo(architecture)
        plan = referenced(architecture)[1]
        fresh = _factory(architecture.model)(architecture.classes, architecture.options)
        if plan.widths == dict(architecture.widths):
            return fresh
        resized = copy.deepcopy(fresh)
        resize_(resized, plan, architecture.widths)
        _check_logits(architecture.model, resized, architecture.classes, example_input(architecture))
        reinitialise_(resized, fresh)
        return resized


def build_meta(architecture: Architecture) -> nn.Module:
    """Build the network without memory for its weights, to count what it costs."""
    if ":" not in architecture.model:
        with torch.device("meta"):
            return _build_zoo(architecture)
    model, plan = referenced(architecture)
    resized = copy.deepcopy(model)
    resize_(resized, plan, architecture.widths)
    return resized


def referenced(architecture: Architecture) -> tuple[nn.Module, WidthPlan]:
    """The network that a reference names, at its own widths on the meta device, and its plan; not to be changed.

    Raises:
        ModelError: a width name of the architecture is unknown or missing
    """
    model, plan = _referenced(*_key(architecture))
    _check_names(architecture, plan.widths)
    return model, plan


def follows(architecture: Architecture) -> dict[str, tuple[str, int]]:
    """Groups that are not searched because their width is a multiple of a searched one: {name: (searched, factor)}."""
    if ":" in architecture.model:
        return {}
    return _family(architecture.model).follows(architecture.options)


def prunable(architecture: Architecture) -> Architecture:
    """The network to prune for the widths of an architecture: same widths, each of which loses channels by itself."""
    if ":" in architecture.model:
        return architecture
    return replace(architecture, options=_family(architecture.model).prunable(architecture.options))


def plan_of(architecture: Architecture) -> WidthPlan:
    """The width plan of an architecture's network.

    Raises:
        ModelError: the network cannot be traced
    """
    if ":" in architecture.model:  # planned at its own widths: narrower ones may hide what goes together
        return referenced(architecture)[1].at(architecture.widths)
    # One channel more everywhere keeps equal widths equal, and a single channel is told from none.
    wider = replace(architecture, widths={name: width + 1 for name, width in architecture.widths.items()})
    plan = plan_widths(build_meta(wider), example_input(architecture))
    built = {name: parameter.shape for name, parameter in build_meta(architecture).named_parameters()}
    widths = {}
    for name in plan.groups:
        made = plan.producers(name)[0]
        widths[name] = built[made.tensor][made.dim]
    return plan.at(widths)


def steps(architecture: Architecture) -> dict[str, int]:
    """{group: what its width must be a multiple of}, above 1 where parts of a layer must keep equal sizes."""
    if ":" not in architecture.model:
        return dict.fromkeys(architecture.widths, 1)
    return referenced(architecture)[1].steps


def example_input(architecture: Architecture, batch: int = 2) -> torch.Tensor:
    """Zeros of the network's input shape, (batch, C, H, W)."""
    return torch.zeros(batch, *architecture.input_shape)


def _family(name: str) -> Family:
    known = families()
    if name not in known:
        raise ModelError(
            f"model.name: {not_one_of(name, known)}, and no reference such as torchvision:NAME, timm:NAME or "
            "package.module:factory"
        )
    return known[name]


def _complete(name: str, family: Family, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a family, defaults filled in."""
    if unknown := set(options) - set(family.options):
        names = list(family.options) or ["(none)"]
        raise ModelError(f"model.options of {name}: {not_one_of(min(unknown), names)}")
    complete = {}
    for option, (default, *valid) in family.options.items():
        complete[option] = options.get(option, default)
        if complete[option] not in valid:
            raise ModelError(f"model.options.{option}: {not_one_of(complete[option], valid)}")
    return complete


def _build_zoo(architecture: Architecture) -> nn.Module:
    family = _family(architecture.model)
    options = _complete(architecture.model, family, architecture.options)
    _check_names(architecture, {**family.widths(options)})
    return family.build(architecture.widths, options, architecture.classes, architecture.input_shape)


def _check_names(architecture: Architecture, known: Mapping[str, int]) -> None:
    if unknown := set(architecture.widths) - set(known):
        raise ModelError(f"widths of {architecture.model}: {not_one_of(min(unknown), known)}")
    if missing := set(known) - set(architecture.widths):
        raise ModelError(f"widths of {architecture.model}: {min(missing)} is missing")


def _key(architecture: Architecture) -> tuple[str, str, int, tuple[int, int, int]]:
    options = json.dumps(dict(architecture.options), sort_keys=True)
    return architecture.model, options, architecture.classes, architecture.input_shape


@lru_cache(maxsize=8)
def _referenced(
    model: str, options: str, classes: int, input_shape: tuple[int, int, int]
) -> tuple[nn.Module, WidthPlan]:
    """The referenced network on the meta device, at its own widths, and its width plan."""
    with torch.random.fork_rng(devices=[]):
        built = _factory(model)(classes, json.loads(options))
    example = torch.zeros(2, *input_shape)
    plan = plan_widths(built, example)
    if not plan.groups:
        reasons = "; ".join(plan.fixed.values()) or "it has no layers with a width"
        raise ModelError(f"model.name: {model} cannot be resized: {reasons}")
    _check_logits(model, built, classes, example)
    return built.to("meta"), plan


def _check_logits(name: str, model: nn.Module, classes: int, example: torch.Tensor) -> None:
    """Refuse a network that does not give logits (N, classes), in training as in evaluation.

    In training there may be more of them, from auxiliary heads, behind the network's own (`compressor.train`).
    """
    trial = copy.deepcopy(model).to("meta")
    for training in (True, False):
        try:
            with torch.no_grad():
                output = trial.train(training)(example.to("meta"))
        except Exception as error:  # the network's own code decides what it raises
            raise ModelError(f"model.name: {name} does not run at these widths: {_cause(error)}") from error
        heads = [head for head in output if head is not None] if training and isinstance(output, tuple) else [output]
        for head in heads:
            shape = tuple(head.shape) if isinstance(head, torch.Tensor) else type(head).__name__
            if shape != (len(example), classes):
                mode = "training" if training else "evaluation"
                raise ModelError(
                    f"model.name: {name} gives {shape} in {mode} for {len(example)} images, "
                    f"but must give logits of shape ({len(example)}, {classes})"
                )


def _factory(reference: str) -> Callable[[int, Mapping[str, Any]], nn.Module]:
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
        raise ModelError(f"model.name: cannot import {reference}: {_cause(error)}") from error
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

    known = models.list_models(module=models)  # classifiers; detection and segmentation live in sub-modules
    if name not in known:
        raise ModelError(f"model.name: torchvision:{not_one_of(name, known)}")
    return lambda classes, options: _checked(
        f"torchvision:{name}", lambda: models.get_model(name, num_classes=classes, **options)
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


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _checked(reference: str, make: Callable[[], Any]) -> nn.Module:
    try:
        model = make()
    except Exception as error:  # the user's code runs here
        raise ModelError(f"model.name: {reference} cannot be built: {_cause(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name: {reference} gives a {type(model).__name__}, not a torch.nn.Module")
    return model
