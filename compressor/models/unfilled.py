"""Building networks without memory for their weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from compressor.dependency.constants import Norm

_FILLS = {
    *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.zero_, torch.Tensor.fill_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
}


@contextmanager
def on_meta() -> Iterator[None]:
    """Networks that are built here have weights without values, on the meta device."""
    with torch.device("meta"), _Unfilled():
        yield


def filled(model: nn.Module) -> nn.Module:
    """A copy on the CPU with small values, of a network on the meta device: some look at values."""
    made = copy.deepcopy(model).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0, 0.01, generator=generator)
            else:
                tensor.zero_()
        for module in made.modules():
            if isinstance(module, Norm):
                module.reset_running_stats()
    return made


class _Unfilled(TorchFunctionMode):
    """Leaves out filling tensors that have no memory for values, which takes milliseconds a layer all the same."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS and (tensor := args[0] if args else kwargs["tensor"]).is_meta:
            return tensor
        return func(*args, **kwargs)
