"""Learning what a trained network gives, whatever that is, from inputs without targets.

For networks whose outputs no task of ours describes, such as detectors and embeddings: every output is compared with
the original's. `train` and `agreement` are called as functions of the user's are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressor.data import DataSet, ordered, training_batches
from compressor.dependency.inputs import leaves

_LEAST_LOGARITHM = -16.0  # of a probability: below it are those that a float16 output cannot hold
_LEAST = 1e-12  # of a variance: outputs that never change are compared as they are


@dataclass(frozen=True)
class Originals:
    """A trained network, and images to imitate it on.

    Attributes:
        network: in evaluation mode; gives tensors in any nesting
        data: images; their targets do not count
        batch_size: images of a step
        lr: largest learning rate, of AdamW
        softmax: the networks' outputs are logits, and what they are used for is the softmax of these over axis 1:
            they are compared as logarithms of probabilities, which a constant added to logits does not change
    """

    network: nn.Module
    data: DataSet
    batch_size: int = 64
    lr: float = 1e-3
    softmax: bool = False

    def outputs(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """What one of the networks gives, as it is compared."""
        found = leaves(network(images))
        return [one.float().log_softmax(1).clamp_min(_LEAST_LOGARITHM) for one in found] if self.softmax else found


def train(model: nn.Module, data: Originals, epochs: int, device: torch.device, on_step: Callable[[Any], None]) -> None:
    """Train a network to give what the original gives; a learning rate that falls to 0 along half a cosine.

    The loss is the mean over outputs of the squared error, each divided by the variance of the original's output.

    Args:
        model: in place; in training mode it gives what it gives in evaluation, in the same order
        data: see `Originals`
        epochs: passes over the images
        device: of the model
        on_step: is told every loss
    """
    original = data.network.to(device).eval()
    batches = training_batches(
        data.data, data.batch_size, seed=torch.initial_seed() % 2**31, augment=(), channels_last=False
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=data.lr)
    steps = max(1, epochs * len(batches))
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm) * _cosine(step, steps)
    )
    model.train()
    for epoch in range(epochs):
        for images, _ in batches.epoch(epoch):
            images = images.to(device)
            with torch.no_grad():
                wanted = data.outputs(original, images)
            loss = distance(data.outputs(model, images), wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            on_step(loss.detach())


def _cosine(step: int, steps: int) -> float:
    return float(0.5 * (1 + torch.cos(torch.tensor(torch.pi * min(step / steps, 1.0)))))


def distance(made: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Mean over outputs of their squared error, as a share of the variance of what is wanted."""
    shares = []
    for one, other in zip(made, wanted, strict=True):
        if other.is_floating_point():
            shares.append(
                (one.float() - other.float()).square().mean() / other.float().var(correction=0).clamp_min(_LEAST)
            )
    return torch.stack(shares).mean()


def agreement(model: nn.Module, data: Originals, device: torch.device, split: str = "test") -> float:
    """How near a network's outputs are to the original's: 1 less the share of their variance that is missed (R²).

    Args:
        model: on the device
        data: see `Originals`
        device: of the model
        split: "validation" or "test"

    Returns:
        the mean over outputs; 1 where all are the same, 0 where the mean output would do as well
    """
    original = data.network.to(device).eval()
    sums: list[Tensor] = []  # of each output: missed, values, their squares, their number
    for images, _ in ordered(getattr(data.data, split), data.data, data.batch_size):
        images = images.to(device)
        with torch.no_grad():
            pairs = zip(data.outputs(original, images), data.outputs(model, images), strict=True)
            found = [_moments(wanted, made) for wanted, made in pairs if wanted.is_floating_point()]
        sums = found if not sums else [one + other for one, other in zip(sums, found, strict=True)]
    missed, total, squares, count = torch.stack(sums).unbind(1)
    spread = (squares - total * total / count).clamp_min(_LEAST)
    return float((1 - missed / spread).mean())


def _moments(wanted: Tensor, made: Tensor) -> Tensor:
    one, other = wanted.double().cpu(), made.double().cpu()
    return torch.stack([(one - other).square().sum(), one.sum(), one.square().sum(), torch.tensor(float(one.numel()))])
