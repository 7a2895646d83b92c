"""Where a network comes from: what the package asks of each source of networks.

One class a source: `zoo_source`, `torchvision_source`, `timm_source`, `factory_source` (the user's code),
`given_source` (what this process holds), `onnx_source`. `compressor.models` hands on to the one that a recipe names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compressor.dependency import DependencyGraph
from compressor.dependency.inputs import AnyInputs
from compressor.errors import ModelError, not_one_of
from compressor.models.architecture import Architecture
from compressor.models.zoo import Shape, Unit
from compressor.user_functions import cause_of


class ModelSource(ABC):
    """The networks of one name, at any widths.

    The methods here are those of a network that is known by itself only; the zoo, which knows more, has its own.

    Args:
        model: what recipes call it
    """

    def __init__(self, model: str) -> None:
        self.model = model

    @abstractmethod
    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse what does not exist, before anything slow begins.

        Raises:
            ModelError: an unknown name or option, or a module that cannot be imported
            UnavailableError: a library is not installed
        """

    @abstractmethod
    def unscaled(self, options: Mapping[str, Any], classes: int, input_shape: Shape) -> Architecture:
        """The network at its own widths, with all its options.

        Raises:
            ModelError: unknown name or option, or inputs that are not the network's or too small for it
        """

    @abstractmethod
    def build(self, architecture: Architecture) -> nn.Module:
        """A network with fresh weights, drawn by torch's generator.

        Raises:
            ModelError: an option or a name of a width is unknown, or a width that this network cannot have
        """

    @abstractmethod
    def build_meta(self, architecture: Architecture, seed: int | None = None) -> nn.Module:
        """The same on the meta device; with what code draws beside weights at this seed."""

    @abstractmethod
    def graph(self, architecture: Architecture) -> DependencyGraph:
        """Which channels go together.

        Raises:
            ModelError: the network cannot be traced
        """

    @abstractmethod
    def network(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """The network with the weights that it comes with.

        Raises:
            ModelError: it is not known, cannot be built, or comes without
            UnavailableError: a library is not installed
        """

    def version(self) -> str:
        """What the name stands for now; another one later says that what is remembered of it no longer holds."""
        return ""

    def has_weights(self, architecture: Architecture) -> bool:
        """Whether it comes with weights."""
        return False

    def drawn(self, architecture: Architecture) -> tuple[str, ...]:
        """Module paths of layers that begin fresh though it comes with weights, such as a new head."""
        return ()

    def remarks(self, architecture: Architecture) -> list[str]:
        """What the user must know of how the network is taken, a sentence each."""
        return []

    def takes_tokens(self, input_shape: Shape) -> bool:
        """Whether its input is tokens."""
        return len(input_shape) == 1

    def steps(self, architecture: Architecture) -> dict[str, int]:
        """{group: what its width must be a multiple of}, above 1 where parts of a layer must keep equal sizes."""
        return dict.fromkeys(architecture.widths, 1)

    def follows(self, architecture: Architecture) -> dict[str, tuple[str, int]]:
        """Groups whose width is a multiple of a searched one: {name: (searched, factor)}."""
        return {}

    def prunable(self, architecture: Architecture) -> Architecture:
        """The network to prune for the widths of an architecture: each of them loses channels by itself."""
        return architecture

    def units(self, architecture: Architecture) -> dict[str, Unit]:
        """{module path: unit} of what layer-growing may leave out."""
        return {}

    def stackable(
        self, architecture: Architecture, strategy: str
    ) -> tuple[dict[str, Any], dict[str, int], tuple[str, ...]] | None:
        """(options, widths, first layers) of the form whose pairs of layers a strategy stacks; None: it has none."""
        return None

    def example(self, input_shape: Shape, batch: int) -> AnyInputs:
        """Zeros of the network's input shape, int64 where it takes tokens; or what the user gave as its inputs.

        Raises:
            ModelError: there can be no such tensor
        """
        kind = torch.int64 if self.takes_tokens(input_shape) else torch.float32
        try:
            return torch.zeros(batch, *input_shape, dtype=kind)
        except RuntimeError as error:
            raise ModelError(f"input shape {input_shape}: {cause_of(error)}") from error


def check_names(architecture: Architecture, known: Mapping[str, int], more: Mapping[str, Any] | None = None) -> None:
    """Refuse names of widths that a network does not have.

    Raises:
        ModelError: a name is unknown or missing
    """
    if unknown := set(architecture.widths) - {*known, *(more or {})}:
        raise ModelError(f"widths of {architecture.model}: {not_one_of(min(unknown), known)}")
    if missing := set(known) - set(architecture.widths):
        raise ModelError(f"widths of {architecture.model}: {min(missing)} is missing")


def long_enough(example: AnyInputs) -> AnyInputs:
    """At least two tokens: only the second shows what a recurrent layer reads of itself."""
    short = isinstance(example, torch.Tensor) and example.dim() == 2 and example.shape[1] == 1
    return example.expand(-1, 2) if short and isinstance(example, torch.Tensor) else example
