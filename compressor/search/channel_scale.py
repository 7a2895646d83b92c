"""Channel scales: factors of whole channels, which no module computes with but which parameters can be multiplied by.

Where one layer makes the channels and an affine batch-norm with a ReLU behind it alone reads it, the scale sits behind
the batch-norm: it scales γ and β. Elsewhere (a residual stream, a layer without batch-norm) it scales the weights that
read the channel, which is what removal takes away; behind a ReLU the two are the same. Gating what makes a residual
stream would not do: where batch-norms read it, as in pre-activation networks, scaling it changes nothing. Only channels
that no weight reads, or that activations are multiplied along (queries and keys), are scaled where they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import nn

from compressor.dependency import Axis, DependencyGraph


@dataclass(frozen=True)
class _Term:
    """A scaled parameter: entry (L,) of the vector of scales for every position along one of its dimensions."""

    parameter: nn.Parameter
    dim: int
    entries: torch.Tensor
    shape: tuple[int, ...]  # in which one factor for each position is broadcast to the parameter


class ChannelScales:
    """All scales of a network as one vector: one for every slice of the groups named, then the whole ones.

    Args:
        model: the network
        graph: of the network as it is now
        names: groups to scale; a slice of several channels has one scale for all of them
        whole: {scale: parameters that it scales as a whole}
    """

    def __init__(
        self,
        model: nn.Module,
        graph: DependencyGraph,
        names: Sequence[str],
        whole: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, torch.promote_types(weight.dtype, torch.float32)
        whole = whole or {}
        sizes = [*(graph.groups[name].slices for name in names), *(1 for _ in whole)]
        self.total = sum(sizes)
        self.starts = dict(zip([*names, *whole], accumulate([0, *sizes]), strict=False))
        self._parameters = dict(model.named_parameters())
        made = {name for name in names if _scaled_where_made(graph, name)}
        axes = [axis for name in names if name in made for axis in made_at(graph, name, self._parameters)]
        read = set(names) - made
        numbers = {graph.order.index(name) for name in read}
        axes += [axis for axis, owners in graph.owners.items() if axis in graph.reading and owners.numbers & numbers]
        self._terms = [
            self._term(axis, self._entries(graph, axis, read if axis in graph.reading else made))
            for axis in axes
            if axis[0] in self._parameters
        ]
        for name, scaled in whole.items():
            for tensor in scaled:
                length = len(self._parameters[tensor])
                entries = torch.full((length,), self.starts[name], device=self.device)
                self._terms.append(self._term((tensor, 0), entries))

    def _term(self, axis: Axis, entries: torch.Tensor) -> _Term:
        parameter, dim = self._parameters[axis[0]], axis[1]
        return _Term(parameter, dim, entries, tuple(-1 if own == dim else 1 for own in range(parameter.dim())))

    def _entries(self, graph: DependencyGraph, axis: Axis, names: Set[str]) -> torch.Tensor:
        owners = graph.owners[axis]
        entries = np.full(len(owners.group), self.total)
        for name in names:
            mine = owners.group == graph.order.index(name)
            entries[mine] = self.starts[name] + owners.slice[mine]
        return torch.from_numpy(entries).to(self.device)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The scaled parameters, each once."""
        return list(dict.fromkeys(term.parameter for term in self._terms))

    @torch.no_grad()
    def derivatives(self) -> torch.Tensor:
        """z·∂L/∂z of the mini-batch whose gradients the network holds, (total,); scales at 1: their derivatives."""
        result = torch.zeros(self.total + 1, device=self.device, dtype=self.dtype)
        for term in self._terms:
            # A layer that this step did not reach, or that is frozen, has no gradient.
            if term.parameter.grad is None:
                continue
            product = (term.parameter * term.parameter.grad).to(self.dtype)
            rest = [axis for axis in range(product.dim()) if axis != term.dim]
            result.index_add_(0, term.entries, product.sum(rest) if rest else product)
        return result[:-1]

    @torch.no_grad()
    def scale_(
        self, factors: torch.Tensor, of: Callable[[nn.Parameter], torch.Tensor | None] = lambda parameter: parameter
    ) -> None:
        """Multiply the scaled parameters by their scales' factors (total,).

        Args:
            factors: of the scales
            of: what of a parameter to multiply, such as its gradient: that of what was scaled follows; None: nothing
        """
        for term, spread in self._spread(factors):
            if (scaled := of(term.parameter)) is not None:
                scaled.mul_(spread)

    def _spread(self, factors: torch.Tensor) -> list[tuple[_Term, torch.Tensor]]:
        padded = torch.cat([factors, factors.new_ones(1)])
        return [(term, padded[term.entries].view(term.shape).to(term.parameter.dtype)) for term in self._terms]


def _scaled_where_made(graph: DependencyGraph, name: str) -> bool:
    group = graph.groups[name]
    return group.norm is not None or not group.exact or group.summed or not graph.readers(name)


def made_at(graph: DependencyGraph, name: str, parameters: Mapping[str, nn.Parameter]) -> list[Axis]:
    """Where the channels of a group are made: the batch-norm behind each weight, or else the weight and its bias."""
    axes: list[Axis] = []
    for made in graph.producers(name):
        norm = graph.norms.get(made.tensor)
        own = [made.tensor.removesuffix("weight") + "bias"] if norm is None else [f"{norm}.weight", f"{norm}.bias"]
        axes += [(made.tensor, made.dim)] if norm is None else []
        axes += [(tensor, 0) for tensor in own if tensor in parameters and (tensor, 0) in graph.owners]
    return axes
