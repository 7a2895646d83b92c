"""The user's code that makes a network: what it changes around itself is set back, what it gives is checked."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from compressor.errors import ModelError
from compressor.models.weights_file import not_dense
from compressor.user_functions import called

_Made = TypeVar("_Made")


def made_by(name: str, make: Callable[[], Any]) -> nn.Module:
    """What someone else's code makes, if that is a network that can be trained here.

    Raises:
        ModelError: it is not, or the code fails
    """
    model = called(f"model.name: {name} cannot be built", make, ModelError)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name: {name} gives a {type(model).__name__}, not a torch.nn.Module")
    return called(f"model.name: {name} gives a broken network", lambda: _checked(name, model), ModelError)


def _checked(name: str, model: nn.Module) -> nn.Module:
    """The network, whose methods are the user's code too.

    Raises:
        ModelError: it cannot be trained here
    """
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            which = f"its part {path} is" if path else "it is"
            raise ModelError(f"model.name: {name}: {which} TorchScript, which has no layers to resize; give the module")
    kept = called(f"model.name: {name}: it has no state dict", model.state_dict, ModelError)
    if not isinstance(kept, Mapping):
        raise ModelError(f"model.name: {name}: its state dict is a {type(kept).__name__}")
    for path, value in kept.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"model.name: {name}: {path} is a {type(value).__name__}; valid: extra state that is a tensor"
            )
    owned = [*model.named_parameters(), *model.named_buffers()]
    for path, tensor in [(path, one) for path, one in owned if not is_lazy(one)]:
        if tensor.is_meta:
            raise ModelError(f"model.name: {name}: {path} has no values: it lies on the meta device")
        if tensor.is_inference():
            raise ModelError(f"model.name: {name}: {path} cannot change: it was made under torch.inference_mode()")
        if (said := not_dense(tensor)) is not None:
            raise ModelError(f"model.name: {name}: {path} is {said}")
    for path, parameter in [(path, one) for path, one in model.named_parameters() if not is_lazy(one)]:
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ModelError(f"model.name: {name}: {path} is {kind}, not float32 (call .float() on the network)")
    return model


class _Heard:
    """torch's global generator; it notes that a seed is set, and may leave it at that."""

    def __init__(self, generator: torch.Generator, effective: bool) -> None:
        self._generator, self._effective = generator, effective
        self.seeded = False

    def manual_seed(self, seed: int) -> torch.Generator:
        self.seeded = True
        return self._generator.manual_seed(seed) if self._effective else self._generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


@contextmanager
def contained(seed: int, *, seeds_effective: bool = True) -> Iterator[_Heard]:
    """Run someone else's code, and set back what it is likely to change.

    That is the working directory, torch's default type and device, whether gradients are computed, and the generators
    of Python and numpy. If it seeds torch's generator, that goes on afterwards as if it began at the seed it had.

    Args:
        seed: where the generators of Python and numpy begin
        seeds_effective: let `torch.manual_seed` do what it does; if not, it has no effect

    Yields:
        what notes whether the code has seeded torch's generator
    """
    folder, dtype, device = os.getcwd(), torch.get_default_dtype(), torch.get_default_device()  # noqa: PTH109
    graded, in_python, in_numpy = torch.is_grad_enabled(), random.getstate(), np.random.get_state()
    begun, heard = torch.initial_seed(), _Heard(torch.default_generator, seeds_effective)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        with patch.object(torch.random, "default_generator", heard):
            yield heard
    finally:
        random.setstate(in_python)
        np.random.set_state(in_numpy)
        torch.set_grad_enabled(graded)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)  # a set one slows every call down
        if os.getcwd() != folder:  # noqa: PTH109
            os.chdir(folder)
        if heard.seeded and seeds_effective:
            torch.default_generator.manual_seed(begun)
