"""Networks that others' tools have wrapped: what is inside is compressed."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel

_HOLDERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def unwrapped(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """Take off DataParallel, AveragedModel and torch.compile, of the network and of its parts.

    Args:
        model: changed in place where a part of it is wrapped

    Returns:
        the network inside, and the names of what was taken off, each once
    """
    found: dict[str, None] = {}
    model = _inside(model, found)
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):  # `named_children` leaves out a second name
            if child is not None and (inner := _inside(child, found)) is not child:
                setattr(module, name, inner)
        _interpret_(module, found)
    return model, list(found)


def _inside(module: nn.Module, found: dict[str, None]) -> nn.Module:
    """The module that a wrapper holds; notes the wrapper's name."""
    while True:
        compiled = module._modules.get("_orig_mod")
        if compiled is not None and type(module).__name__ == "OptimizedModule":  # its class takes a second to import
            found["torch.compile"], module = None, compiled
        elif isinstance(module, _HOLDERS):
            found[type(module).__name__], module = None, module.module
        else:
            return module


def _interpret_(module: nn.Module, found: dict[str, None]) -> None:
    """Undo `module.compile()` and `module.forward = torch.compile(module.forward)`."""
    if getattr(module, "_compiled_call_impl", None) is not None:
        module._compiled_call_impl = None
        found["torch.compile"] = None
    plain = getattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable", None)
    if plain is not None:
        module.forward = plain
        found["torch.compile"] = None
