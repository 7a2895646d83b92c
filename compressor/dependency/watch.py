"""Following the slots of every tensor through a forward pass; see `compressor.dependency.trace`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from compressor.dependency.operators import (
    BATCH_NORMS,
    MOVED,
    NEW_TENSORS,
    PARTS,
    REDUCED,
    SAME,
    SHAPED,
    SPATIAL,
    elementwise,
)
from compressor.dependency.slots import along_dim, core_of, living, spread_out, tensors_in
from compressor.dependency.trace import NONE, Trace


def trace(model: nn.Module, example: torch.Tensor) -> Trace:
    """Watch a network run, in training (auxiliary heads) and in evaluation.

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
        for training in (True, False):
            found.uses.clear()
            found.products = 0
            found.normed.clear()
            watcher = _Watcher(found, model.train(training), example)
            with torch.no_grad(), watcher:
                output = model(example)
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


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the slots of every tensor through one forward pass."""

    def __init__(self, found: Trace, model: nn.Module, example: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = found
        self.batch = len(example)
        self.slots: dict[int, list[torch.Tensor]] = {}
        self.keep: list[torch.Tensor] = []  # an id names a tensor only while that lives
        self.data = {id(example)}  # tensors that depend on the images
        self.leaves: dict[int, str] = {}  # tensors that are a parameter, or a view of it
        self.made: dict[int, str] = {}  # outputs of a weight: its name
        self.normed: dict[int, tuple[str, str]] = {}  # outputs of a batch-norm: (weight before it, its own)
        self.readers: dict[int, list[str]] = {}  # operators that read a tensor
        self.overwritten: set[int] = set()
        self.keep.append(example)
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
            self._add(leaf, along_dim(torch.arange(first, first + length), dim, leaf.shape))

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
            try:
                self._follow(func, name, args, kwargs or {}, inputs, outputs)
            except (RuntimeError, IndexError, TypeError, ValueError) as error:  # a form that no rule has foreseen
                self._hold(inputs, f"the operator {name} is not understood: {' '.join(str(error).split())}")
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

    # rules ---------------------------------------------------------------------------------------------------------

    def _follow(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        inputs: list[torch.Tensor],
        outputs: list[torch.Tensor],
    ) -> None:
        rule: Callable[..., None] | None = getattr(self, f"_op_{name}", None)
        if name in BATCH_NORMS:
            rule = self._op_batch_norm
        if rule is not None:
            rule(args, kwargs, inputs, outputs)
        elif name in SAME | SHAPED | MOVED | PARTS:
            self._move(func, name, args, kwargs, outputs)
        elif name in REDUCED:
            self._reduce(func, args, kwargs, outputs)
        elif any(word in name for word in SPATIAL):
            self._spatial(name, inputs[0], outputs)
        elif elementwise(func, name):
            self._pointwise(inputs, outputs)
        else:
            self._hold(inputs, f"the operator {name} is not understood")

    def _of(self, tensor: Any) -> list[torch.Tensor]:
        return self.slots.get(id(tensor), []) if isinstance(tensor, torch.Tensor) else []

    def _add(self, tensor: torch.Tensor, slots: torch.Tensor) -> None:
        """Give a tensor slots; where it has some along the same dimensions, they carry the same channels."""
        if not bool((core_of(slots) >= 0).any()):
            return
        mine = self.slots.setdefault(id(tensor), [])
        for other in mine:
            if living(other) == living(slots):
                if other is not slots:
                    self._tie(other, slots)
                    if id(tensor) not in self.data:  # parameters that make one weight are read, or make, together
                        self.trace.kin.append((int(core_of(other).max()), int(core_of(slots).max())))
                return
        mine.append(slots)

    def _tie(self, left: torch.Tensor, right: torch.Tensor) -> None:
        left, right = torch.broadcast_tensors(core_of(left), core_of(right))  # type: ignore[no-untyped-call]
        self.trace.tie(left.numpy(), right.numpy())

    def _hold(self, tensors: Iterable[torch.Tensor], reason: str) -> None:
        for tensor in tensors:
            for slots in self._of(tensor):
                self.trace.hold(core_of(slots).numpy(), reason)

    def _vector(self, tensor: Any, dim: int) -> torch.Tensor | None:
        """Slots along one dimension, (length,); where they differ along others as well, those are tied."""
        vector: torch.Tensor | None = None
        for slots in self._of(tensor):
            if dim % slots.dim() not in living(slots):
                continue
            core = core_of(slots).movedim(dim, 0)
            rows = core.reshape(len(core), -1)
            one = rows.amax(1)
            self._tie(rows, one[:, None])
            if vector is not None:
                self._tie(vector, one)
            vector = one if vector is None else vector
        return vector

    def _move(self, func: Any, name: str, args: Any, kwargs: Any, outputs: list[torch.Tensor]) -> None:
        """Operators that only move elements: do the same to the slots."""
        source = args[0]
        if id(source) in self.leaves:
            self.leaves.update({id(output): self.leaves[id(source)] for output in outputs})
        for slots in list(self._of(source)):
            if name in SAME:
                moved = [slots]
            elif name in SHAPED:
                moved = [slots.reshape(outputs[0].shape)]
            else:
                moved = list(tensors_in(func(slots, *args[1:], **kwargs)))
            moved = [spread_out(one) for one in moved]
            if name in SHAPED and len(living(moved[0])) > len(living(slots)):
                self.trace.splits.append(core_of(moved[0]).squeeze().numpy())
            self._check_parts(name, args, slots, moved)
            for output, one in zip(outputs, moved, strict=True):
                if bool((core_of(one) >= 0).any()):  # two that now lie along the same dimension are still two
                    self.slots.setdefault(id(output), []).append(one)

    def _check_parts(self, name: str, args: Any, slots: torch.Tensor, moved: list[torch.Tensor]) -> None:
        """Parts of a channel dimension: equal ones must stay equal; channels picked otherwise stay as they are."""
        lives = living(slots)
        if name in ("select", "unbind"):
            if len(lives) == 1 and not living(moved[0]):
                self.trace.hold(core_of(slots).numpy(), "its channels are picked one by one")
            return
        same = name != "slice" and name not in PARTS
        cut = [] if same else [dim for dim in lives if slots.shape[dim] != moved[0].shape[dim]]
        if not cut:
            return
        whole, part = slots.shape[cut[0]], moved[0].shape[cut[0]]
        first, step = ((args[2] if len(args) > 2 else 0) or 0, args[4] if len(args) > 4 else 1)
        equal = all(one.shape == moved[0].shape for one in moved) and part > 1 and whole % part == 0
        if not equal or (name == "slice" and (step != 1 or first % whole % part)):
            self.trace.hold(core_of(slots).numpy(), "its channels are cut into unequal parts")
            return
        rows = core_of(slots).movedim(cut[0], 0)
        self.trace.splits.append(rows.reshape(-1, part, *rows.shape[1:]).numpy())

    def _reduce(self, func: Any, args: Any, kwargs: Any, outputs: list[torch.Tensor]) -> None:
        source = args[0]
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        dims = named.get("dim")
        if dims is None or (isinstance(dims, (list, tuple)) and not dims):
            return  # all of them: no channel is left
        gone = {dim % source.dim() for dim in ([dims] if isinstance(dims, int) else dims)}
        for slots in list(self._of(source)):
            if gone & set(living(slots)):
                continue
            for dim in sorted(gone, reverse=True):
                slots = slots.narrow(dim, 0, 1) if named.get("keepdim") else slots.select(dim, 0)
            for output in outputs:
                if output.shape == slots.shape:
                    self._add(output, slots)

    def _spatial(self, name: str, source: torch.Tensor, outputs: list[torch.Tensor]) -> None:
        """Pooling and resizing of images (N, C, …): channels stay."""
        for slots in list(self._of(source)):
            lives = living(slots)
            kept = [dim for dim in lives if outputs[0].shape[dim] == source.shape[dim]]
            if kept == lives and slots.shape == outputs[0].shape:
                self._add(outputs[0], slots)
            elif 1 in kept:
                vector = self._vector(source, 1)
                assert vector is not None
                self._add(outputs[0], along_dim(vector, 1, outputs[0].shape))
            elif lives:
                self.trace.hold(core_of(slots).numpy(), f"{name} works along its channels")

    def _pointwise(self, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """Operators on elements of equal position."""
        for output in outputs:
            for tensor in inputs:
                for slots in list(self._of(tensor)):
                    self._add(output, slots.expand(output.shape))

    def _op_glu(self, args: Any, kwargs: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        dim = (args[1] if len(args) > 1 else kwargs.get("dim", -1)) % args[0].dim()
        for slots in list(self._of(args[0])):
            left, right = slots.chunk(2, dim)
            if dim in living(slots):
                self._tie(left, right)
            self._add(outputs[0], left)

    def _op_as_strided(self, args: Any, kwargs: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        if outputs[0] is not args[0] or any(slots.shape != outputs[0].shape for slots in self._of(args[0])):
            self._hold(inputs, "the operator as_strided is not understood")  # in place: other strides, same elements

    def _op_copy(self, args: Any, kwargs: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        if args[0]._is_view() and not self._of(args[0]):
            self._hold([args[1]], "it is copied into a part of a tensor")
        self._pointwise(inputs, outputs)

    def _op_cat(self, args: Any, kwargs: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % outputs[0].dim()
        parts = [part for part in args[0] if part.dim() == outputs[0].dim()]
        along = []
        for part in parts:
            across = [slots for slots in self._of(part) if dim not in living(slots)]
            for slots in across:  # each part has the same channels along the other dimensions
                shape = [*slots.shape]
                shape[dim] = outputs[0].shape[dim]
                if part.shape[dim] and living(slots):
                    self._add(outputs[0], slots.narrow(dim, 0, 1).expand(shape))
            mine = [slots for slots in self._of(part) if dim in living(slots)]
            for extra in mine[1:]:
                self._tie(mine[0], extra)
            lone = [slots for slots in across if not living(slots)]  # one channel: it differs along no dimension
            along.append((mine or lone or [torch.full((1,) * part.dim(), NONE).expand(part.shape)])[0])
        self._add(outputs[0], spread_out(torch.cat(along, dim)))

    def _op_stack(self, args: Any, kwargs: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % outputs[0].dim()
        for part in args[0]:
            for slots in self._of(part):
                self._add(outputs[0], slots.unsqueeze(dim).expand(outputs[0].shape))

    def _op_constant_pad_nd(self, args: Any, kwargs: Any, inputs: Any, outputs: list[torch.Tensor]) -> None:
        output = outputs[0]
        for slots in list(self._of(args[0])):
            lives = living(slots)
            if any(slots.shape[dim] != output.shape[dim] for dim in lives):
                padded = torch.nn.functional.pad(slots, args[1], value=NONE)
                self._add(output, spread_out(padded))
            else:
                core = core_of(slots)
                self._add(output, core.expand(output.shape))

    def _op_index(self, args: Any, kwargs: Any, inputs: Any, outputs: list[torch.Tensor]) -> None:
        """Look-ups: x[index] along leading dimensions keeps the channels of the others."""
        source, where = args[0], args[1]
        indexed = [dim for dim, index in enumerate(where) if index is not None]
        first = len(where) - sum(index is not None for index in where)
        front = indexed == list(range(first, len(where)))  # consecutive: the result stands in their place
        added = outputs[0].dim() - (source.dim() - len(indexed))
        for slots in list(self._of(source)):
            lives = living(slots)
            if not front or set(lives) & set(indexed):
                if lives:
                    self.trace.hold(core_of(slots).numpy(), "it is indexed")
                continue
            core = core_of(slots)
            for dim in reversed(indexed):
                core = core.select(dim, 0)
            for _ in range(added):
                core = core.unsqueeze(first)
            self._add(outputs[0], core.expand(outputs[0].shape))

    def _op_embedding(self, args: Any, kwargs: Any, inputs: Any, outputs: list[torch.Tensor]) -> None:
        if (vector := self._vector(args[0], 1)) is not None:
            self.trace.produced.append(vector.numpy())
            self._add(outputs[0], along_dim(vector, -1, outputs[0].shape))

    def _op_batch_norm(self, args: Any, kwargs: Any, inputs: Any, outputs: list[torch.Tensor]) -> None:
        source, output = args[0], outputs[0]
        vector = self._vector(source, 1)
        for tensor in args[1:5]:
            if isinstance(tensor, torch.Tensor) and (own := self._vector(tensor, 0)) is not None:
                if vector is not None:
                    self._tie(vector, own)
                vector = own if vector is None else vector
        if vector is not None:
            self._add(output, along_dim(vector, 1, output.shape))
        for slots in list(self._of(source)):
            if 1 not in living(slots):
                self._add(output, slots)
        weight = self.made.get(id(source))
        norm = self.leaves.get(id(args[1]))
        if weight is not None and norm is not None:
            self.normed[id(output)] = weight, norm

    def _op_native_layer_norm(self, args: Any, kwargs: Any, inputs: Any, outputs: list[torch.Tensor]) -> None:
        self._pointwise([args[0], *(t for t in args[2:4] if t is not None)], outputs[:1])

    def _op__weight_norm_interface(self, args: Any, kwargs: Any, inputs: Any, outputs: list[torch.Tensor]) -> None:
        self._pointwise(inputs, outputs[:1])

    def _op_native_group_norm(self, args: Any, kwargs: Any, inputs: Any, outputs: list[torch.Tensor]) -> None:
        source, groups = args[0], args[6]
        vector = self._vector(source, 1)
        for tensor in args[1:3]:
            own = self._vector(tensor, 0)
            if vector is not None and own is not None:
                self._tie(vector, own)
        if vector is None:
            return
        if groups > 1:
            self._even(vector, groups)
            self.trace.divided.append((vector.numpy(), groups))
        self._add(outputs[0], along_dim(vector, 1, outputs[0].shape))

    def _op_convolution(self, args: Any, kwargs: Any, inputs: Any, outputs: list[torch.Tensor]) -> None:
        source, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
        output = outputs[0]
        into, out_of = (0, 1) if transposed else (1, 0)
        enters, leaves = self._vector(source, 1), self._vector(weight, out_of)
        if groups == 1:
            self._read(enters, self._vector(weight, into))
            made = leaves
        else:
            made = self._grouped(enters, weight, transposed, groups, output.shape[1])
        if made is not None:
            self._add(output, along_dim(made, 1, output.shape))
            if (own := self._vector(bias, 0)) is not None:
                self._tie(made, own)
        if leaves is not None and not self._channelwise(weight, transposed, groups):
            self.trace.produced.append(leaves.numpy())
        for slots in self._of(source):  # channels that lie along an image's side (ECA)
            along = [dim for dim in living(slots) if dim > 1]
            if along and 1 not in living(slots):
                if all(source.shape[dim] == output.shape[dim] for dim in along):
                    self._add(output, core_of(slots).select(1, 0).unsqueeze(1).expand(output.shape))
                else:
                    self.trace.hold(core_of(slots).numpy(), "a convolution works along its channels")
        if (name := self.leaves.get(id(weight))) is not None:
            self.trace.uses[name] += (source if transposed else output)[0, 0].numel()
            self.made[id(output)] = name

    @staticmethod
    def _channelwise(weight: torch.Tensor, transposed: bool, groups: int) -> bool:
        """Whether each input channel has filters of its own (depth-wise)."""
        return groups > 1 and (weight.shape[0] == groups if transposed else weight.shape[1] == 1)

    def _grouped(
        self, enters: torch.Tensor | None, weight: torch.Tensor, transposed: bool, groups: int, width: int
    ) -> torch.Tensor | None:
        """A convolution in groups, whose number stays: every group keeps as many channels as the others."""
        rows = self._vector(weight, 0)
        if self._channelwise(weight, transposed, groups):
            # One filter or more for each channel: they go with it.
            own = rows if rows is None else rows.view(groups, -1)
            if own is not None:
                self._tie(own, own[:, :1] if enters is None else enters[:, None])
            if transposed and weight.shape[1] > 1:
                return None
            if own is not None:
                return own.flatten()
            return None if enters is None else enters[:, None].expand(groups, width // groups).flatten()
        reads, makes = self._vector(weight, 1), rows
        if transposed:
            for vector in (reads, makes, enters):
                if vector is not None:
                    self.trace.hold(vector.numpy(), "a transposed convolution in groups is not supported")
            return None
        if makes is not None:
            self.trace.divided.append((makes.numpy(), groups))
        if reads is not None:
            if enters is not None:
                self._tie(enters.view(groups, -1), reads[None])
            self.trace.read.append(reads.numpy())
        self._even(makes, groups)
        return makes

    def _even(self, vector: torch.Tensor | None, groups: int) -> None:
        if vector is not None:
            parts = vector.view(groups, -1)
            self._tie(parts, parts[:1])

    def _read(self, enters: torch.Tensor | None, reads: torch.Tensor | None) -> None:
        if reads is not None:
            self.trace.read.append(reads.numpy())
            if enters is not None:
                self._tie(enters, reads)

    def _op_addmm(self, args: Any, kwargs: Any, inputs: Any, outputs: list[torch.Tensor]) -> None:
        self._product(args[1], args[2], outputs[0])
        self._pointwise([args[0]], outputs)

    _op_baddbmm = _op_addmm

    def _op_mm(self, args: Any, kwargs: Any, inputs: Any, outputs: list[torch.Tensor]) -> None:
        self._product(args[0], args[1], outputs[0])

    _op_bmm = _op_mm
    _op_mv = _op_mm

    def _product(self, left: torch.Tensor, right: torch.Tensor, output: torch.Tensor) -> None:
        """A matrix product; of activations and weights, or of two activations."""
        row, column = left.dim() - 1, max(right.dim() - 2, 0)  # the dimensions summed over
        weighted = (id(left) in self.data) != (id(right) in self.data)
        if weighted:
            weight, data = (right, left) if id(left) in self.data else (left, right)
            over, other = (column, row) if weight is right else (row, column)
            self._read(self._vector(data, other), self._vector(weight, over))
            free = next((dim for dim in (weight.dim() - 1, weight.dim() - 2) if dim != over and dim >= 0), None)
            if free is not None and (made := self._vector(weight, free)) is not None:
                self.trace.produced.append(made.numpy())
            if (name := self.leaves.get(id(weight))) is not None:
                self.trace.uses[name] += data.numel() // data.shape[other] // self.batch
                self.made[id(output)] = name
        else:
            self.trace.products += output.numel() * left.shape[row] // self.batch
            self._tie_summed(left, row, right, column)
        for tensor, over, at in ((left, row, -1), (right, column, -2)):
            for slots in list(self._of(tensor)):
                if over in living(slots) or not living(slots):
                    continue
                core = core_of(slots).select(over, 0)
                self._add(output, (core.unsqueeze(at) if right.dim() > 1 else core).expand(output.shape))

    def _tie_summed(self, left: torch.Tensor, row: int, right: torch.Tensor, column: int) -> None:
        for one in self._of(left):
            for two in self._of(right):
                if row in living(one) and column in living(two):
                    first, second = core_of(one).movedim(row, -1), core_of(two).movedim(column, -1)
                    self._tie(first, second)
                    self.trace.summed.append(first.flatten().numpy())
