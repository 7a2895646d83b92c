"""Latency of ONNX files on ONNX Runtime, and the machine that it was measured on.

Needs onnxruntime and numpy only, and imports them on first use, so that importing this package is free.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .baseline import Baseline, BaselineStore, UnknownBaseline
    from .casts import runs_in_float32
    from .errors import BenchError, ProviderError
    from .gate import Comparison, compare_latency
    from .inputs import INPUT_SHAPE
    from .latency import Latency, measure_latencies, measure_latency
    from .machine import machine_fingerprint
    from .memory import Memory, measure_memory
    from .pairs import Pairs, Ratio, measure_pairs, median_alone
    from .profiling import Profile, profile_model
    from .session import open_session
    from .turns import Conditions

__all__ = [
    "INPUT_SHAPE",
    "Baseline",
    "BaselineStore",
    "BenchError",
    "Comparison",
    "Conditions",
    "Latency",
    "Memory",
    "Pairs",
    "Profile",
    "ProviderError",
    "compare_latency",
    "Ratio",
    "UnknownBaseline",
    "machine_fingerprint",
    "measure_latencies",
    "measure_latency",
    "measure_memory",
    "measure_pairs",
    "median_alone",
    "open_session",
    "profile_model",
    "runs_in_float32",
]

_HOME = {
    "INPUT_SHAPE": "inputs",
    "Baseline": "baseline",
    "BaselineStore": "baseline",
    "BenchError": "errors",
    "Comparison": "gate",
    "Conditions": "turns",
    "Latency": "latency",
    "Memory": "memory",
    "Pairs": "pairs",
    "Profile": "profiling",
    "ProviderError": "errors",
    "compare_latency": "gate",
    "Ratio": "pairs",
    "UnknownBaseline": "baseline",
    "machine_fingerprint": "machine",
    "measure_latencies": "latency",
    "measure_latency": "latency",
    "measure_memory": "memory",
    "measure_pairs": "pairs",
    "median_alone": "pairs",
    "open_session": "session",
    "profile_model": "profiling",
    "runs_in_float32": "casts",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
