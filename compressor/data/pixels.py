"""Arithmetic on batches of uint8 pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 1024  # images converted at a time: bounds the float copies, not the result

# ITU-R 601 luma in 16-bit fixed point, as PIL's convert("L"): folders and tensors give the same grey.
_LUMA = (19595, 38470, 7471)


def fit(pixels: Tensor, *, image_size: int | None, channels: int | None) -> Tensor:
    """Return uint8 images (N, C, H, W) with `channels` channels, resized to a square of `image_size` pixels.

    Args:
        pixels: uint8 (N, 1 or 3, H, W).
        image_size: side in pixels, None to keep height and width.
        channels: 1 or 3, None to keep them.
    """
    pixels = with_channels(pixels, channels or pixels.shape[1])
    if image_size is None or tuple(pixels.shape[2:]) == (image_size, image_size):
        return pixels
    return torch.cat([_resize(chunk, image_size) for chunk in torch.split(pixels, CHUNK)])


def with_channels(pixels: Tensor, channels: int) -> Tensor:
    """Return (N, `channels`, H, W): grey is repeated, RGB becomes its luma."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(-1, 3, -1, -1).contiguous()
    return torch.cat([_luma(chunk) for chunk in torch.split(pixels, CHUNK)])


def moments(batches: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 batches (B, C, H, W), in units of 0..1.

    Sums are whole numbers, hence the same on every device and in every order.
    """
    total, squares, count = torch.zeros(0), torch.zeros(0), 0
    for batch in batches:
        first = batch.sum((0, 2, 3), dtype=torch.int64).cpu()
        second = batch.int().square().sum((0, 2, 3), dtype=torch.int64).cpu()
        total, squares = (first, second) if count == 0 else (total + first, squares + second)
        count += batch.numel() // batch.shape[1]
    mean = total.double() / count
    # A constant channel has no spread to divide by; one grey level keeps it finite.
    std = (squares.double() / count - mean.square()).clamp(min=1).sqrt()
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def shift_and_scale(mean: Sequence[float], std: Sequence[float], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return float32 (C, 1, 1) tensors for `normalise`: (x - shift) * scale is (x / 255 - mean) / std."""
    shift = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1) * 255
    scale = 1 / (torch.tensor(std, dtype=torch.float64).view(-1, 1, 1) * 255)
    return shift.float().to(device), scale.float().to(device)


def normalise(pixels: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return uint8 (B, C, H, W) as float32 with the shift and scale of `shift_and_scale`."""
    return pixels.float().sub_(shift).mul_(scale)


def _resize(pixels: Tensor, side: int) -> Tensor:
    # Antialias only matters when shrinking; without it a shrunk image is a sample of its pixels.
    larger = functional.interpolate(
        pixels.float(), size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
    return larger.round_().clamp_(0, 255).to(torch.uint8)


def _luma(pixels: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, dtype=torch.int32, device=pixels.device).view(1, 3, 1, 1)
    grey = (pixels.int() * weights).sum(1, keepdim=True, dtype=torch.int32) + 0x8000
    return (grey >> 16).to(torch.uint8)
