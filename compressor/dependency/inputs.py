"""What a network is called with: one tensor, or several, by position and by name; axis 0 of each is the batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from compressor.errors import ModelError


@dataclass(frozen=True)
class Inputs:
    """Several tensors that a network takes; it has the few methods of a tensor that those who pass inputs on need.

    Attributes:
        args: by position, (N, …) each
        kwargs: by name, (N, …) each
    """

    args: tuple[torch.Tensor, ...]
    kwargs: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All of them, those by position first."""
        return [*self.args, *self.kwargs.values()]

    def __len__(self) -> int:
        """Samples."""
        return len(self.tensors[0])

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
        """The same with every tensor changed."""
        return Inputs(tuple(map(change, self.args)), {name: change(one) for name, one in self.kwargs.items()})

    def to(self, device: torch.device | str) -> Inputs:
        """On a device."""
        return self.map(lambda tensor: tensor.to(device))

    def cpu(self) -> Inputs:
        """On the CPU."""
        return self.to("cpu")

    def clone(self) -> Inputs:
        """Copies."""
        return self.map(torch.Tensor.clone)

    @property
    def is_meta(self) -> bool:
        """Whether they are on the meta device."""
        return self.tensors[0].is_meta

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first."""
        return tuple(self.tensors[0].shape)

    def of_batch(self, batch: int) -> Inputs:
        """As many samples as that, these over and over."""
        return self.map(lambda one: one[torch.arange(batch) % len(one)])

    def names(self, model: nn.Module) -> list[str]:
        """What the network calls them, in the order of `tensors`."""
        signature = inspect.signature(model.forward)
        try:
            signature.bind(*self.args, **self.kwargs)
        except TypeError as error:
            raise ModelError(f"{type(model).__name__} does not take these inputs: {error}") from error
        found: list[str] = []
        for name, value in signature.bind_partial(*self.args).arguments.items():
            found += [f"{name}_{index}" for index in range(len(value))] if isinstance(value, tuple) else [name]
        return [*found, *self.kwargs]

    def order(self, model: nn.Module) -> list[str]:
        """The same names in the order in which the network takes them by position."""
        names = self.names(model)
        taken = [name for name in inspect.signature(model.forward).parameters if name in names]
        return taken if len(taken) == len(names) else names


AnyInputs = torch.Tensor | Inputs


def inputs_of(example: Any) -> AnyInputs:
    """What a user gives as the example of a network's inputs: a tensor, a tuple of some, or a mapping of keywords.

    Raises:
        ModelError: it is something else, or the tensors are of different batches
    """
    if isinstance(example, torch.Tensor) and example.dim() > 0:
        return example
    if isinstance(example, (tuple, list)):
        found = Inputs(tuple(example))
    elif isinstance(example, Mapping):
        found = Inputs((), dict(example))
    else:
        found = Inputs(())
    tensors = found.tensors
    if not tensors or not all(isinstance(one, torch.Tensor) and one.dim() > 0 for one in tensors):
        raise ModelError(
            f"example_input: a {type(example).__name__}; valid: a tensor (N, …), a tuple of some, or a mapping of "
            "keywords to some"
        )
    if len({len(one) for one in tensors}) > 1:
        sizes = ", ".join(str(len(one)) for one in tensors)
        raise ModelError(f"example_input: batches of {sizes} samples; axis 0 of every tensor must be the same batch")
    return found


def run(model: nn.Module, inputs: AnyInputs) -> Any:
    """What a network gives."""
    return model(*inputs.args, **inputs.kwargs) if isinstance(inputs, Inputs) else model(inputs)


def inputs_of_batch(inputs: AnyInputs, batch: int) -> AnyInputs:
    """As many samples as that, these over and over."""
    return inputs.of_batch(batch) if isinstance(inputs, Inputs) else inputs[torch.arange(batch) % len(inputs)]


def zeros_of(inputs: AnyInputs, batch: int) -> AnyInputs:
    """Zeros on the CPU in the shapes of inputs, of another batch."""

    def zeros(tensor: torch.Tensor) -> torch.Tensor:
        return torch.zeros((batch, *tensor.shape[1:]), dtype=tensor.dtype)

    return inputs.map(zeros) if isinstance(inputs, Inputs) else zeros(inputs)


def modes_of(model: nn.Module, inputs: AnyInputs) -> tuple[bool, ...]:
    """The modes that a network runs in, training (True) first: in training it may want more, such as targets."""
    mode = model.training
    try:
        with torch.no_grad():
            run(model.train(), inputs.clone())
    except Exception:  # whatever its own code raises; if it does not run in evaluation either, that will be said
        return (False,)
    finally:
        model.train(mode)
    return True, False


def leaves(output: Any) -> list[torch.Tensor]:
    """The tensors in what a network gives, in the order of their places."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def leaf_names(output: Any) -> list[str]:
    """Names for them: the keys of mappings, and numbers."""
    if isinstance(output, torch.Tensor):
        return ["output"]
    found = []
    for path, leaf in pytree.tree_flatten_with_path(output)[0]:
        if isinstance(leaf, torch.Tensor):
            keys = [str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", "")))) for part in path]
            found.append(".".join(keys) if not keys[0].isdigit() else f"output_{'.'.join(keys)}")
    return found
