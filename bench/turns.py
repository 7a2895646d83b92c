"""Models that take turns: one session each, and in every round each runs once, in random order.

Times of one model taken minutes apart differ several times over on a busy machine. Samples of one round come from the
same moment, so slow minutes hit all models alike, and it is rounds that are compared.
"""

import gc
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort

from .errors import BenchError, ProviderError
from .inputs import (
    TensorSpec,
    available_bytes,
    check_types,
    names_of,
    random_tensor,
    read_values,
    resolve_inputs,
)
from .memory import check_ends
from .providers import device_of
from .session import Opened, intra_op_threads, no_cuda_graph, reason, timed_session

__all__ = ["Conditions", "Entrant", "Turns", "open_entrant"]

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Conditions:
    """How models are run.

    Attributes:
        provider: one of `PROVIDERS`; "auto": CUDA where it really works, otherwise CPU.
        batch: inputs in one run; a symbolic first axis of an input gets this size (see `resolve_inputs`).
        threads: intra-op threads; None leaves the count to ONNX Runtime.
        seed: of the input values and the order of the turns.
        shapes: sizes by name: a whole shape of an input, in which "N" is the batch, or a one-number shape for a
            symbolic axis.
        cuda_graph: replay each model as one CUDA graph (CUDA and TensorRT only).
        inputs: an .npz file with values for some inputs, by their names, and so their shapes; None: all are drawn.
    """

    provider: str = "auto"
    batch: int = 100
    threads: int | None = None
    seed: int = 0
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    cuda_graph: bool = False
    inputs: str | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise BenchError(f"batch={self.batch} must be 1 or more")


@dataclass(frozen=True)
class Entrant:
    """A session with its inputs and outputs in place."""

    path: str
    opened: Opened
    inputs: tuple[TensorSpec, ...]
    binding: Any
    run_options: Any = None

    @property
    def threads(self) -> int:
        """Intra-op threads, the calling one included."""
        return intra_op_threads(self.opened.session)

    @property
    def one_thread(self) -> bool:
        """Whether the calling thread does all the work, so that its CPU time is the model's."""
        # Windows counts CPU time in steps of 15 ms.
        return self.opened.provider == "cpu" and self.threads == 1 and sys.platform != "win32"

    def __post_init__(self) -> None:
        # Looked up once: at 0.2 ms a run, a microsecond is half a per cent.
        calls = (
            self.opened.session.run_with_iobinding,
            self.binding,
            self.run_options,
            self.binding.synchronize_outputs,
            time.thread_time_ns if self.one_thread else _no_time,
            time.perf_counter_ns,
        )
        object.__setattr__(self, "_calls", calls)

    def run(self) -> tuple[float, float]:
        """Run once; returns milliseconds until the outputs are there, by the clock and by the calling thread's CPU.

        The latter is 0 unless that thread does all the work: reading it is a system call.
        """
        run, binding, options, synchronize, thread_time, clock = self._calls  # type: ignore[attr-defined]
        cpu = thread_time()
        start = clock()
        run(binding, options)
        synchronize()
        end = clock()
        return (end - start) / 1e6, (thread_time() - cpu) / 1e6


def _no_time() -> int:
    return 0


class Turns:
    """Sessions for files, and the samples of all rounds so far.

    Inputs and outputs are allocated beforehand on the provider's device and bound; the clock covers the run and the
    wait for its outputs, no copy. One run more, at the start, finds the outputs' shapes; a CUDA graph takes another to
    be captured.

    Attributes:
        entrants: the opened models, in the order of the files
        wall_ms: by model, one time for each round
        cpu_ms: by model, CPU time of the calling thread in each round; 0 where others work too
    """

    def __init__(self, paths: Sequence[Path], conditions: Conditions, order: random.Random | None = None) -> None:
        """Open the files; `order` draws the turns, None: a generator of the conditions' seed.

        Raises:
            ProviderError: the provider asked for does not work here, or "auto" took several for these files.
            BenchError: no file, a bad file, or an input whose shape is not known (see `resolve_inputs`).
        """
        if not paths:
            raise BenchError("paths is empty; give at least one ONNX file")
        opened = [_open(path, conditions, several=len(paths) > 1) for path in paths]
        _check_same_provider(paths, opened)
        known, values = [names_of(one.session) for one in opened], read_values(conditions.inputs)
        # A name that only another file has is meant for that one; one that none has is refused by the first.
        elsewhere = [set().union(*known) - own for own in known]
        asked = [_without(names, conditions) for names in elsewhere]
        for path, own in zip(paths, asked, strict=True):
            check_ends(path, own)
        self.entrants = []
        for path, one, own, names in zip(paths, opened, asked, elsewhere, strict=True):
            given = {name: value for name, value in values.items() if name not in names}
            self.entrants.append(_bind(os.fspath(path), one, own, given))
        self.wall_ms: list[list[float]] = [[] for _ in paths]
        self.cpu_ms: list[list[float]] = [[] for _ in paths]
        self._order = order or random.Random(conditions.seed)

    def warm_up(self, rounds: int) -> None:
        """Run rounds that leave no samples."""
        self._rounds(rounds)

    def run(self, rounds: int) -> None:
        """Run rounds and keep their samples."""
        for turn, samples in enumerate(self._rounds(rounds)):
            self.wall_ms[turn] += [wall for wall, _ in samples]
            self.cpu_ms[turn] += [cpu for _, cpu in samples]

    def _rounds(self, count: int) -> list[list[tuple[float, float]]]:
        """The samples (wall, CPU) of every model in further rounds."""
        places = range(len(self.entrants))
        # One model needs no order, and drawing one takes a microsecond.
        alone = len(places) == 1
        orders = [[0]] * count if alone else [self._order.sample(places, len(places)) for _ in range(count)]
        samples: list[list[tuple[float, float]]] = [[] for _ in places]
        steps = [(entrant.run, taken.append) for entrant, taken in zip(self.entrants, samples, strict=True)]
        with _no_garbage_collection():
            for order in orders:
                for turn in order:
                    run, keep = steps[turn]
                    try:
                        keep(run())
                    except Exception as error:  # ONNX Runtime's errors share no narrower base class
                        raise _stopped(self.entrants[turn].path, error) from error
        return samples


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python's collector, which may run for milliseconds, out of the samples."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _without(names: set[str], conditions: Conditions) -> Conditions:
    return replace(conditions, shapes={name: sizes for name, sizes in conditions.shapes.items() if name not in names})


def run_once(path: Path, conditions: Conditions, opened: Callable[[], None]) -> None:
    """Open one file and run it once.

    Args:
        path: the ONNX file
        conditions: how it is run; of values for inputs those of other files are left out
        opened: called before the run
    """
    one = _open(path, conditions, several=False)
    inputs = {node.name for node in one.session.get_inputs()}
    values = {name: value for name, value in read_values(conditions.inputs).items() if name in inputs}
    opened()
    _bind(os.fspath(path), one, conditions, values)


def open_entrant(path: Path, conditions: Conditions, *, several: bool = False, profile: str | None = None) -> Entrant:
    """Open one file and put its inputs and outputs in place.

    Args:
        path: the ONNX file
        conditions: how it is run
        several: other sessions take turns with this one
        profile: beginning of the path of the profile that ONNX Runtime writes; None: no profiling

    Raises:
        ProviderError: as `Turns`
        BenchError: as `Turns`
    """
    return _bind(os.fspath(path), _open(path, conditions, several, profile), conditions, read_values(conditions.inputs))


def _open(path: Path, conditions: Conditions, several: bool, profile: str | None = None) -> Opened:
    # While one model runs, the waiting threads of another would spin on its cores: 0.13 against 0.11 ms on
    # two cores, seen on a small network that took turns with a larger one.
    return timed_session(
        path,
        provider=conditions.provider,
        threads=conditions.threads,
        stop_spinning=several,
        cuda_graph=conditions.cuda_graph,
        profile=profile,
    )


def _check_same_provider(paths: Sequence[Path], opened: Sequence[Opened]) -> None:
    if len({one.provider for one in opened}) > 1:
        taken = ", ".join(f"{os.fspath(path)} {one.provider}" for path, one in zip(paths, opened, strict=True))
        raise ProviderError(f"provider 'auto' took different providers: {taken}; name one of them for all files")


def _bind(
    path: str, opened: Opened, conditions: Conditions, values: Mapping[str, Any] = MappingProxyType({})
) -> Entrant:
    """Place inputs, given or at random, and fitting outputs on the session's device."""
    session, device = opened.session, device_of(opened.provider)
    inputs = [node.name for node in session.get_inputs()]
    for name in values:
        if name not in inputs:
            raise BenchError(
                f"{conditions.inputs}: has values for {name!r}, which is no input of {path}: {', '.join(inputs)}"
            )
    shapes = {**conditions.shapes, **{name: value.shape for name, value in values.items()}}
    specs = resolve_inputs(session, path, conditions.batch, shapes)
    check_types(path, specs, values)
    _check_room(path, specs, conditions.batch)
    # One seed for every model, so that models with the same inputs get the same values.
    rng = np.random.default_rng(conditions.seed)
    binding = session.io_binding()
    try:
        for spec in specs:
            value = ort.OrtValue.ortvalue_from_numpy(values.get(spec.name, random_tensor(spec, rng)), device, 0)
            binding.bind_ortvalue_input(spec.name, value)
    except Exception as error:  # numpy's MemoryError and ValueError, or the device's own
        raise BenchError(f"{path}: inputs of batch={conditions.batch} do not fit: {reason(error)}") from error
    binding.synchronize_inputs()
    _bind_outputs(path, opened, binding, conditions)
    entrant = Entrant(path, opened, specs, binding, _run_options("1") if conditions.cuda_graph else None)
    if conditions.cuda_graph:
        _capture(entrant)
    return entrant


def _check_room(path: str, specs: Sequence[TensorSpec], batch: int) -> None:
    """Refuse inputs that would not fit: Linux grants them, and ends the process when they are written."""
    needed, room = sum(spec.nbytes for spec in specs), available_bytes()
    if room is not None and needed > room:
        raise BenchError(
            f"{path}: the inputs of batch={batch} need {needed / 2**30:.1f} GiB of memory, and {room / 2**30:.1f} GiB "
            "are free; give a smaller batch"
        )


def _bind_outputs(path: str, opened: Opened, binding: Any, conditions: Conditions) -> None:
    """Run once with outputs that ONNX Runtime allocates, then bind those for all later runs."""
    names = list(dict.fromkeys(node.name for node in opened.session.get_outputs()))  # a file may list one twice
    for name in names:
        binding.bind_output(name, device_of(opened.provider), 0)
    try:
        # Graph -1 is none: the one that is captured must hold the outputs that stay.
        opened.session.run_with_iobinding(binding, _run_options("-1") if conditions.cuda_graph else None)
    except Exception as error:  # ONNX Runtime's errors share no narrower base class
        raise _does_not_run(path, conditions.batch, error) from error
    for name, value in zip(names, binding.get_outputs(), strict=True):
        # Sequences and maps (scikit-learn's classifiers) have no buffer to bind: made anew in each run.
        if value.is_tensor():
            binding.bind_ortvalue_output(name, value)
        elif conditions.cuda_graph:
            raise BenchError(f"{path}: cuda_graph needs outputs that are tensors, and {name!r} is none")


def _stopped(path: str, error: Exception) -> BenchError:
    """What to say of a model that ran at first and then no more: its outputs lie where those of the first run did."""
    varies = "shape" in str(error).lower()
    advice = "; outputs whose shape differs from run to run cannot be measured" if varies else ""
    return BenchError(f"{path}: ONNX Runtime failed while the model was measured: {reason(error)}{advice}")


def _does_not_run(path: str, batch: int, error: Exception) -> BenchError:
    taken = re.search(r"Failed to allocate memory for requested buffer of size (\d+)", str(error))
    if taken:
        size = int(taken[1]) / 2**20
        return BenchError(f"{path}: batch={batch} does not fit into memory: a buffer of {size:.0f} MiB more is needed")
    return BenchError(f"{path} does not run on random inputs: {reason(error)}")


def _run_options(graph: str) -> Any:
    """Options of a run that captures or replays the CUDA graph of this number."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options


def _capture(entrant: Entrant) -> None:
    """Run once, which captures the graph: ONNX Runtime runs on by itself until it is."""
    try:
        entrant.run()
    except Exception as error:  # ONNX Runtime's errors share no narrower base class
        raise no_cuda_graph(entrant.path, error) from error
