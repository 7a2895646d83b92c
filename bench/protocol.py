"""Named ways to measure. Imports nothing, so that a command line can read it at once."""

from dataclasses import dataclass
from typing import Final

from .errors import BenchError

__all__ = ["PROTOCOLS", "Protocol", "protocol"]


@dataclass(frozen=True)
class Protocol:
    """How a model is measured where nothing else is said.

    Attributes:
        about: what it is for
        batches: sizes to measure, one after the other
        warmup: runs before the clock
        runs: runs on the clock
        threads: intra-op threads; None leaves the count to ONNX Runtime
    """

    about: str
    batches: tuple[int, ...]
    warmup: int = 20
    runs: int = 80
    threads: int | None = None


PROTOCOLS: Final = {
    "paper": Protocol("the latency of NeuralScale, section 4.2: batch 100, 80 runs after 20", (100,)),
    "serving": Protocol("one request at a time and small batches, on one thread", (1, 8, 100), threads=1),
}


def protocol(name: str) -> Protocol:
    """Look up a protocol.

    Raises:
        BenchError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise BenchError(f"preset {name!r} is not one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
