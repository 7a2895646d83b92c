"""Inputs of networks whose inputs and outputs are their own: which examples this process was given, by model."""

from __future__ import annotations

from compressor.dependency.inputs import Inputs

_EXAMPLES: dict[str, Inputs] = {}


def give_example(model: str, example: Inputs) -> None:
    """Note what a network is called with, (N, …) each; what it gives is not looked at then.

    Args:
        model: what recipes call it
        example: with values that it can run on
    """
    _EXAMPLES[model] = example.cpu()


def given_example(model: str) -> Inputs | None:
    """What was noted; None: the network is one of a task that is known."""
    return _EXAMPLES.get(model)


def forget_example(model: str) -> None:
    """The network is one of a task that is known."""
    _EXAMPLES.pop(model, None)


def example_version(model: str) -> str:
    """What changes with what was noted."""
    example = _EXAMPLES.get(model)
    if example is None:
        return ""
    return str([list(example.kwargs), [(str(one.dtype), tuple(one.shape)) for one in example.tensors]])
