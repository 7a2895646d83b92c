"""Random small ONNX graphs, seeded: each is converted to torch as ONNX Runtime computes it, or refused in a sentence.

    python experiments/onnx_fuzz.py [--count 2000] [--seed 0]    counts to experiments/onnx_fuzz.json

A graph has an input (N, C, H, W) and 3 to 12 nodes of the operators that the interpreter knows, with random attributes,
constants, axes and shapes; many cannot be run at all, and are drawn again. What is counted: graphs of which torch and
ONNX Runtime differ at batches of other sizes and values than those that were compared while it was converted (none
should), tracebacks (none), refusals with their reasons.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from onnx_graphs import Graph
from record import write_result

from compressor.errors import ModelError
from compressor.models.from_onnx.interface import interface_of
from compressor.models.from_onnx.network import network_of

RESULT = Path(__file__).with_suffix(".json")
Shape = tuple[int, ...]
Drawn = tuple[str, Shape]  # a value and its shape for a batch of 2
UNARY = (
    *("Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Softsign", "Abs", "Neg", "Exp", "Erf", "Sin", "Cos", "Atan"),
    *("LeakyRelu", "Elu", "Selu", "HardSigmoid", "ThresholdedRelu", "Sign", "Floor", "Ceil", "Round", "Celu", "Mish"),
)


class Fuzzer:
    """Draws one graph."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.opset = self.rng.choice([11, 12, 13, 14, 16, 17, 18, 19, 20, 21])
        self.graph = Graph(self.opset, seed)
        self.batch = self.rng.choice(["N", "N", "N", 1, 2])
        size = self.rng.choice([4, 5, 6, 8])
        self.input: Shape = (2, self.rng.choice([1, 2, 3, 4, 6]), size, self.rng.choice([size, size + 1]))
        self.values: list[Drawn] = [("x", self.input)]

    def model(self) -> onnx.ModelProto:
        """The graph."""
        for _ in range(self.rng.randint(3, 12)):
            name, shape = self.rng.choice(self.values[-2:])
            makers = self.for_images() if len(shape) == 4 else self.for_any()
            made = self.rng.choice(makers)(name, shape)
            if made is not None and 0 < np.prod(made[1]) <= 20000:
                self.values.append(made)
        last, shape = self.values[-1]
        sizes: list[Any] = [self.batch, *shape[1:]]
        proto = self.graph.model({"x": [self.batch, *self.input[1:]]}, {last: [None] * len(shape)})
        proto.graph.output[0].CopyFrom(helper.make_tensor_value_info(last, TensorProto.FLOAT, sizes))
        return proto

    def for_any(self) -> list[Callable[[str, Shape], Drawn | None]]:
        """What any tensor can go through."""
        return [
            self.unary,
            self.binary,
            self.reduce,
            self.transpose,
            self.flatten,
            self.linear,
            self.softmax,
            self.reshape,
        ]

    def for_images(self) -> list[Callable[[str, Shape], Drawn | None]]:
        """What images can go through as well."""
        more = [self.conv, self.conv, self.conv, self.pool, self.norm, self.pad, self.resize, self.split, self.join]
        return [*more, self.slice, self.shuffle, *self.for_any()]

    def pick(self, *choices: Any) -> Any:
        """One of them."""
        return self.rng.choice(choices)

    def unary(self, x: str, shape: Shape) -> Drawn:
        kind = self.pick(*UNARY)
        since = {"HardSwish": 14, "Celu": 12, "Mish": 18}
        if self.opset < since.get(kind, 0):
            kind = "Relu"
        return self.graph.add(kind, x), shape

    def binary(self, x: str, shape: Shape) -> Drawn:
        same = [name for name, other in self.values if other == shape]
        kind = self.pick("Add", "Sub", "Mul", "Div", "Max", "Min")
        if self.pick(True, False):
            return self.graph.add(kind, x, self.pick(*same)) if kind != "Div" else self.graph.add("Add", x, x), shape
        sizes = self.pick([1], list(shape[1:]), [shape[-1]], [shape[1]] + [1] * (len(shape) - 2))
        constant = self.graph.constant(self.graph.draw.uniform(0.5, 1.5, sizes), np.float32)
        return self.graph.add(kind, *self.pick((x, constant), (constant, x))), shape

    def axes(self, kind: str, x: str, axes: list[int], since: int, **more: Any) -> str:
        if self.opset >= since:
            return self.graph.add(kind, x, self.graph.constant(axes), **more)
        return self.graph.add(kind, x, axes=axes, **more)

    def reduce(self, x: str, shape: Shape) -> Drawn | None:
        if len(shape) < 2:
            return None
        axes = sorted(self.rng.sample(range(1, len(shape)), self.rng.randint(1, len(shape) - 1)))
        keep = self.pick(0, 1)
        kind = self.pick("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1")
        left = [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
        given = [axis - len(shape) if self.pick(True, False) else axis for axis in axes]
        return self.axes(kind, x, given, 13 if kind == "ReduceSum" else 18, keepdims=keep), tuple(left)

    def transpose(self, x: str, shape: Shape) -> Drawn:
        rest = list(range(1, len(shape)))
        self.rng.shuffle(rest)
        order = [0, *rest]
        return self.graph.add("Transpose", x, perm=order), tuple(shape[axis] for axis in order)

    def flatten(self, x: str, shape: Shape) -> Drawn | None:
        if len(shape) < 2:
            return None
        return self.graph.add("Flatten", x, axis=1), (shape[0], int(np.prod(shape[1:])))

    def reshape(self, x: str, shape: Shape) -> Drawn | None:
        if len(shape) < 3:
            return None
        batch = self.pick(0, -1) if self.batch == "N" else self.pick(0, self.batch)
        joined = int(np.prod(shape[2:]))
        wanted = [batch, shape[1], joined if batch == -1 else self.pick(joined, -1)]
        return self.graph.add("Reshape", x, self.graph.constant(wanted)), (shape[0], shape[1], joined)

    def linear(self, x: str, shape: Shape) -> Drawn | None:
        if len(shape) < 2 or shape[-1] > 400:
            return None
        out = self.pick(3, 4, 7)
        if len(shape) == 2 and self.pick(True, False):
            turned = self.pick(0, 1)
            sizes = (out, shape[1]) if turned else (shape[1], out)
            made = self.graph.add(
                "Gemm", x, self.graph.weight(*sizes), self.graph.weight(out), transB=turned, alpha=0.7
            )
            return made, (shape[0], out)
        made = self.graph.add("MatMul", x, self.graph.weight(shape[-1], out, scale=0.3))
        if self.pick(True, False):
            made = self.graph.add("Add", *self.pick((made, self.graph.weight(out)), (self.graph.weight(out), made)))
        return made, (*shape[:-1], out)

    def softmax(self, x: str, shape: Shape) -> Drawn:
        axis = self.rng.randint(1, len(shape) - 1) if len(shape) > 1 else 0
        return (
            (self.graph.add(self.pick("Softmax", "LogSoftmax"), x, axis=axis), shape) if axis else self.unary(x, shape)
        )

    def conv(self, x: str, shape: Shape) -> Drawn | None:
        groups = self.pick(1, 1, shape[1])
        out, kernel = groups * self.pick(1, 2, 3), self.pick(1, 2, 3)
        stride, dilation = self.pick(1, 1, 2), self.pick(1, 1, 2)
        attributes: dict[str, Any] = {"group": groups, "strides": [stride] * 2, "dilations": [dilation] * 2}
        attributes["kernel_shape"] = [kernel] * 2
        reach = (kernel - 1) * dilation + 1
        if self.pick(True, False) and dilation == 1:
            attributes["auto_pad"] = self.pick("SAME_UPPER", "SAME_LOWER")
            sizes = [-(-size // stride) for size in shape[2:]]
        else:
            pads = [self.rng.randint(0, 1) for _ in range(4)]
            attributes["pads"] = pads
            sizes = [(shape[2 + i] + pads[i] + pads[2 + i] - reach) // stride + 1 for i in range(2)]
        if min(sizes) < 1:
            return None
        weights = [self.graph.weight(out, shape[1] // groups, kernel, kernel)]
        weights += [self.graph.weight(out)] if self.pick(True, False) else []
        return self.graph.add("Conv", x, *weights, **attributes), (shape[0], out, *sizes)

    def pool(self, x: str, shape: Shape) -> Drawn | None:
        kind = self.pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
        if kind.startswith("Global"):
            return self.graph.add(kind, x), (*shape[:2], 1, 1)
        kernel, stride, ceil = self.pick(2, 3), self.pick(1, 2), self.pick(0, 0, 1)
        pads = [self.rng.randint(0, 1) for _ in range(4)]
        attributes: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads}
        attributes["ceil_mode"] = ceil
        if kind == "AveragePool":
            attributes["count_include_pad"] = self.pick(0, 1)
        sizes = []
        for axis in range(2):
            room = shape[2 + axis] + pads[axis] + pads[2 + axis] - kernel
            count = -(-room // stride) + 1 if ceil else room // stride + 1
            sizes.append(count - 1 if ceil and (count - 1) * stride >= shape[2 + axis] + pads[axis] else count)
        return (self.graph.add(kind, x, **attributes), (*shape[:2], *sizes)) if min(sizes) > 0 else None

    def norm(self, x: str, shape: Shape) -> Drawn:
        channels = shape[1]
        scale, shift = (self.graph.constant(self.graph.draw.uniform(0.5, 1.5, channels), np.float32) for _ in range(2))
        if self.pick(True, False):
            mean, variance = self.graph.weight(channels), self.graph.constant(np.full(channels, 0.7), np.float32)
            return self.graph.add("BatchNormalization", x, scale, shift, mean, variance), shape
        return self.graph.add("InstanceNormalization", x, scale, shift), shape

    def pad(self, x: str, shape: Shape) -> Drawn | None:
        mode = self.pick("constant", "reflect", "edge")
        pads = [0, 0, *(self.rng.randint(0, 2) for _ in range(2)), 0, 0, *(self.rng.randint(0, 2) for _ in range(2))]
        if mode == "reflect" and min(shape[2:]) < 3:
            return None
        sizes = [shape[axis] + pads[axis] + pads[4 + axis] for axis in range(4)]
        return self.graph.add("Pad", x, self.graph.constant(pads), mode=mode), tuple(sizes)

    def resize(self, x: str, shape: Shape) -> Drawn:
        mode = self.pick("nearest", "linear", "cubic")
        transform = self.pick("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        factors = [self.pick(1, 2, 3), self.pick(1, 2, 1.5)]
        sizes = [int(np.floor(shape[2 + axis] * factors[axis])) for axis in range(2)]
        attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": transform}
        if mode == "nearest":
            attributes["nearest_mode"] = self.pick("floor", "round_prefer_floor", "ceil", "round_prefer_ceil")
        empty = self.graph.constant([], np.float32)
        scales = self.graph.constant([1, 1, *factors], np.float32)
        return self.graph.add("Resize", x, empty, scales, **attributes), (*shape[:2], *sizes)

    def split(self, x: str, shape: Shape) -> Drawn | None:
        if shape[1] % 2:
            return None
        half, name = shape[1] // 2, f"split_{len(self.graph.nodes)}"
        sizes = [self.graph.constant([half, half])] if self.opset >= 13 else []
        more = {} if sizes else {"split": [half, half]}
        outputs = [f"{name}_a", f"{name}_b"]
        self.graph.nodes.append(helper.make_node("Split", [x, *sizes], outputs, name, axis=1, **more))
        return self.graph.add("Concat", *self.pick(outputs, outputs[::-1]), axis=1), shape

    def slice(self, x: str, shape: Shape) -> Drawn | None:
        axis = self.pick(1, 2, 3)
        if shape[axis] < 3:
            return None
        start, end, step = self.pick(0, 1, -3), self.pick(shape[axis], -1, 2**31), self.pick(1, 1, 2)
        size = len(range(*slice(start, end, step).indices(shape[axis])))
        constants = [self.graph.constant([value]) for value in (start, end, axis, step)]
        return self.graph.add("Slice", x, *constants), (*shape[:axis], size, *shape[axis + 1 :])

    def shuffle(self, x: str, shape: Shape) -> Drawn | None:
        if shape[1] % 2 or shape[1] < 4:
            return None
        n, c, h, w = shape
        batch = 0 if self.batch == "N" else self.batch
        x = self.graph.add("Reshape", x, self.graph.constant([batch, 2, c // 2, h, w]))
        x = self.graph.add("Transpose", x, perm=[0, 2, 1, 3, 4])
        return self.graph.add("Reshape", x, self.graph.constant([batch, c, h, w])), (n, c, h, w)

    def join(self, x: str, shape: Shape) -> Drawn | None:
        others = [one for one in self.values if len(one[1]) == 4 and one[1][2:] == shape[2:]]
        other, sizes = self.pick(*others)
        return self.graph.add("Concat", x, other, axis=1), (shape[0], shape[1] + sizes[1], *shape[2:])


def attempt(seed: int, folder: Path) -> str:
    """passed, refused: why, differs: by how much, or a traceback; "" where ONNX Runtime cannot run the graph."""
    fuzzer = Fuzzer(seed)
    path = folder / "fuzz.onnx"
    try:
        proto = fuzzer.model()
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        step = fuzzer.batch if isinstance(fuzzer.batch, int) else 3
        draw = np.random.default_rng(seed)
        images = draw.normal(0, 2, (6, *fuzzer.input[1:])).astype(np.float32)
        expected = [session.run(None, {"x": images[at : at + step]})[0] for at in range(0, 6, step)]
    except Exception:  # of ONNX and its runtime, of a graph that is none
        return ""
    try:
        network = network_of(path, {}).eval()
        with torch.no_grad():
            output = network(torch.from_numpy(images))
            interface = interface_of(network)
            assert interface is not None
            found = (output.softmax(1) if interface.softmax else output).numpy()
    except ModelError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    wanted = np.concatenate(expected)
    if found.shape != wanted.shape:
        return f"differs: {found.shape} and {wanted.shape}"
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(found)):
        return "differs: in what is finite"
    off = float(np.abs(found - wanted)[finite].max(initial=0) / max(np.abs(wanted[finite]).max(initial=0), 1e-6))
    return "passed" if off < 1e-3 else f"differs: by {off:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tally: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    wrong: list[str] = []
    seed = arguments.seed * 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        while sum(tally.values()) < arguments.count:
            seed += 1
            said = attempt(seed, Path(folder))
            if not said:
                continue
            tally[said.partition(":")[0]] += 1
            if said.startswith("refused"):
                reasons[re.sub(r"\d+(\.\d+)?(e-?\d+)?|/\S+", "_", said)[:120]] += 1
            elif said != "passed":
                wrong.append(f"seed {seed}: {said[:300]}")
                print(wrong[-1], flush=True)
    write_result(RESULT, {"graphs": dict(tally), "wrong": wrong, "refused": dict(reasons.most_common())})
    print(dict(tally))
    for why, count in reasons.most_common(12):
        print(count, why)


if __name__ == "__main__":
    main()
