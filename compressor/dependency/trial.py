"""Whether a network's own code accepts other widths: it is resized and run, many groups at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from compressor.dependency.graph import NEW
from compressor.dependency.inputs import AnyInputs, modes_of, run
from compressor.dependency.slots import tensors_in
from compressor.errors import ModelError

Selections = dict[str, list[int]]


def resizable(
    model: nn.Module,
    probe: AnyInputs,
    slices: Mapping[str, int],
    resized: Callable[[Mapping[str, Sequence[int]]], nn.Module],
) -> dict[str, str]:
    """Find the groups whose width the network does not let change.

    Groups are tried together, each at random numbers of slices; only a set that fails is halved. All that passed are
    tried together in the end, in training too and with one slice more and one less. Trying is no proof: code that
    accepts these sizes may still refuse others.

    Args:
        model: at its own widths, on the device of `probe`
        probe: (N, …) inputs
        slices: {group: number of slices}
        resized: {group: old slice or -1 for a new one} → a copy of the network with these slices

    Returns:
        {group: reason} of those that are refused
    """
    trial = _Trial(model, probe, slices, resized)
    trial.admit(list(slices), (False,))
    while trial.admitted and (reason := trial.fails(trial.admitted, (False, True))) is not None:
        again = trial.admitted
        trial.admitted = []
        trial.admit(again, (False, True))
        if trial.admitted == again:  # it fails at random: name the reason rather than go on
            trial.refused |= dict.fromkeys(again, reason)
            trial.admitted = []
    return trial.refused


class _Trial:
    def __init__(
        self,
        model: nn.Module,
        probe: AnyInputs,
        slices: Mapping[str, int],
        resized: Callable[[Mapping[str, Sequence[int]]], nn.Module],
    ) -> None:
        self.probe, self.slices, self.resized = probe, slices, resized
        self.modes = modes_of(model, probe)
        self.draw = random.Random(0)
        self.expected = {training: self._shapes_of(model, training) for training in self.modes}
        self.admitted: list[str] = []
        self.refused: dict[str, str] = {}

    def admit(self, names: list[str], modes: Sequence[bool]) -> None:
        """Admit those groups that the network accepts together with what is admitted already."""
        if not names:
            return
        reason = self.fails([*self.admitted, *names], modes)
        if reason is None:
            self.admitted += names
        elif len(names) == 1:
            self.refused[names[0]] = f"{names[0]}: {reason}"
        else:
            self.admit(names[: len(names) // 2], modes)
            self.admit(names[len(names) // 2 :], modes)

    def fails(self, names: Iterable[str], modes: Sequence[bool]) -> str | None:
        """Why the network does not run with other widths of these groups, or None if it does."""
        names = list(names)
        for selections in self._selections(names, len(modes) > 1):
            try:
                changed = self.resized(selections)
            except ModelError as error:
                return str(error)
            except Exception as error:  # modules that compute their parameters run their own code
                return f"it cannot be resized: {' '.join(str(error).split())}"
            try:
                for training in (mode for mode in modes if mode in self.modes):
                    if self._shapes_of(changed, training) != self.expected[training]:
                        return "its width is the network's output"
            except Exception as error:  # the network's own code decides what it raises
                line = (str(error).strip().splitlines() or [type(error).__name__])[0]
                return f"the network does not run with another width: {line}"
        return None

    def _selections(self, names: list[str], thorough: bool) -> list[Selections]:
        """More slices for some groups and fewer for others, and the other way round; thorough: odd and even numbers."""
        grown = {name: [*range(self.slices[name]), *[NEW] * self.draw.randint(1, 3)] for name in names}
        shrunk = {}
        for name in names:
            count = self.slices[name]
            fewer = count - self.draw.randint(1, max(1, count // 2))
            shrunk[name] = sorted(self.draw.sample(range(count), fewer)) if fewer > 0 else grown[name]
        coin = {name: self.draw.random() < 0.5 for name in names}
        mixed = [{name: (grown if coin[name] == first else shrunk)[name] for name in names} for first in (True, False)]
        if not thorough:
            return mixed
        one_more = {name: [*range(self.slices[name]), NEW] for name in names}
        one_less = {name: [*range(1, self.slices[name])] for name in names if self.slices[name] > 1}
        return [*mixed, one_more, one_less or one_more]

    def _shapes_of(self, model: nn.Module, training: bool) -> list[tuple[int, ...]]:
        state = model.training
        with torch.no_grad(), _Quick():
            output = run(model.train(training), self.probe.clone())  # it may change what it is given
        model.train(state)
        return _shapes(output)


class _Quick(TorchFunctionMode):
    """Gives the shapes of some layers' outputs at once: on the meta device torch takes milliseconds for each.

    Layers still refuse inputs of other widths than their own, and a batch-norm too few images: torch itself is asked
    wherever the sizes do not fit, and raises what it always does.
    """

    _ALIKE = (functional.relu6, functional.hardtanh, functional.hardswish, functional.hardsigmoid, functional.gelu)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = None if torch.is_grad_enabled() else next(iter(args), None)  # gradients need what torch really does
        if isinstance(first, torch.Tensor) and first.device.type == "meta" and first.dim() > 0:
            parts = [tensor for tensor in (*args[1:], *kwargs.values()) if isinstance(tensor, torch.Tensor)]
            if func in self._ALIKE:
                return torch.empty_like(first)
            if (
                func is functional.batch_norm
                and first.dim() > 1
                and first.numel() > first.shape[1]
                and all(tensor.shape == first.shape[1:2] for tensor in parts)
            ):
                return torch.empty_like(first)
            if func is functional.layer_norm and len(args) > 1:
                shape = tuple(args[1])
                if first.shape[-len(shape) :] == shape and all(tensor.shape == shape for tensor in parts):
                    return first.new_empty(first.shape)  # contiguous, whatever the input is
            if func is functional.linear and parts:
                outputs, inputs = parts[0].shape[:1], parts[0].shape[1:]
                if inputs == first.shape[-1:] and all(tensor.shape == outputs for tensor in parts[1:]):
                    return first.new_empty(first.shape[:-1] + outputs)
            if func is torch.lstm and len(args) == 9 and (found := _lstm(*args)) is not None:
                return found
        return func(*args, **kwargs)


def _lstm(x: torch.Tensor, state: Any, weights: Any, *options: Any) -> tuple[torch.Tensor, ...] | None:
    """What `torch.lstm` gives for one layer of one direction on batches of sequences, or None if it is not that."""
    biases, layers, _, _, both_ways, batch_first = options
    if not isinstance(weights, list) or x.dim() != 3:  # packed sequences have other arguments
        return None
    if layers != 1 or both_ways or len(weights) != (4 if biases else 2):
        return None
    length, batch = x.shape[:2] if not batch_first else (x.shape[1], x.shape[0])
    hidden = weights[1].shape[1]
    expected = [(4 * hidden, x.shape[2]), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)]
    if [tuple(weight.shape) for weight in weights] != expected[: len(weights)]:
        return None
    if any(tuple(tensor.shape) != (1, batch, hidden) for tensor in state):
        return None
    output = x.new_empty((length, batch, hidden))
    return (output.transpose(0, 1) if batch_first else output, *(tensor.new_empty(tensor.shape) for tensor in state))


def _shapes(output: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors_in(output)]
