"""The network of an Olive model, under a name that recipes can call it by."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from olive.model import HfModelHandler, OliveModelHandler, ONNXModelHandler, PyTorchModelHandler
from torch import nn

from compressor.errors import ModelError
from compressor.models import offer


class Logits(nn.Module):
    """A Hugging Face image classifier as a network from images (N, C, H, W) to logits (N, classes)."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images."""
        logits: torch.Tensor = self.classifier(pixel_values=images, return_dict=False)[0]
        return logits


def reference_of(handler: OliveModelHandler) -> str:
    """Offer the network of an Olive model to recipes.

    Returns:
        what `model.name` calls it; another network, or other weights, have another name

    Raises:
        ModelError: not an nn.Module, or of another kind
    """
    if isinstance(handler, ONNXModelHandler):
        return f"onnx:{handler.model_path}"
    if not isinstance(handler, PyTorchModelHandler | HfModelHandler):
        valid = "PyTorchModel, HfModel, ONNXModel"
        raise ModelError(f"input_model: {type(handler).__name__} is not one of {valid}")
    network: Any = handler.load_model()
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
        raise ModelError(f"input_model: model_loader gives a {type(network).__name__}, not a torch.nn.Module")
    network = Logits(network) if isinstance(handler, HfModelHandler) else network
    return offer(f"olive-{_digest(network)}", network)


def _digest(network: nn.Module) -> str:
    """A short hash of the layers and weights of a network."""
    sha = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:12]
