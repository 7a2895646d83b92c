"""Errors of the bench room, each with the exit code that a command line gives back for it.

Exception
└── BenchError       exit code 2: bad input (no such file, not an ONNX model, an axis without a size, ...)
    ├── UnknownBaseline  exit code 2: no baseline of that name (in `baseline`)
    └── ProviderError    exit code 3: the environment cannot run the provider that was asked for
"""

from typing import ClassVar

__all__ = ["BenchError", "ProviderError"]


class BenchError(Exception):
    """A measurement cannot be made as asked; the message names the file, the bad value and the valid ones."""

    exit_code: ClassVar[int] = 2


class ProviderError(BenchError):
    """ONNX Runtime cannot run the provider that was asked for on this machine."""

    exit_code: ClassVar[int] = 3
