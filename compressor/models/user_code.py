"""The user's code that makes a network: what it changes around itself is set back, what it gives is checked."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from compressor.dependency.constants import Constants
from compressor.errors import ModelError
from compressor.models.tasks import cause_of

_Made = TypeVar("_Made")


def called(what: str, function: Callable[[], _Made]) -> _Made:
    """What someone else's code gives.

    Args:
        what: sentence to which the cause is added, such as "model.name: nets:net cannot be built"
        function: that code

    Raises:
        ModelError: it raises anything, or ends the process
    """
    try:
        return function()
    except ModelError:
        raise
    except SystemExit as error:
        code = "" if error.code is None else f": {error.code}"
        raise ModelError(f"{what}: it ends the process{code}") from error
    except Exception as error:  # the user's code runs here
        raise ModelError(f"{what}: {cause_of(error)}") from error


def made_by(name: str, make: Callable[[], Any]) -> nn.Module:
    """What someone else's code makes, if that is a network that can be trained here.

    Raises:
        ModelError: it is not, or the code fails
    """
    model = called(f"model.name: {name} cannot be built", make)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name: {name} gives a {type(model).__name__}, not a torch.nn.Module")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            which = f"its part {path} is" if path else "it is"
            raise ModelError(f"model.name: {name}: {which} TorchScript, which has no layers to resize; give the module")
    for path, parameter in [(path, one) for path, one in model.named_parameters() if not is_lazy(one)]:
        if parameter.is_meta:
            raise ModelError(f"model.name: {name}: {path} has no values: it lies on the meta device")
        if parameter.is_inference():
            raise ModelError(f"model.name: {name}: {path} cannot train: it was made under torch.inference_mode()")
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ModelError(f"model.name: {name}: {path} is {kind}, not float32 (call .float() on the network)")
    return model


def copied(name: str, model: nn.Module) -> nn.Module:
    """A copy of a network.

    Raises:
        ModelError: old hooks, such as nn.utils.weight_norm, forbid it
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"model.name: {name} cannot be copied: {cause_of(error)} (nn.utils.weight_norm and nn.utils.prune keep "
            "tensors that are computed: nn.utils.parametrizations.weight_norm and prune.remove do not)"
        ) from error


class _Unseeded:
    """torch's global generator, but for `manual_seed`."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def manual_seed(self, seed: int) -> torch.Generator:
        return self._generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


@contextmanager
def contained(seed: int = 0, *, seeds_heard: bool = True) -> Iterator[None]:
    """Run someone else's code so that it leaves nothing changed, and draws the same when it runs again.

    Set back are the working directory, torch's default type and device, whether gradients are computed, and the
    generators of Python and numpy.

    Args:
        seed: where the generators of Python and numpy begin
        seeds_heard: let `torch.manual_seed` do what it does, and set torch's generator back; if not, it has no effect,
            and torch's generator goes on from where it is
    """
    folder, dtype, device = os.getcwd(), torch.get_default_dtype(), torch.get_default_device()  # noqa: PTH109
    graded, in_python, in_numpy = torch.is_grad_enabled(), random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    unheard = patch.object(torch.random, "default_generator", _Unseeded(torch.default_generator))
    try:
        with torch.random.fork_rng(devices=[]) if seeds_heard else unheard:
            yield
    finally:
        random.setstate(in_python)
        np.random.set_state(in_numpy)
        torch.set_grad_enabled(graded)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)  # a set one slows every call down
        if os.getcwd() != folder:  # noqa: PTH109
            os.chdir(folder)


def constant_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """{name: copy} of what does not train: parameters and buffers that are constants, tensors that are attributes."""
    constants, found = Constants(model), dict[str, torch.Tensor]()
    for path, module in model.named_modules():
        owned = {**module._parameters, **module._buffers}
        kept = {name: one for name, one in owned.items() if one is not None and not is_lazy(one)}
        kept = {name: one for name, one in kept.items() if f"{path}.{name}".lstrip(".") in constants}
        kept |= {name: one for name, one in vars(module).items() if isinstance(one, torch.Tensor)}
        found |= {f"{path}.{name}": one.detach().clone() for name, one in kept.items()}
    return found


def take_constants_(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Give a network the constants of another one that the same code made, see `constant_tensors`."""
    for full, tensor in tensors.items():
        path, _, name = full.rpartition(".")
        module = model.get_submodule(path)
        if isinstance(own := getattr(module, name), nn.Parameter):
            own.data = tensor.clone()
        else:
            setattr(module, name, tensor.clone())
