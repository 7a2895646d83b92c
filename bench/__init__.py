"""Latency of ONNX files on ONNX Runtime, and the machine that it was measured on.

Needs onnxruntime and numpy only, and imports them on first use, so that importing this package is free.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import BenchError, ProviderError
    from .latency import Latency, measure_latencies, measure_latency
    from .machine import machine_fingerprint
    from .session import open_session

__all__ = [
    "BenchError",
    "Latency",
    "ProviderError",
    "machine_fingerprint",
    "measure_latencies",
    "measure_latency",
    "open_session",
]

_HOME = {
    "BenchError": "errors",
    "Latency": "latency",
    "ProviderError": "errors",
    "machine_fingerprint": "machine",
    "measure_latencies": "latency",
    "measure_latency": "latency",
    "open_session": "session",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
