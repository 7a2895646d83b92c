"""Following the slots of every tensor through a forward pass; see `compressor.dependency.trace`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from compressor.dependency.calls import Call
from compressor.dependency.inputs import AnyInputs, Inputs, modes_of, run
from compressor.dependency.rules import NEW_TENSORS, rule_of
from compressor.dependency.slots import along_dim, core_of, living, tensors_in
from compressor.dependency.trace import Trace


def trace(model: nn.Module, example: AnyInputs) -> Trace:
    """Watch a network run, in training (auxiliary heads) and in evaluation.

    Where it does not run in training, since it wants targets then, say, it is watched in evaluation alone.

    Args:
        model: left in evaluation mode; the meta device will do
        example: (N, …) on the same device

    Raises:
        Exception: whatever the network's own code raises
    """
    found = Trace()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its one fused operator would hide what is inside
    try:
        for training in modes_of(model, example):
            found.uses.clear()
            found.products = 0
            found.normed.clear()
            given = example.clone()  # a network may change what it is given
            watcher = Tracer(found, model.train(training), given)
            with torch.no_grad(), watcher:
                output = run(model, given)
            watcher.finish(output)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return found


def _outputs_of(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operator gives; on the meta device some take torch milliseconds, of which only the shapes are used."""
    if isinstance(args[0] if args else None, torch.Tensor) and args[0].device.type == "meta":
        if func in (torch.ops.aten.hardtanh.default, torch.ops.aten.hardswish.default):
            return torch.empty_like(args[0])
        if func in (torch.ops.aten.hardtanh_.default, torch.ops.aten.hardswish_.default):
            return args[0]
        if func is torch.ops.aten.native_batch_norm.default:
            statistics = args[0].new_empty(args[0].shape[1] if args[5] else 0)
            return torch.empty_like(args[0]), statistics, torch.empty_like(statistics)
    return func(*args, **kwargs)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the slots of every tensor through one forward pass; what operators do to them, `RULES` say.

    Attributes:
        trace: what was seen so far
        batch: samples of the pass
        slots: {id of a tensor: its slots}
        data: ids of the tensors that depend on the inputs
        leaves: {id of a tensor that is a parameter, or a view of it: its name}
        made: {id of the output of a weight: the weight's name}
        normed: {id of the output of a batch-norm: (name of the weight before it, its own)}
    """

    def __init__(self, found: Trace, model: nn.Module, example: AnyInputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = found
        self.batch = len(example)
        given = example.tensors if isinstance(example, Inputs) else [example]
        self.slots: dict[int, list[torch.Tensor]] = {}
        self.keep: list[torch.Tensor] = []  # an id names a tensor only while that lives
        self.data = {id(tensor) for tensor in given}  # tensors that depend on the images
        self.leaves: dict[int, str] = {}  # tensors that are a parameter, or a view of it
        self.made: dict[int, str] = {}  # outputs of a weight: its name
        self.normed: dict[int, tuple[str, str]] = {}  # outputs of a batch-norm: (weight before it, its own)
        self.readers: dict[int, list[str]] = {}  # operators that read a tensor
        self.overwritten: set[int] = set()
        self.keep += given
        for path, module in model.named_modules():
            kernel = isinstance(module, nn.modules.conv._ConvNd)
            for name, leaf in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                self._leaf(f"{path}.{name}".lstrip("."), leaf, 2 if kernel else leaf.dim())

    def _leaf(self, name: str, leaf: torch.Tensor, dims: int) -> None:
        """Number the slots of a parameter's first dimensions; the taps of a kernel are no channels."""
        if not leaf.is_floating_point() or leaf.dim() == 0:
            return
        self.keep.append(leaf)
        self.leaves[id(leaf)] = name
        self.slots[id(leaf)] = []
        for dim, length in enumerate(leaf.shape[:dims]):
            if (name, dim) not in self.trace.axes:
                self.trace.axes[name, dim] = self.trace.count
                self.trace.lengths[name, dim] = length
                self.trace.count += length
            first = self.trace.axes[name, dim]
            self.add(leaf, along_dim(torch.arange(first, first + length), dim, leaf.shape))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _outputs_of(func, args, kwargs or {})
        inputs = list(tensors_in([args, kwargs or {}]))
        name = func._schema.name.split("::")[1]
        name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        outputs = list(tensors_in(result))
        for tensor in inputs:
            if id(tensor) not in self.overwritten:
                self.readers.setdefault(id(tensor), []).append(name)
            if any(tensor is output for output in outputs):
                self.overwritten.add(id(tensor))  # who reads it now reads what this operator made of it
        self.keep += outputs
        if any(id(tensor) in self.data for tensor in inputs):
            self.data.update(map(id, outputs))
        if outputs and name not in NEW_TENSORS and any(self.slots.get(id(tensor)) for tensor in inputs):
            self._follow(Call(func, name, args, kwargs or {}, inputs, outputs))
        return result

    def finish(self, output: Any) -> None:
        """Hold the output's channels, and note which batch-norms stand alone between their neighbours."""
        for tensor in tensors_in(output if not hasattr(output, "to_tuple") else output.to_tuple()):
            for slots in self.slots.get(id(tensor), ()):
                self.trace.hold(core_of(slots).numpy(), "its width is the network's output")
        before = Counter(self.made.values())
        after = Counter(weight for weight, _ in self.normed.values())
        for key, (weight, norm) in self.normed.items():
            source = next(made for made, name in self.made.items() if name == weight)
            if before[weight] == after[weight] == 1 and len(self.readers[source]) == 1:
                self.trace.normed[weight] = norm, frozenset(self.readers.get(key, ()))

    def _follow(self, call: Call) -> None:
        rule = rule_of(call.func, call.name)
        if rule is None:
            self.hold(call.inputs, f"the operator {call.name} is not understood")
            return
        try:
            rule(self, call)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:  # a form that it has not foreseen
            self.hold(call.inputs, f"the operator {call.name} is not understood: {' '.join(str(error).split())}")

    def of(self, tensor: Any) -> list[torch.Tensor]:
        """The slots that a tensor has; of one that carries several kinds of channels there are as many."""
        return self.slots.get(id(tensor), []) if isinstance(tensor, torch.Tensor) else []

    def add(self, tensor: torch.Tensor, slots: torch.Tensor) -> None:
        """Give a tensor slots; where it has some along the same dimensions, they carry the same channels."""
        if not bool((core_of(slots) >= 0).any()):
            return
        mine = self.slots.setdefault(id(tensor), [])
        for other in mine:
            if living(other) == living(slots):
                if other is not slots:
                    self.tie(other, slots)
                    if id(tensor) not in self.data:  # parameters that make one weight are read, or make, together
                        self.trace.kin.append((int(core_of(other).max()), int(core_of(slots).max())))
                return
        mine.append(slots)

    def tie(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Channels at equal positions go together."""
        left, right = torch.broadcast_tensors(core_of(left), core_of(right))  # type: ignore[no-untyped-call]
        self.trace.tie(left.numpy(), right.numpy())

    def hold(self, tensors: Iterable[torch.Tensor], reason: str) -> None:
        """Channels of these tensors keep their number."""
        for tensor in tensors:
            for slots in self.of(tensor):
                self.trace.hold(core_of(slots).numpy(), reason)

    def vector(self, tensor: Any, dim: int) -> torch.Tensor | None:
        """Slots along one dimension, (length,); where they differ along others as well, those are tied."""
        vector: torch.Tensor | None = None
        for slots in self.of(tensor):
            if dim % slots.dim() not in living(slots):
                continue
            core = core_of(slots).movedim(dim, 0)
            rows = core.reshape(len(core), -1)
            one = rows.amax(1)
            self.tie(rows, one[:, None])
            if vector is not None:
                self.tie(vector, one)
            vector = one if vector is None else vector
        return vector

    def pointwise(self, inputs: Iterable[torch.Tensor], outputs: Iterable[torch.Tensor]) -> None:
        """Every element of the outputs is made of the inputs' elements of that position."""
        for output in outputs:
            for tensor in inputs:
                for slots in list(self.of(tensor)):
                    self.add(output, slots.expand(output.shape))
