"""What operators do to channels: which operator goes by which rule, and the rules of those that have no weights.

A rule is a function of the tracer and the call; `RULES` has them by the operator's name, without namespace and without
the underscore of in-place forms. What an operator does that no rule knows is not guessed: the channels that it reads
keep their number. The rules of layers are in `compressor.dependency.layer_rules`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from compressor.dependency import layer_rules
from compressor.dependency.calls import Call
from compressor.dependency.slots import along_dim, core_of, living, spread_out, tensors_in
from compressor.dependency.trace import NONE

if TYPE_CHECKING:
    from compressor.dependency.tracer import Tracer

Rule = Callable[["Tracer", Call], None]

NEW_TENSORS = {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "size", "stride", "sym_size"}
_SAME = {"clone", "alias", "detach", "_to_copy", "contiguous", "lift_fresh", "view_as", "to"}
_SHAPED = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
_MOVED = {"t", "permute", "transpose", "expand", "select", "unsqueeze", "squeeze", "unbind", "roll", "flip", "repeat"}
_MOVED |= {"pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "slice", "diagonal", "movedim"}
_PARTS = {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes"}
_REDUCED = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod", "logsumexp"}
_REDUCED |= {"linalg_vector_norm", "norm", "argmax", "argmin", "any", "all", "median", "count_nonzero"}
_SPATIAL = ("pool", "upsample", "reflection_pad", "replication_pad", "circular_pad")  # parts of names
# At every position they give something of that position, though torch does not tag them so; softmax mixes channels, but
# only by a common factor.
_ALIKE = {"hardswish", "bernoulli", "dropout", "native_dropout", "alpha_dropout", "feature_dropout", "fill", "zero"}
_ALIKE |= {"empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "normal", "uniform"}
_ALIKE |= {"softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax", "masked_fill", "prelu"}
_ALIKE |= {"_prelu_kernel", "log_sigmoid_forward", "rrelu_with_noise", "exponential", "random", "bernoulli_scalar"}


def rule_of(func: Any, name: str) -> Rule | None:
    """The rule of an operator, or None if there is none.

    Args:
        func: of torch
        name: of its schema, without namespace and underscore
    """
    if (rule := RULES.get(name)) is not None:
        return rule
    if any(word in name for word in _SPATIAL):
        return spatial
    return pointwise if _elementwise(func, name) else None


def _elementwise(func: Any, name: str) -> bool:
    """Whether every element of the output is made of the inputs' elements of that position."""
    if name in _ALIKE or torch.Tag.pointwise in func.tags:
        return True
    packet = getattr(torch.ops.aten, name, None) if func.namespace == "aten" else None  # the in-place form's original
    return packet is not None and any(torch.Tag.pointwise in getattr(packet, form).tags for form in packet.overloads())


def move(tracer: Tracer, call: Call) -> None:
    """Operators that only move elements: the same is done to the slots."""
    source, name = call.args[0], call.name
    if id(source) in tracer.leaves:
        tracer.leaves.update({id(output): tracer.leaves[id(source)] for output in call.outputs})
    for slots in list(tracer.of(source)):
        if name in _SAME:
            moved = [slots]
        elif name in _SHAPED:
            moved = [slots.reshape(call.output.shape)]
        else:
            moved = list(tensors_in(call.func(slots, *call.args[1:], **call.kwargs)))
        moved = [spread_out(one) for one in moved]
        if name in _SHAPED and len(living(moved[0])) > len(living(slots)):
            tracer.trace.splits.append(core_of(moved[0]).squeeze().numpy())
        _check_parts(tracer, call, slots, moved)
        for output, one in zip(call.outputs, moved, strict=True):
            if bool((core_of(one) >= 0).any()):  # two that now lie along the same dimension are still two
                tracer.slots.setdefault(id(output), []).append(one)


def _check_parts(tracer: Tracer, call: Call, slots: torch.Tensor, moved: list[torch.Tensor]) -> None:
    """Parts of a channel dimension: equal ones must stay equal; channels picked otherwise stay as they are."""
    lives, name, args = living(slots), call.name, call.args
    if name in ("select", "unbind"):
        if len(lives) == 1 and not living(moved[0]):
            tracer.trace.hold(core_of(slots).numpy(), "its channels are picked one by one")
        return
    same = name != "slice" and name not in _PARTS
    cut = [] if same else [dim for dim in lives if slots.shape[dim] != moved[0].shape[dim]]
    if not cut:
        return
    whole, part = slots.shape[cut[0]], moved[0].shape[cut[0]]
    first, step = ((args[2] if len(args) > 2 else 0) or 0, args[4] if len(args) > 4 else 1)
    equal = all(one.shape == moved[0].shape for one in moved) and part > 1 and whole % part == 0
    if not equal or (name == "slice" and (step != 1 or first % whole % part)):
        tracer.trace.hold(core_of(slots).numpy(), "its channels are cut into unequal parts")
        tracer.trace.cuts.append((core_of(slots).numpy(), 0))
        return
    tracer.trace.cuts.append((core_of(slots).numpy(), whole // part))
    rows = core_of(slots).movedim(cut[0], 0)
    tracer.trace.splits.append(rows.reshape(-1, part, *rows.shape[1:]).numpy())


def reduce(tracer: Tracer, call: Call) -> None:
    """Operators that take dimensions away."""
    source = call.args[0]
    arguments = (argument.name for argument in call.func._schema.arguments)
    named = dict(zip(arguments, call.args, strict=False)) | call.kwargs
    dims = named.get("dim")
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return  # all of them: no channel is left
    gone = {dim % source.dim() for dim in ([dims] if isinstance(dims, int) else dims)}
    for slots in list(tracer.of(source)):
        if gone & set(living(slots)):
            continue
        for dim in sorted(gone, reverse=True):
            slots = slots.narrow(dim, 0, 1) if named.get("keepdim") else slots.select(dim, 0)
        for output in call.outputs:
            if output.shape == slots.shape:
                tracer.add(output, slots)


def spatial(tracer: Tracer, call: Call) -> None:
    """Pooling and resizing of images (N, C, …): channels stay."""
    source = call.inputs[0]
    for slots in list(tracer.of(source)):
        lives = living(slots)
        kept = [dim for dim in lives if call.output.shape[dim] == source.shape[dim]]
        if kept == lives and slots.shape == call.output.shape:
            tracer.add(call.output, slots)
        elif 1 in kept:
            vector = tracer.vector(source, 1)
            assert vector is not None
            tracer.add(call.output, along_dim(vector, 1, call.output.shape))
        elif lives:
            tracer.trace.hold(core_of(slots).numpy(), f"{call.name} works along its channels")


def pointwise(tracer: Tracer, call: Call) -> None:
    """Operators on elements of equal position."""
    tracer.pointwise(call.inputs, call.outputs)


def glu(tracer: Tracer, call: Call) -> None:
    """One half of a dimension gates the other: they must stay equal."""
    dim = call.dim(-1)
    for slots in list(tracer.of(call.args[0])):
        left, right = slots.chunk(2, dim)
        if dim in living(slots):
            tracer.tie(left, right)
        tracer.add(call.output, left)


def as_strided(tracer: Tracer, call: Call) -> None:
    """In place it gives other strides, but the same elements; else it is not followed."""
    source = call.args[0]
    if call.output is not source or any(slots.shape != call.output.shape for slots in tracer.of(source)):
        tracer.hold(call.inputs, "the operator as_strided is not understood")


def copy(tracer: Tracer, call: Call) -> None:
    """A tensor is written over another one."""
    target, source = call.args[:2]
    if target._is_view() and not tracer.of(target):
        tracer.hold([source], "it is copied into a part of a tensor")
    tracer.pointwise(call.inputs, call.outputs)


def cat(tracer: Tracer, call: Call) -> None:
    """Slots are put side by side along the dimension; along the others each part has the same channels."""
    dim, output = call.dim(0), call.output
    parts = [part for part in call.args[0] if part.dim() == output.dim()]
    along = []
    for part in parts:
        across = [slots for slots in tracer.of(part) if dim not in living(slots)]
        for slots in across:
            shape = [*slots.shape]
            shape[dim] = output.shape[dim]
            if part.shape[dim] and living(slots):
                tracer.add(output, slots.narrow(dim, 0, 1).expand(shape))
        mine = [slots for slots in tracer.of(part) if dim in living(slots)]
        for extra in mine[1:]:
            tracer.tie(mine[0], extra)
        lone = [slots for slots in across if not living(slots)]  # one channel: it differs along no dimension
        along.append((mine or lone or [torch.full((1,) * part.dim(), NONE).expand(part.shape)])[0])
    tracer.add(output, spread_out(torch.cat(along, dim)))


def stack(tracer: Tracer, call: Call) -> None:
    """Tensors along a new dimension carry the same channels."""
    dim = call.dim(0)
    for part in call.args[0]:
        for slots in tracer.of(part):
            tracer.add(call.output, slots.unsqueeze(dim).expand(call.output.shape))


def constant_pad_nd(tracer: Tracer, call: Call) -> None:
    """What is padded belongs to no channel."""
    output = call.output
    for slots in list(tracer.of(call.args[0])):
        if any(slots.shape[dim] != output.shape[dim] for dim in living(slots)):
            padded = torch.nn.functional.pad(slots, call.args[1], value=NONE)
            tracer.add(output, spread_out(padded))
        else:
            tracer.add(output, core_of(slots).expand(output.shape))


def index(tracer: Tracer, call: Call) -> None:
    """Look-ups: x[index] along leading dimensions keeps the channels of the others."""
    source, where = call.args[0], call.args[1]
    indexed = [dim for dim, chosen in enumerate(where) if chosen is not None]
    first = len(where) - sum(chosen is not None for chosen in where)
    front = indexed == list(range(first, len(where)))  # consecutive: the result stands in their place
    added = call.output.dim() - (source.dim() - len(indexed))
    for slots in list(tracer.of(source)):
        lives = living(slots)
        if not front or set(lives) & set(indexed):
            if lives:
                tracer.trace.hold(core_of(slots).numpy(), "it is indexed")
            continue
        core = core_of(slots)
        for dim in reversed(indexed):
            core = core.select(dim, 0)
        for _ in range(added):
            core = core.unsqueeze(first)
        tracer.add(call.output, core.expand(call.output.shape))


RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME | _SHAPED | _MOVED | _PARTS, move),
    **dict.fromkeys(_REDUCED, reduce),
    "glu": glu,
    "as_strided": as_strided,
    "copy": copy,
    "cat": cat,
    "stack": stack,
    "constant_pad_nd": constant_pad_nd,
    "index": index,
    **layer_rules.RULES,
}
