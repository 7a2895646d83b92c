"""Weights and optimizer state of everything that was ever part of a growing network, at full size, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from compressor.models import build, build_meta
from compressor.models.architecture import Architecture
from compressor.models.initialise import reinitialise_
from compressor.search.methods.growing.space import Drawn, Space, trained_form
from compressor.training.checkpoint import Tensors, named

MOMENTUM = "momentum_buffer"  # SGD's name of it


class Store:
    """From what is drawn to a network that holds only that, and back.

    Weights that were never drawn are NaN: a network made from them gets fresh ones there. What does not train has its
    values.

    Args:
        space: what may grow
        seed: of fresh weights
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self.reference = build(trained_form(space.reference), seed)
        self.weights: Tensors = {
            name: torch.full_like(value, torch.nan) if value.requires_grad else value.detach().clone()
            for name, value in self.reference.named_parameters()
        }
        self.weights |= {name: buffer.clone() for name, buffer in self.reference.named_buffers()}
        self.momentum: Tensors = {name: torch.zeros_like(v) for name, v in self.reference.named_parameters()}
        self.ever = np.zeros(space.length, dtype=bool)  # was drawn at least once
        sizes = [space.graph.groups[name].slices for name in space.graph.groups]
        first = dict(zip(space.graph.groups, np.cumsum([0, *sizes]).tolist(), strict=False))
        # {parameter: {dimension: entry (L,) of the vector of all groups' slices, its end where there is none}}
        self._entries: dict[str, dict[int, torch.Tensor]] = {}
        for (tensor, dim), owners in space.graph.owners.items():
            entries = np.full(len(owners.group), sum(sizes))
            for number in owners.numbers:
                if (name := space.graph.order[number]) in first:
                    mine = owners.group == number
                    entries[mine] = first[name] + owners.slice[mine]
            self._entries.setdefault(tensor, {})[dim] = torch.from_numpy(entries)

    def network(self, architecture: Architecture, drawn: Drawn, turn: int) -> nn.Module:
        """A network on the CPU that holds the drawn channels and layers, with the weights that they had.

        Args:
            architecture: of the draw
            drawn: (length,) of the space
            turn: number of the draw, which with the seed decides on fresh weights
        """
        self.ever |= drawn
        model = build_meta(architecture, self.seed).to_empty(device="cpu")
        with torch.no_grad():
            for name, tensor, index in self._slices(model, drawn):
                tensor.copy_(self.weights[name][index])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed((self.seed << 20) + turn)
            reinitialise_(model, self.reference, new_only=True)
        return model

    @torch.no_grad()
    def keep(self, model: nn.Module, optimizer: torch.optim.Optimizer, drawn: Drawn) -> None:
        """Take over the weights and the optimizer state of the drawn network."""
        parameters = dict(model.named_parameters())
        for name, tensor, index in self._slices(model, drawn):
            self.weights[name][index] = tensor.detach().to("cpu")
            if name in parameters and (state := optimizer.state.get(parameters[name])):
                self.momentum[name][index] = state[MOMENTUM].to("cpu")

    @torch.no_grad()
    def hand_over(self, model: nn.Module, optimizer: torch.optim.Optimizer, drawn: Drawn) -> None:
        """Give an optimizer the parameters of a network made for this draw, with the momentum that they had."""
        parameters = dict(model.named_parameters())
        optimizer.state.clear()
        optimizer.param_groups[0]["params"] = list(parameters.values())
        for name, _, index in self._slices(model, drawn):
            if name in parameters:
                buffer = torch.empty_like(parameters[name]).copy_(self.momentum[name][index])
                optimizer.state[parameters[name]][MOMENTUM] = buffer.detach()

    def _slices(self, model: nn.Module, drawn: Drawn) -> Iterator[tuple[str, torch.Tensor, tuple[torch.Tensor, ...]]]:
        """(name, tensor, where it lies in the full one) of the parameters and buffers of a drawn network."""
        there = self._there(self.space.masks(drawn))
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            yield name, tensor, self._index(name, there)

    def _there(self, masks: Mapping[str, Drawn]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([*(masks[name] for name in self.space.graph.groups), [True]]))

    def _index(self, name: str, there: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shape, own = self.weights[name].shape, self._entries.get(name, {})
        picked = [there[own[dim]].nonzero()[:, 0] if dim in own else torch.arange(n) for dim, n in enumerate(shape)]
        return tuple(
            index.view([-1 if dim == other else 1 for other in range(len(shape))]) for dim, index in enumerate(picked)
        )

    def state(self) -> Tensors:
        """What was ever drawn, to be kept in a checkpoint."""
        there = self._there(self.space.masks(self.ever))
        weights = {name: value[self._index(name, there)] for name, value in self.weights.items()}
        momentum = {name: value[self._index(name, there)] for name, value in self.momentum.items()}
        return {**named("weights", weights), **named("momentum", momentum), "ever": torch.from_numpy(self.ever)}

    def restore(self, weights: Tensors, momentum: Tensors, ever: torch.Tensor) -> None:
        """Go on from what `state` gave."""
        self.ever = ever.numpy().astype(bool)
        there = self._there(self.space.masks(self.ever))
        for own, kept in ((self.weights, weights), (self.momentum, momentum)):
            for name, value in kept.items():
                own[name][self._index(name, there)] = value
