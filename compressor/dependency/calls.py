"""One operator of a forward pass, as rules see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Call:
    """An operator that ran.

    Attributes:
        func: of torch
        name: of its schema, without namespace and without the underscore of an in-place form
        args: that it was given
        kwargs: likewise
        inputs: the tensors among these
        outputs: the tensors that it gave
    """

    func: Any
    name: str
    args: Any
    kwargs: Any
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]

    @property
    def output(self) -> torch.Tensor:
        """The first of the outputs."""
        return self.outputs[0]

    def dim(self, default: int) -> int:
        """The dimension that its second argument names, counted from 0 along the output."""
        named = self.args[1] if len(self.args) > 1 else self.kwargs.get("dim", default)
        return int(named % self.output.dim())
