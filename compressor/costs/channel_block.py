"""How many channels a provider computes at once on this machine: a width that is no multiple wastes what is left.

Runtimes keep channels in blocks as wide as the processor's vectors, pad what does not fill a block, and take slower
kernels for widths that do not fit at all. So small convolutional networks of 33 to 64 channels are timed in turns; the
block is the largest for which it costs next to nothing to round any of these widths up to a multiple of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from compressor.bench import BenchError, Conditions, machine_fingerprint
from compressor.bench.turns import Turns
from compressor.files import cache_folder, keep_known, read_known

USUAL = 8  # where it cannot be measured, or width makes no difference
_BLOCKS = (32, 16, 8, 4, 2)
_WIDTHS = range(33, 65)
_WIDE = 128  # is slower, or else width is not what takes the time
_FREE = 0.02  # mean share of time by which widths may become slower when they are rounded up
_FLAT = 1.3  # time of the wide network over that of the narrowest
_ROUNDS, _WARM, _MOST_SAMPLES = 30, 3, 8
_LAYERS, _SIDE = 3, 16


def channel_block(conditions: Conditions) -> int:
    """Channels that the provider computes at once, measured in about a second, or known from an earlier time.

    Args:
        conditions: provider, threads and batch

    Returns:
        32, 16, 8, 4 or 2, or 1 where every channel counts; 8 where that cannot be measured
    """
    batch = min(conditions.batch, _MOST_SAMPLES)
    machine = machine_fingerprint()
    key = f"{machine['id']}-{machine['onnxruntime']}-{conditions.provider}-{conditions.threads}-{batch}"
    path = cache_folder() / "latency" / "blocks.json"
    known = read_known(path)
    if isinstance(block := known.get(key), int) and block > 0:
        return block
    try:
        block = block_of(_measure(conditions))
    except BenchError:
        return USUAL
    keep_known(path, {key: block})
    return block


def block_of(times: Mapping[int, float]) -> int:
    """The largest block to which widths can be rounded up at next to no cost.

    Args:
        times: {channels: time} of 33 to 64 channels, and of 128
    """
    if times[_WIDE] < _FLAT * min(times[width] for width in _WIDTHS):
        return USUAL
    for block in _BLOCKS:
        slower = [max(0.0, times[-(-width // block) * block] / times[width] - 1) for width in _WIDTHS]
        if np.mean(slower) <= _FREE:
            return block
    return 1


def _measure(conditions: Conditions) -> dict[int, float]:
    """Milliseconds of small networks by their width.

    Raises:
        BenchError: the provider does not work here
    """
    few = replace(conditions, batch=min(conditions.batch, _MOST_SAMPLES), shapes={}, inputs=None)
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        widths = [*_WIDTHS, _WIDE]
        paths = [Path(folder) / f"{width}.onnx" for width in widths]
        for width, path in zip(widths, paths, strict=True):
            _write(path, width)
        turns = Turns(paths, few)
        turns.warm_up(_WARM)
        turns.run(_ROUNDS)
        alone = all(entrant.one_thread for entrant in turns.entrants)
    taken = turns.cpu_ms if alone else turns.wall_ms
    return {width: float(np.median(times)) for width, times in zip(widths, taken, strict=True)}


def _write(path: Path, width: int) -> None:
    """Write a network of 3×3 convolutions, all of one width."""
    import onnx
    from onnx import helper, numpy_helper

    rng, nodes, weights, last, made = np.random.default_rng(0), [], [], "images", 3
    for layer in range(1 + _LAYERS):
        kernel = rng.standard_normal((width, made, 3, 3)).astype(np.float32) * (2 / (9 * made)) ** 0.5
        weights += [
            numpy_helper.from_array(kernel, f"weight{layer}"),
            numpy_helper.from_array(np.zeros(width, np.float32), f"bias{layer}"),
        ]
        inputs = [last, f"weight{layer}", f"bias{layer}"]
        nodes.append(helper.make_node("Conv", inputs, [f"conv{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"conv{layer}"], [f"relu{layer}"]))
        last, made = f"relu{layer}", width
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["features"]))
    kind = onnx.TensorProto.FLOAT
    given = helper.make_tensor_value_info("images", kind, ["N", 3, _SIDE, _SIDE])
    wanted = helper.make_tensor_value_info("features", kind, ["N", width, 1, 1])
    graph = helper.make_graph(nodes, "widths", [given], [wanted], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, path)
