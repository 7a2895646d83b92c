"""ONNX Runtime sessions whose provider is the one asked for.

Left alone, ONNX Runtime answers a CUDA request on a machine without CUDA with a CPU session and a line on
stderr, and lists CUDA as "available" wherever its own wheel contains it. Here such a request is an error.
"""

import contextlib
import functools
import io
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from .errors import BenchError, ProviderError
from .machine import physical_cores, usable_cores
from .providers import PROVIDERS, Provider, providers

__all__ = [
    "Opened",
    "intra_op_threads",
    "no_cuda_graph",
    "open_session",
    "reason",
    "short_name",
    "timed_session",
]

_SHORT: Final = {provider.chain[0]: name for name, provider in providers().items()}
_LONG: Final = {name: long for long, name in _SHORT.items()}

_MOST_THREADS: Final = 1024  # more take ONNX Runtime minutes to start
_FATAL_ONLY: Final = 4  # ONNX Runtime log severities: 0 verbose ... 4 fatal
_WARNINGS: Final = 2  # its default


@dataclass(frozen=True)
class Opened:
    """A session and what is known about it.

    Attributes:
        session: the `onnxruntime.InferenceSession`.
        provider: short name of the provider that runs it.
        create_ms: milliseconds to create the session: read, optimise, move weights to the device.
        nodes: number of graph nodes by the short name of the provider that took them; empty where ONNX
            Runtime is too old to report them.
        cpu_ops: the nodes that another provider than "cpu" left to the CPU, counted by operator.
    """

    session: Any
    provider: str
    create_ms: float
    nodes: dict[str, int]
    cpu_ops: dict[str, int] = field(default_factory=dict)


def open_session(
    path: str | os.PathLike[str],
    *,
    provider: str = "auto",
    threads: int | None = None,
    stop_spinning: bool = False,
) -> tuple[Any, str]:
    """Open an ONNX file on a provider: sequential execution, one inter-op thread, full graph optimisation.

    Args:
        path: the ONNX file.
        provider: one of `PROVIDERS`; "auto": CUDA where it really works, otherwise CPU.
        threads: intra-op threads; None: one for each physical core, or as many as the cores that this process may
            use, if those are fewer (see `intra_op_threads`).
        stop_spinning: let the session's threads sleep as soon as a run ends, instead of waiting busily for
            the next one, which takes the cores from other sessions of this process.

    Returns:
        The `onnxruntime.InferenceSession` and the short name of the provider that runs it.

    Raises:
        ProviderError: "cuda" or "tensorrt" was asked for and ONNX Runtime would run the model on the CPU.
        BenchError: no such file, no ONNX model, an unknown provider, or a thread count below 1.
    """
    opened = timed_session(path, provider=provider, threads=threads, stop_spinning=stop_spinning)
    return opened.session, opened.provider


def timed_session(
    path: str | os.PathLike[str],
    *,
    provider: str = "auto",
    threads: int | None = None,
    stop_spinning: bool = False,
    cuda_graph: bool = False,
    profile: str | None = None,
) -> Opened:
    """Open a session as `open_session` does, and measure how long its creation took and where its nodes are.

    Args:
        path: as `open_session`.
        provider: as `open_session`.
        threads: as `open_session`.
        stop_spinning: as `open_session`.
        cuda_graph: let the provider capture the model as a CUDA graph; "auto" then means "cuda".
        profile: beginning of the path of the profile that ONNX Runtime writes; None: no profiling.

    Raises:
        ProviderError: as `open_session`, or the model cannot be captured as a CUDA graph.
        BenchError: as `open_session`, or `cuda_graph` with provider "cpu".
    """
    file = Path(path)
    if provider not in PROVIDERS:
        raise BenchError(f"provider {provider!r} is not one of {', '.join(PROVIDERS)}")
    if threads is not None and threads < 1:
        raise BenchError(f"threads={threads} must be 1 or more, or None for ONNX Runtime's default")
    if threads is not None and threads > _MOST_THREADS:
        raise BenchError(f"threads={threads} must be at most {_MOST_THREADS}")
    if not file.is_file():
        raise BenchError(f"{file} is not a file")
    if cuda_graph and provider != "auto" and not providers()[provider].cuda_graph:
        able = " or ".join(name for name, one in providers().items() if one.cuda_graph)
        raise BenchError(f"cuda_graph needs provider {able}, not {provider!r}")
    options = _options(threads, stop_spinning, profile)
    if provider != "auto":
        return _open(file, provider, options, cuda_graph)
    try:
        return _open(file, "cuda", options, cuda_graph)
    except ProviderError:
        if cuda_graph:
            raise
        return _open(file, "cpu", options)


def intra_op_threads(session: Any) -> int:
    """Tell how many threads (the calling one included) share the work inside an operator; never 0.

    A session opened with `threads=None` reports 0 where the process may use all cores; ONNX Runtime then takes one
    thread for each physical core of the machine, so that is what is returned. Where the system does not report the
    physical cores (Windows), the logical ones stand in.
    """
    return int(session.get_session_options().intra_op_num_threads) or physical_cores()


def short_name(provider: str) -> str:
    """Shorten the name that ONNX Runtime gives a provider; one that is not known stays as it is."""
    return _SHORT.get(provider, provider)


def _options(threads: int | None, stop_spinning: bool, profile: str | None) -> Any:
    options = ort.SessionOptions()
    fewer = usable_cores() < physical_cores()  # then ONNX Runtime would take cores that this process may not use
    options.intra_op_num_threads = threads or (usable_cores() if fewer else 0)
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL_ONLY  # what goes wrong is raised, so it need not be printed too
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if stop_spinning:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return options


def _open(file: Path, provider: str, options: Any, cuda_graph: bool = False) -> Opened:
    """Create the session on exactly this provider (short name, not "auto")."""
    wanted = _LONG[provider]
    if wanted not in ort.get_available_providers():
        _create(file, "cpu", options)  # raises its own error where the model is at fault
        raise ProviderError(
            f"provider {provider!r} is not in this build of ONNX Runtime {ort.__version__}, which has "
            f"{', '.join(ort.get_available_providers())}; {_remedy(provider)}"
        )
    session, create_ms = _create(file, provider, options, cuda_graph)
    taken = session.get_providers()[0]
    if taken != wanted:
        raise ProviderError(f"{file}: {_asked_but(provider)} fell back to {taken}; {_remedy(provider)}")
    nodes, cpu_ops = _nodes(session)
    if nodes and provider not in nodes:
        where = "the CPU" if set(nodes) == {"cpu"} else " and ".join(sorted(nodes))
        raise ProviderError(
            f"{file}: {_asked_but(provider)} placed all {sum(nodes.values())} nodes of the model on {where}"
        )
    return Opened(session, provider, create_ms, nodes, cpu_ops if provider != "cpu" else {})


def _remedy(provider: str) -> str:
    return f"{providers()[provider].needs}, or measure with provider='cpu'"


def _asked_but(provider: str) -> str:
    return f"provider {provider!r} was asked for but ONNX Runtime {ort.__version__}"


def _create(file: Path, provider: str, options: Any, cuda_graph: bool = False) -> tuple[Any, float]:
    """Create a session; its provider is not checked yet. Returns it with the milliseconds that it took."""
    chosen = providers()[provider]
    chain = _chain(chosen, file, options.intra_op_num_threads or None, cuda_graph)
    with _gpu_attempt() if chosen.device != "cpu" else contextlib.nullcontext():
        start = time.perf_counter_ns()
        try:
            # enable_fallback=0: otherwise the Python layer catches a provider's error and retries on the CPU.
            session = ort.InferenceSession(os.fspath(file), options, providers=chain, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's errors share no narrower base class
            raise _blame(file, provider, options, error) from error
        return session, (time.perf_counter_ns() - start) / 1e6


def _chain(provider: Provider, file: Path, threads: int | None, cuda_graph: bool) -> list[tuple[str, dict[str, str]]]:
    """The providers as ONNX Runtime takes them, with options; only one that replays graphs may ask another to."""
    known = {one.chain[0]: one for one in providers().values()}
    own = {name: dict(known[name].cuda_graph) if cuda_graph else {} for name in provider.chain}
    own[provider.chain[0]] |= provider.options(file, threads)
    return list(own.items())


def _blame(file: Path, provider: str, options: Any, error: Exception) -> BenchError:
    """Tell a bad model (`BenchError`) from a provider that does not work (`ProviderError`)."""
    if provider == "cpu":
        return BenchError(f"{file} is not a model that ONNX Runtime {ort.__version__} can open: {reason(error)}")
    _create(file, "cpu", options)  # raises the BenchError itself where the model is at fault
    if "graph capture" in str(error):
        return no_cuda_graph(file, error)
    return ProviderError(f"{file}: {_asked_but(provider)} failed to start it ({reason(error)}); {_remedy(provider)}")


def no_cuda_graph(file: str | os.PathLike[str], error: Exception) -> ProviderError:
    """Make the error for a model that a provider cannot capture, from what ONNX Runtime said."""
    return ProviderError(
        f"{os.fspath(file)} cannot be replayed as a CUDA graph, which needs every node on the GPU "
        f"({reason(error)}); measure it without cuda_graph"
    )


def reason(error: Exception) -> str:
    """Give the first line of an ONNX Runtime error without its code, C++ location and closing full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^(\[ONNXRuntimeError\] : \d+ : |\S+\.cc:\d+ .*?\) )", "", lines[0]).strip().rstrip(".")


def _nodes(session: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Count nodes by provider, and those on the CPU by operator; empty before ONNX Runtime could report them."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}, {}
    counts: Counter[str] = Counter()
    cpu_ops: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        nodes = part.get_nodes()
        counts[short_name(part.ep_name)] += len(nodes)
        if short_name(part.ep_name) == "cpu":
            cpu_ops.update(node.op_type for node in nodes)
    return dict(counts), dict(cpu_ops)


@contextlib.contextmanager
def _gpu_attempt() -> Iterator[None]:
    """Load the CUDA libraries of the installed wheels and keep a failing provider's log lines off stderr."""
    _preload()
    # These lines come from the default logger, which heeds no session option.
    ort.set_default_logger_severity(_FATAL_ONLY)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNINGS)


@functools.cache
def _preload() -> None:
    """Load the CUDA and cuDNN wheels' libraries once, so that no LD_LIBRARY_PATH is needed."""
    # It prints what it does not find; the provider check afterwards shows whether that mattered.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
