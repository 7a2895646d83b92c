"""Exported files run through ONNX Runtime, in the manner of the networks that they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from compressor.bench import open_session
from compressor.dependency.inputs import Inputs
from compressor.files import parse_json

from .form import INPUT, OUTPUT_KIND, PROBABILITIES, as_taken, in_batches

LAYOUT, CHANNELS_LAST = "compressor.layout", "NHWC"  # metadata of a file whose images are (N, H, W, C)
_KINDS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(uint32)": np.uint32,
    "tensor(int32)": np.int32,
    "tensor(uint64)": np.uint64,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
Floats = NDArray[np.float32]


class OnnxNetwork:
    """Runs an exported file on the CPU through ONNX Runtime.

    Args:
        path: the file
        threads: intra-op threads; None leaves it to ONNX Runtime
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._session, self.provider = open_session(path, provider="cpu", threads=threads)
        taken = self._session.get_inputs()[0]
        self._input, self._turned = taken.name, False
        self._kinds = {one.name: _KINDS.get(one.type) for one in self._session.get_inputs()}
        self._batch = taken.shape[0] if isinstance(taken.shape[0], int) else None
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._preprocessing = parse_json(metadata[INPUT]) if INPUT in metadata else None
        self._turned = metadata.get(LAYOUT) == CHANNELS_LAST
        halved = self._session.get_outputs()[0].type == "tensor(float16)"
        self._least = float(np.finfo(np.float16).smallest_subnormal if halved else np.finfo(np.float32).tiny)
        self._gives_probabilities = metadata.get(OUTPUT_KIND) == PROBABILITIES

    def all_outputs(self, inputs: Inputs) -> list[NDArray[Any]]:
        """What the file gives for inputs of its own, in the order of its outputs."""
        names = [one.name for one in self._session.get_inputs()]
        taken = dict(zip([name for name in names if name not in inputs.kwargs], inputs.args, strict=False))
        fed = {
            name: np.ascontiguousarray(one.detach().cpu().numpy(), dtype=self._kinds.get(name))
            for name, one in (taken | dict(inputs.kwargs)).items()
        }
        if self._turned:
            fed = {name: np.ascontiguousarray(one.transpose(0, 2, 3, 1)) for name, one in fed.items()}
        found: list[NDArray[Any]] = self._session.run(None, fed)
        return found

    def all_logits(self, inputs: Inputs) -> list[NDArray[Any]]:
        """The same; of a file that gives probabilities their logarithms."""
        found = self.all_outputs(inputs)
        return [_log(one, self._least) for one in found] if self._gives_probabilities else found

    def feed(self, inputs: torch.Tensor) -> dict[str, NDArray[Any]]:
        """Normalised images (N, C, H, W) or tokens, int64 (N, T), as the file takes them: {name: array}."""
        values = fed_to(inputs.detach()).numpy()
        values = values.transpose(0, 2, 3, 1) if self._turned else as_taken(values, self._preprocessing)
        return {self._input: np.ascontiguousarray(values, dtype=self._kinds[self._input])}

    def outputs(self, inputs: torch.Tensor) -> Floats:
        """What the file gives for normalised images (N, C, H, W) or for tokens, int64 (N, T), whatever form it has."""
        pieces = in_batches(self.feed(inputs)[self._input], self._batch)
        found = [self._session.run(None, {self._input: piece})[0][:counts] for piece, counts in pieces]
        whole: Floats = found[0] if len(found) == 1 else np.concatenate(found)
        return whole.astype(np.float32, copy=False)

    def logits(self, inputs: torch.Tensor) -> Floats:
        """Logits of the same; of a file that gives probabilities their logarithms, which differ by a constant."""
        outputs = self.outputs(inputs)
        return _log(outputs, self._least) if self._gives_probabilities else outputs


def _log(probabilities: NDArray[Any], least: float) -> Floats:
    """Logits of probabilities, of which smaller ones than the least are not told from 0."""
    found: Floats = np.log(np.maximum(probabilities.astype(np.float32), np.float32(least)))
    return found


class OnnxModule(nn.Module):
    """An exported file as a module, which may stand where the network stood that it was made of.

    Args:
        path: the file
        threads: intra-op threads; None leaves it to ONNX Runtime
        like: what the network gives, if it has outputs of its own: the file's are put into the same places
        order: then, the names of its inputs as it takes them by position
    """

    def __init__(self, path: Path, threads: int | None = None, like: Any = None, order: Sequence[str] = ()) -> None:
        super().__init__()
        self._network, self._like, self._order = OnnxNetwork(path, threads), like, list(order)

    def forward(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> Any:
        """What the network gives, on the device of the inputs."""
        if self._like is None:
            return torch.from_numpy(self._network.logits(args[0])).to(args[0].device)
        inputs = Inputs((), dict(zip(self._order, args, strict=False)) | kwargs)
        device = inputs.tensors[0].device
        found = iter([torch.from_numpy(one).to(device) for one in self._network.all_logits(inputs)])
        places, form = pytree.tree_flatten(self._like)
        return pytree.tree_unflatten([next(found) if isinstance(one, torch.Tensor) else one for one in places], form)


class WithSoftmax(nn.Module):
    """A network and a softmax over an axis of what it gives, one tensor.

    Args:
        network: any
        axis: of the classes
    """

    def __init__(self, network: nn.Module, axis: int) -> None:
        super().__init__()
        self.network, self.axis = network, axis

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Probabilities."""
        found: torch.Tensor = self.network(*args, **kwargs)
        return found.softmax(self.axis)


def takes_tokens(inputs: torch.Tensor) -> bool:
    """Whether a network's input is tokens rather than images."""
    return not inputs.is_floating_point()


def fed_to(inputs: torch.Tensor) -> torch.Tensor:
    """Inputs as a network on the CPU takes them."""
    return inputs.cpu() if takes_tokens(inputs) else inputs.cpu().float()
