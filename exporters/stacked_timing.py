"""Which layout of a stacked layer runs fastest, layer by layer.

A stacked layer is timed by itself, as a small file: a 1×1 convolution, its first weight layer, the depth-wise ones
between, its second one, and another 1×1 convolution, since runtimes reorder channels where blocked kernels meet others.
What was measured is kept in the user's cache folder, by machine, conditions and layers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compressor.bench import BenchError, Conditions, machine_fingerprint
from compressor.bench.turns import Turns
from compressor.dependency.inputs import run
from compressor.files import cache_folder, digest_of, keep_known, read_known
from compressor.models import example_input
from compressor.models.architecture import Architecture
from compressor.models.stacked import everywhere, rearranged
from compressor.models.stacked.layers import CONVOLUTIONS, Hybrid, StackedLinear

from .onnx_file import export_by_tracing

Blocks = dict[str, int | None]  # of both weight layers of all stacked layers, see `rearranged`

USUAL = 16  # channels: ONNX Runtime's blocked CPU kernels need multiples of 8 or, with AVX-512, of 16
_BLOCKS: tuple[int | None, ...] = (1, 8, 16, 32, None)
_OPSET = 18
_FORMAT = 1  # of the cache's entries
_ENOUGH_MS, _ROUNDS, _WARM = 60.0, (5, 40), 2  # of a layout; rounds, at least and at most
_AS_FAST = 1.02  # times the fastest: then the layout with fewer zeros is taken
_KNOWN: dict[str, dict[str, float]] = {}  # milliseconds by layers and conditions, if the cache cannot be written


@dataclass(frozen=True)
class _Placed:
    """A stacked layer's weight layers in the order in which they run, the depth-wise ones between included.

    Attributes:
        layers: as they are trained
        shape: of what the first reads, without the batch
        samples: rows of it for each sample of the network
    """

    layers: tuple[nn.Module, ...]
    shape: tuple[int, ...]
    samples: int

    def __str__(self) -> str:
        return f"{' > '.join(map(repr, self.layers))} at {self.shape} x {self.samples}"


def fastest_blocks(
    model: nn.Module, architecture: Architecture, conditions: Conditions, *, dense: bool = True
) -> Blocks:
    """The fastest layout of every stacked layer of a network.

    Args:
        model: in evaluation, on the CPU; of the architecture
        architecture: names its stacked layers
        conditions: provider, batch and threads
        dense: whether a layer may become dense, with zeros between all of its units

    Returns:
        the blocks of both weight layers of each, see `compressor.models.stacked.rearranged`; `USUAL` where a layer runs
        more than once or not at all, or cannot be timed
    """
    placed = _place(model, architecture)
    known: dict[str, int | None] = {}
    found: Blocks = {}
    for first, stack in architecture.stacks.items():
        if first in placed and (key := str(placed[first])) not in known:
            times = _times(placed[first], conditions)
            known[key] = _best({block: ms for block, ms in times.items() if dense or block is not None})
        block = known[str(placed[first])] if first in placed else USUAL
        found |= everywhere({first: stack}, block)
    return found


def _best(times: Mapping[int | None, float]) -> int | None:
    """The first, of the fewest zeros, that is as fast as the fastest."""
    if not times:
        return USUAL
    return next(block for block, ms in times.items() if ms <= _AS_FAST * min(times.values()))


def _place(model: nn.Module, architecture: Architecture) -> dict[str, _Placed]:
    """Where the stacked layers stand in the run of a network, {first layer: …}; those that run once."""
    example = example_input(architecture)
    with _watched(model) as ran, torch.no_grad():
        run(model, example)
    paths = [path for path, *_ in ran]
    placed = {}
    for first, stack in architecture.stacks.items():
        if paths.count(first) != 1 or paths.count(stack.second) != 1:
            continue
        begin, end = paths.index(first), paths.index(stack.second)
        _, layer, shape = ran[begin]
        between = [one for _, one, _ in ran[begin + 1 : end] if _channelwise(one, stack.hidden)]
        rows, rest = divmod(shape[0], len(example))
        if rest == 0 and rows > 0 and begin < end:
            placed[first] = _Placed((layer, *between, ran[end][1]), shape[1:], rows)
    return placed


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[tuple[str, nn.Module, tuple[int, ...]]]]:
    """Note which weight layers run: (path, layer, shape of what it reads)."""
    ran: list[tuple[str, nn.Module, tuple[int, ...]]] = []
    hooks = []

    def watch(path: str, layer: nn.Module) -> None:
        def note(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            ran.append((path, layer, tuple([*inputs, *named.values()][0].shape)))

        hooks.append(layer.register_forward_pre_hook(note, with_kwargs=True))

    for path, layer in model.named_modules():
        if isinstance(layer, (*CONVOLUTIONS, nn.Linear, StackedLinear, Hybrid)):
            watch(path, layer)
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def _channelwise(layer: nn.Module, channels: int) -> bool:
    return isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels == channels


def _times(placed: _Placed, conditions: Conditions) -> dict[int | None, float]:
    """Milliseconds of a stacked layer in each of its layouts, those of the fewest zeros first; none if it fails."""
    machine = machine_fingerprint()
    batch = conditions.batch * placed.samples
    how = (_FORMAT, placed, conditions.provider, conditions.threads, batch, machine["onnxruntime"], torch.__version__)
    key = digest_of(" ".join(map(str, how)), 32)
    path = cache_folder() / "latency" / f"stacked-{machine['id']}.json"
    if key not in _KNOWN:
        kept = read_known(path).get(key)
        if not (isinstance(kept, dict) and kept and all(isinstance(ms, float) and ms > 0 for ms in kept.values())):
            try:
                times = _measured(placed, replace(conditions, batch=batch, shapes={}, inputs=None))
            except Exception:  # exporter and runtime raise what they like: what a network can, a layer alone may not
                times = {}
            kept = {str(block): ms for block, ms in times.items()}
            if kept:  # what failed for want of memory or disk may work another time
                keep_known(path, {key: kept})
        _KNOWN[key] = kept
    return {block: _KNOWN[key][str(block)] for block in _BLOCKS if str(block) in _KNOWN[key]}


def _measured(placed: _Placed, conditions: Conditions) -> dict[int | None, float]:
    """Time all layouts that differ, in turns.

    Raises:
        BenchError: the provider does not work here
    """
    # Exporters ask for more than one row, or fix it.
    example = torch.zeros(2, *placed.shape)
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        paths: dict[int | None, Path] = {}
        seen: list[str] = []
        for block, network in _layouts(placed):
            if repr(network) in seen:
                continue
            seen.append(repr(network))
            paths[block] = Path(folder) / f"{block}.onnx"
            export_by_tracing(network.eval(), example, paths[block], _OPSET)
        if len(paths) == 1:
            return dict.fromkeys(paths, 1.0)
        turns = Turns(list(paths.values()), conditions)
        turns.warm_up(_WARM)
        turns.run(_ROUNDS[0])
        spent = float(np.median(np.asarray(turns.wall_ms), axis=1).sum()) / len(paths)
        turns.run(int(np.clip(_ENOUGH_MS / max(spent, 1e-3), *_ROUNDS)))
        alone = all(entrant.one_thread for entrant in turns.entrants)
        taken = turns.cpu_ms if alone else turns.wall_ms
    found = {block: float(np.median(times)) for block, times in zip(paths, taken, strict=True)}
    if not all(ms > 0 for ms in found.values()):
        raise BenchError("the clock saw no time pass")
    return found


def _layouts(placed: _Placed) -> Iterator[tuple[int | None, nn.Module]]:
    """The stacked layer between two layers without units, in every layout."""
    steps = [step for layer in placed.layers for step in (layer, nn.ReLU())]
    whole, pair = nn.Sequential(*steps), ("0", str(len(steps) - 2))
    before, after = _contexts(placed)
    for block in _BLOCKS:
        yield block, nn.Sequential(*before, rearranged(whole, dict.fromkeys(pair, block)), *after)


def _contexts(placed: _Placed) -> tuple[list[nn.Module], list[nn.Module]]:
    """A 1×1 convolution in front of a pair of convolutions and one behind; nothing around Linear layers."""
    second = placed.layers[-1]
    parts = list(second.parts) if isinstance(second, Hybrid) else [second]
    if not all(isinstance(part, CONVOLUTIONS) for part in parts):
        return [], []
    convolution: Any = type(parts[0])
    inputs, outputs = placed.shape[0], sum(part.get_parameter("weight").shape[0] for part in parts)
    return [convolution(inputs, inputs, 1), nn.ReLU()], [convolution(outputs, outputs, 1)]
