"""Where a result comes from: versions and machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from compressor import __version__
from compressor.bench import machine_fingerprint

_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "numpy", "scipy")


def versions() -> dict[str, str]:
    """{package: version} of what computes the result."""
    found = {"compressor": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = _version(name)
    for name in ("onnxruntime-gpu", "onnxruntime"):  # one of the two is installed, depending on the platform
        if (installed := _version(name)) != "none":
            found[name] = installed
    return found


def machine(device: torch.device) -> dict[str, str | int | float]:
    """The machine's fingerprint and what torch trains on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {**machine_fingerprint(), "torch_device": name, "torch_threads": torch.get_num_threads()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
