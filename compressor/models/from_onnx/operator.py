"""An operator of an ONNX graph that has no layer in torch, as a module: its attributes, its constants, a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from compressor.models.from_onnx.values import Host, UnsupportedError, Value, numbers

Function = Callable[["Operator", list[Value]], Any]

FUNCTIONS: dict[str, Function] = {}
HOST_FUNCTIONS: dict[str, Function] = {}  # where all inputs are host values


def function(*kinds: str) -> Callable[[Function], Function]:
    """Note what computes operators of some kinds; values in, one value or a tuple of them out."""

    def note(computes: Function) -> Function:
        FUNCTIONS.update(dict.fromkeys(kinds, computes))
        return computes

    return note


def host_function(*kinds: str) -> Callable[[Function], Function]:
    """Note what computes operators of some kinds where no input is a tensor."""

    def note(computes: Function) -> Function:
        HOST_FUNCTIONS.update(dict.fromkeys(kinds, computes))
        return computes

    return note


class Operator(nn.Module):
    """One operator; it is called with the inputs that are no constants, in their order.

    Attributes:
        kind: ONNX's name of the operator
        version: of the operator set
        attributes: of the node
        plan: what was found when the graph was converted, such as how a shape follows another
        places: for every input of the node: None if it is missing, "given" if it is computed, else a constant: a host
            value, or the name of a parameter of this module
    """

    def __init__(
        self, kind: str, version: int, attributes: Mapping[str, Any], constants: list[Any], outputs: int = 1
    ) -> None:
        super().__init__()
        self.kind, self.version, self.attributes, self.outputs = kind, version, dict(attributes), outputs
        self.plan: Any = None
        self.places: list[Any] = []
        for place, value in enumerate(constants):
            if isinstance(value, torch.Tensor):
                name = f"operand_{place}"
                self.register_parameter(name, nn.Parameter(value))
                self.places.append(name)
            else:
                self.places.append(value)

    def attribute(self, name: str, otherwise: Any = None) -> Any:
        """An attribute of the node."""
        return self.attributes.get(name, otherwise)

    def number(self, name: str, otherwise: float) -> float:
        """An attribute that is a float."""
        return float(self.attributes.get(name, otherwise))

    def integer(self, name: str, otherwise: int) -> int:
        """An attribute that is an integer."""
        return int(self.attributes.get(name, otherwise))

    def text(self, name: str, otherwise: str) -> str:
        """An attribute that is a text."""
        found = self.attributes.get(name, otherwise)
        return found.decode() if isinstance(found, bytes) else str(found)

    def parameter(self, values: list[Value], place: int, name: str, otherwise: Any = None) -> Any:
        """Numbers that later versions of the operator take as an input and earlier ones as an attribute.

        Raises:
            UnsupportedError: they depend on the values of the network's inputs
        """
        if place < len(values) and values[place] is not None:
            return numbers(values[place], name)
        found = self.attributes.get(name, otherwise)
        return found if found is None or isinstance(found, (list, tuple)) else [found]

    def forward(self, *given: Value) -> Any:
        """What the operator gives."""
        following = iter(given)
        values: list[Value] = []
        for place in self.places:
            if isinstance(place, str):
                values.append(next(following) if place == "given" else self.get_parameter(place))
            else:
                values.append(place)
        if all(not isinstance(value, torch.Tensor) for value in values) and self.kind in HOST_FUNCTIONS:
            return HOST_FUNCTIONS[self.kind](self, values)
        if self.kind not in FUNCTIONS:
            raise UnsupportedError(f"{self.kind} is not known")
        return FUNCTIONS[self.kind](self, values)

    def extra_repr(self) -> str:
        """For whoever prints the network."""
        shown = {name: value for name, value in self.attributes.items() if not isinstance(value, np.ndarray)}
        return ", ".join([self.kind, *(f"{name}={value}" for name, value in shown.items())])


def first_tensor(values: list[Value]) -> torch.Tensor:
    """The first tensor among values: others are brought to its device.

    Raises:
        UnsupportedError: there is none
    """
    found = next((value for value in values if isinstance(value, torch.Tensor)), None)
    if found is None:
        raise UnsupportedError("no input that depends on the network's inputs")
    return found


def host(value: Value) -> Host:
    """A host value.

    Raises:
        UnsupportedError: it is a tensor, or missing
    """
    if isinstance(value, torch.Tensor) or value is None:
        raise UnsupportedError("an input that must not depend on the values of the network's inputs")
    return value
