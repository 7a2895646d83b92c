"""The most memory that activations take at once, at batch 1: what a microcontroller's working memory must hold.

Read off the ONNX file: its operators run in the order of the file, and a tensor lives from the operator that makes it
to the last one that reads it; weights are not counted, inputs and outputs are. As in runtimes that graph their memory,
an elementwise operator writes over an input that nothing reads after it, and a reshape is no copy. Quantised tensors
count in their integer type. A runtime's own buffers (an im2col, say) come on top.

While a search goes on, the same rules are applied to torch's operators on the meta device, with batch-norms taken for
folded; see `compressor.costs.corrected`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compressor.errors import BudgetError, ExportError
from compressor.recipe.cost import Cost, CostContext, ShippedNetwork

if TYPE_CHECKING:
    import onnx
    import torch

    from compressor.models.architecture import Architecture

_CLOSE = 0  # bytes by which an estimate may be too large
_SAME_MEMORY = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "DequantizeLinear"}
_ELEMENTWISE = {
    *("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish"),
    *("Mish", "Tanh", "Softplus", "Softsign", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs", "Floor", "Ceil", "Round"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "BatchNormalization", "QuantizeLinear", "Softmax"),
}


class Step(NamedTuple):
    """An operator.

    Attributes:
        reads: tensors
        makes: tensors
        over: it may write over a tensor that it reads, if that is as large and read by no later one
    """

    reads: tuple[Hashable, ...]
    makes: tuple[Hashable, ...]
    over: bool


def peak(steps: Sequence[Step], sizes: Mapping[Hashable, int], inputs: Iterable[Hashable], kept: Set[Hashable]) -> int:
    """The most bytes that live at one operator.

    Args:
        steps: in the order in which they run
        sizes: {tensor: bytes}
        inputs: tensors that live before the first operator
        kept: tensors that live after the last one
    """
    last = {tensor: index for index, step in enumerate(steps) for tensor in step.reads}
    last |= dict.fromkeys(kept, len(steps))
    live = {tensor: sizes[tensor] for tensor in inputs}
    most = sum(live.values())
    for index, step in enumerate(steps):
        ending = [tensor for tensor in dict.fromkeys(step.reads) if tensor in live and last[tensor] == index]
        made = {tensor: sizes[tensor] for tensor in step.makes}
        if step.over and len(made) == 1:
            size = next(iter(made.values()))
            for tensor in ending:
                if live[tensor] == size:
                    del live[tensor]
                    break
        live |= made
        most = max(most, sum(live.values()))
        for tensor in (*ending, *(tensor for tensor in made if tensor not in last)):
            live.pop(tensor, None)
    return most


# the file ------------------------------------------------------------------------------------------------------------


def of_file(path: Path, input_shape: Sequence[int]) -> int:
    """Peak bytes of the activations of an ONNX file at batch 1, or at the batch that the file fixes.

    Args:
        path: the file; what its nodes compute from weights alone is a weight too
        input_shape: of one sample of the network; gives the sizes that the file leaves open

    Raises:
        ExportError: the size of a tensor cannot be found
    """
    import onnx

    proto = _with_sizes(onnx.load_model(path), input_shape)
    graph = proto.graph
    constant = {weight.name for weight in graph.initializer}
    constant |= {weight.values.name for weight in graph.sparse_initializer}
    inputs = [value.name for value in graph.input if value.name not in constant]
    memory = {name: name for name in inputs}  # {tensor: the one whose memory it is}
    steps = []
    for node in graph.node:
        read, made = ([name for name in names if name] for names in (node.input, node.output))
        if all(name in constant for name in read) and not any(attribute.HasField("g") for attribute in node.attribute):
            constant |= set(made)
            continue
        reads = tuple(memory[name] for name in read if name in memory)
        if node.op_type in _SAME_MEMORY and reads:
            memory[made[0]] = reads[0]
            continue
        memory |= {name: name for name in made}
        steps.append(Step(reads, tuple(made), node.op_type in _ELEMENTWISE))
    kept = {memory[value.name] for value in graph.output if value.name in memory}
    sizes = _sizes(proto, [name for name, memory_of in memory.items() if name == memory_of], path)
    return peak(steps, _quantised(steps, sizes, {*inputs, *kept}), inputs, kept)


def _with_sizes(proto: onnx.ModelProto, input_shape: Sequence[int]) -> onnx.ModelProto:
    """The model with the sizes of its tensors at batch 1, as far as they follow from its nodes."""
    import onnx

    graph, known = proto.graph, {}
    spatial = input_shape[1:] if len(input_shape) == 3 else input_shape
    for value in graph.input:
        rest = iter(spatial)
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                known[dim.dim_param] = size = 1 if place == 0 else next(rest, 1)
                dim.dim_value = size
    for value in (*graph.value_info, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in known:
                dim.dim_value = known[dim.dim_param]
            elif dim.HasField("dim_param"):
                dim.Clear()
    return onnx.shape_inference.infer_shapes(proto, data_prop=True)


def _sizes(proto: onnx.ModelProto, names: Sequence[str], path: Path) -> dict[Hashable, int]:
    """Bytes of these tensors; those that only follow from values are found by running the model."""
    import onnx

    graph = proto.graph
    shaped = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input, *graph.output)}
    sizes: dict[Hashable, int] = {}
    for name in names:
        kind = shaped.get(name)
        if kind is not None and kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            each = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
            sizes[name] = math.prod(int(dim.dim_value) for dim in kind.shape.dim) * int(each)
    return sizes | _run(proto, [name for name in names if name not in sizes], path)


def _run(proto: onnx.ModelProto, names: Sequence[str], path: Path) -> dict[Hashable, int]:
    """Bytes of these tensors when the model has run on zeros."""
    import numpy as np
    import onnx

    from compressor.bench import BenchError, open_session

    if not names:
        return {}
    graph = proto.graph
    given = {value.name for value in graph.output}
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in given)
    feeds = {
        value.name: np.zeros(
            [dim.dim_value for dim in value.type.tensor_type.shape.dim],
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in graph.input
    }
    try:
        with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
            onnx.save_model(proto, Path(folder) / "all.onnx")
            session, _ = open_session(Path(folder) / "all.onnx", provider="cpu", threads=1)
            made = session.run(list(names), feeds)
    except (BenchError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ExportError(
            f"budget.activation_bytes: the sizes of tensors in {path.name} cannot be found: {why}"
        ) from error
    return {name: value.nbytes for name, value in zip(names, made, strict=True)}


def _quantised(steps: Sequence[Step], sizes: Mapping[Hashable, int], fixed: Set[Hashable]) -> dict[Hashable, int]:
    """Sizes where a tensor that is only quantised, or made elementwise into such a one, is an integer already."""
    found = dict(sizes)
    reading: dict[Hashable, list[Step]] = {}
    for step in steps:
        for name in step.reads:
            reading.setdefault(name, []).append(step)
    for step in reversed(steps):
        for name in step.makes:
            readers = reading.get(name, [])
            narrower = [found[after.makes[0]] for after in readers if after.over and len(after.reads) == 1]
            if name not in fixed and readers and len(narrower) == len(readers):
                found[name] = min(found[name], max(narrower))
    return found


# torch's operators ---------------------------------------------------------------------------------------------------


class _Trace(NamedTuple):
    steps: tuple[Step, ...]
    sizes: dict[Hashable, int]  # {tensor: values}
    inputs: tuple[Hashable, ...]
    kept: frozenset[Hashable]

    def peak(self, sizes: Mapping[Hashable, int] | None = None) -> int:
        return peak(self.steps, self.sizes if sizes is None else sizes, self.inputs, self.kept)


def _traced(architecture: Architecture) -> _Trace:
    """What a network's forward pass on one sample makes and reads; tensors are numbered as they come."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from compressor.models import build_meta, example_input

    model = build_meta(architecture).eval()
    given = example_input(architecture, 1).to("meta")
    if not isinstance(given, torch.Tensor):
        raise BudgetError("budget.activation_bytes: is for networks of one input; valid: another cost")
    storages: list[Any] = []  # kept, so that none is taken for another
    numbers: dict[int, int] = {}
    weights: set[int] = set()

    def number(tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        if storage._cdata not in numbers:
            numbers[storage._cdata] = len(storages)
            storages.append(storage)
        return numbers[storage._cdata]

    def tensors(values: Any) -> list[torch.Tensor]:
        return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]

    weights |= {number(tensor) for tensor in (*model.parameters(), *model.buffers())}
    first, steps = number(given), []
    sizes: dict[Hashable, int] = {first: given.numel()}

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            read = [found for tensor in tensors((args, kwargs)) if (found := number(tensor)) not in weights]
            fresh = {number(tensor): tensor for tensor in tensors(made) if number(tensor) not in (*weights, *sizes)}
            if not read:
                weights.update(fresh)
                return made
            if any(tensor.is_floating_point() for tensor in fresh.values()):  # not the places of a max-pool, say
                fresh = {name: tensor for name, tensor in fresh.items() if tensor.is_floating_point()}
            norm = "batch_norm" in func._overloadpacket.__name__
            kept = dict(list(fresh.items())[:1]) if norm else fresh
            sizes.update({name: tensor.numel() for name, tensor in kept.items()})
            over = norm or torch.Tag.pointwise in func.tags or "softmax" in func._overloadpacket.__name__
            steps.append(Step(tuple(read), tuple(kept), over))
            return made

    with torch.no_grad(), Watch():  # type: ignore[no-untyped-call]
        made = model(given)
    kept = frozenset(found for tensor in tensors(made) if (found := number(tensor)) in sizes)
    return _Trace(tuple(steps), sizes, (first,), kept)


class _Lines:
    """The peak of a network at any widths, from traces at a few: every tensor's size is linear in the widths.

    `exact` is false where other widths give other operators.
    """

    def __init__(self, own: Architecture) -> None:
        from compressor.models import steps

        self._own, self._trace = own, _traced(own)
        self._slopes: dict[str, dict[Hashable, float]] = {}
        step = steps(own)
        for name, width in own.widths.items():
            wider = _traced(own.with_widths({**own.widths, name: width + step[name]}))
            self._slopes[name] = {
                tensor: (size - self._trace.sizes[tensor]) / step[name]
                for tensor, size in wider.sizes.items()
                if size != self._trace.sizes.get(tensor, size)
            }
        halves = {name: max(1, width // 2 // step[name]) * step[name] for name, width in own.widths.items()}
        mixed = {name: halves[name] if place % 2 else own.widths[name] for place, name in enumerate(own.widths)}
        self.exact = all(self(widths) == _traced(own.with_widths(widths)).peak() for widths in (halves, mixed))

    def __call__(self, widths: Mapping[str, int]) -> int:
        sizes: dict[Hashable, float] = dict(self._trace.sizes)
        for name, width in widths.items():
            if more := width - self._own.widths[name]:
                for tensor, slope in self._slopes[name].items():
                    sizes[tensor] += slope * more
        return self._trace.peak({tensor: round(size) for tensor, size in sizes.items()})


def values_at_once(architecture: Architecture) -> int:
    """The most values that live at one of torch's operators, for one sample."""
    if not architecture.stacks:
        from compressor.models import version_of

        options = json.dumps(dict(architecture.options), sort_keys=True)
        names = tuple(sorted(architecture.widths))
        version = version_of(architecture.model)
        lines = _lines(architecture.model, options, architecture.classes, architecture.input_shape, names, version)
        if lines is not None and lines.exact:
            return lines(architecture.widths)
    return _traced(architecture).peak()


@lru_cache(maxsize=8)
def _lines(
    model: str, options: str, classes: int, input_shape: tuple[int, ...], names: tuple[str, ...], version: str
) -> _Lines | None:
    from compressor.models import reference_architecture

    own = reference_architecture(model, json.loads(options), classes, input_shape)
    return _Lines(own) if tuple(sorted(own.widths)) == names else None


# the cost ------------------------------------------------------------------------------------------------------------


def _evaluator(context: CostContext) -> Callable[[Architecture], float]:
    from compressor.costs.corrected import corrected

    export, shape = context.recipe.export, context.reference.input_shape
    size = export.bytes_of_value * (export.batch or 1)
    return corrected(
        context,
        lambda path: of_file(path, shape),
        lambda architecture: size * values_at_once(architecture),
        _CLOSE,
        "measuring the activations of the unscaled network's file",
    )


def _shipped(network: ShippedNetwork) -> int:
    return of_file(network.path, network.architecture.input_shape)


COST = Cost(
    name="activation_bytes",
    title="peak activations, bytes",
    description="most memory that activations take at once, at batch 1 or export.batch, such as 256k or 0.5x",
    evaluator=_evaluator,
    shipped=_shipped,
    depends_on=("export",),
    by_channel=False,  # a channel of most layers adds nothing
    along_params=True,
    place=4,
)
